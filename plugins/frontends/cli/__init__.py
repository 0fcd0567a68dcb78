"""The `cli` frontend: the commands of `llamakit`, one file each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from llamakit.frontend import Frontend
from llamakit.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    import click

COMMANDS = {
    "chat": "chat",
    "generate": "generate",
    "embed": "embed",
    "tokenize": "tokenize",
    "detokenize": "tokenize",
    "data": "data",
    "train": "train",
    "finetune": "finetune",
    "quantize": "quantize",
    "lora": "lora",
    "export-lora": "export_lora",
    "convert-checkpoint": "convert_checkpoint",
    "train-text-from-scratch": "tools_2023",
    "inspect": "inspect",
    "grammar": "grammar",
    "json-schema-to-grammar": "json_schema_to_grammar",
    "bench": "bench",
    "perplexity": "perplexity",
    "plugins": "plugins",
    "config": "config",
    "doctor": "doctor",
    "completion": "completion",
}


class CLI(Frontend):
    """Imports the file of a command when the command is asked for."""

    name = "cli"
    summary = "the commands of llamakit"

    def commands(self) -> Iterable[click.Command]:
        """All of them, imported."""
        return [self.command(name) for name in COMMANDS]

    def command(self, name: str) -> click.Command:
        """One of them."""
        module = importlib.import_module(f"llamakit.plugins.frontends.cli.{COMMANDS[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command


@hookimpl
def llamakit_frontends() -> list[type[Frontend]]:
    """Give the registry this plugin's frontend."""
    return [CLI]
