"""Qwen3: Qwen2 without the biases, with an RMS norm of each head's queries and keys. arXiv:2505.09388."""

from __future__ import annotations

from llamakit.hookspecs import hookimpl
from llamakit.models import Architecture, LlamaFamily, Variant


class Qwen3(LlamaFamily):
    """The dense models."""

    name = "qwen3"
    summary = "Qwen3"
    variant = Variant(rope_pairs="halves", qk_norm=True)


class Qwen3MoE(Qwen3):
    """Its experts are in the metadata, as Mixtral's are."""

    name = "qwen3moe"
    summary = "Qwen3 with experts"


@hookimpl
def llamakit_architectures() -> list[type[Architecture]]:
    """Give the registry this plugin's architectures."""
    return [Qwen3, Qwen3MoE]
