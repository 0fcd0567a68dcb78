"""An architecture: a relative of LLaMA whose files have a name of their own."""

from __future__ import annotations

from llamakit.hookspecs import hookimpl
from llamakit.models import Architecture, LlamaFamily


class ExampleLlama(LlamaFamily):
    """Built as LLaMA is."""

    name = "example-llama"
    summary = "LLaMA under another name"


@hookimpl
def llamakit_architectures() -> list[type[Architecture]]:
    """This package's architecture."""
    return [ExampleLlama]
