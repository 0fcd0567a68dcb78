"""A frontend with one command."""

from __future__ import annotations

from collections.abc import Iterable

import click

from llamakit.frontend import Frontend
from llamakit.hookspecs import hookimpl


@click.command()
@click.argument("name", default="world")
def greet(name: str) -> None:
    """Greet NAME."""
    click.echo(f"hello {name}")


class Example(Frontend):
    """One command."""

    name = "example"
    summary = "greets"

    def commands(self) -> Iterable[click.Command]:
        """The command."""
        return [greet]


@hookimpl
def llamakit_frontends() -> list[type[Frontend]]:
    """This package's frontend."""
    return [Example]
