"""LoRA adapters as files: written, converted between formats, and merged into models.

`llamakit.models.lora` reads an adapter for a model that will run it; this room knows files only.
"""
