"""`llamakit plugins`: what is installed, and why something is not available."""

from __future__ import annotations

import click
from llamakit.plugins.frontends.cli.params import json_option

from llamakit.registry import KINDS


@click.command()
@json_option
@click.option("--kind", type=click.Choice(KINDS), help="Only this kind.")
def plugins(as_json: bool, kind: str | None) -> None:
    """Show what is installed, and why something is not available."""
    import msgspec

    from llamakit.registry import Registry

    infos = Registry.discover().plugins(kind)
    if as_json:
        click.echo(msgspec.json.encode(infos).decode())
        return
    width = max(len(info.name) for info in infos)
    for info in infos:
        state = click.style("ok", fg="green") if info.available else click.style("--", fg="red")
        text = info.summary if info.available else info.reason
        click.echo(f"{state}  {info.kind:<12} {info.name:<{width}}  {info.package} {info.version}  {text}")
