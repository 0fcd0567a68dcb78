"""LLaMA 1 to 3, Mistral and Mixtral: the family itself."""

from __future__ import annotations

from llamakit.hookspecs import hookimpl
from llamakit.models import Architecture, LlamaFamily


class Llama(LlamaFamily):
    """arXiv:2302.13971; Mistral, arXiv:2310.06825; Mixtral, arXiv:2401.04088."""

    name = "llama"
    summary = "LLaMA, Mistral, Mixtral and what is built alike"


class Mistral(LlamaFamily):
    """Under a name of its own."""

    name = "mistral"
    summary = "Mistral under its own name"


@hookimpl
def llamakit_architectures() -> list[type[Architecture]]:
    """Give the registry this plugin's architectures."""
    return [Llama, Mistral]
