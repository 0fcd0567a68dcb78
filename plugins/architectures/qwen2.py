"""Qwen2: LLaMA with rope on halves of a head; its biases on q, k and v are found in the file. arXiv:2407.10671."""

from __future__ import annotations

from llamakit.hookspecs import hookimpl
from llamakit.models import Architecture, LlamaFamily, Variant


class Qwen2(LlamaFamily):
    """Also Qwen2.5."""

    name = "qwen2"
    summary = "Qwen2 and Qwen2.5"
    variant = Variant(rope_pairs="halves")


@hookimpl
def llamakit_architectures() -> list[type[Architecture]]:
    """Give the registry this plugin's architectures."""
    return [Qwen2]
