"""The `rest` frontend: `llamakit serve`, a REST server on Falcon and waitress, with a web page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.frontends.rest.options import ServeOptions

from llamakit.frontend import Frontend
from llamakit.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    import click


class REST(Frontend):
    """Gives the `serve` command."""

    name = "rest"
    summary = "REST API and web page"
    Options = ServeOptions

    def commands(self) -> Iterable[click.Command]:
        """The command, imported when it is asked for."""
        return [self.command("serve")]

    def command(self, name: str) -> click.Command:
        """The one command there is."""
        from llamakit.plugins.frontends.rest.command import serve

        command: click.Command = serve
        return command


@hookimpl
def llamakit_frontends() -> list[type[Frontend]]:
    """Give the registry this plugin's frontend."""
    return [REST]
