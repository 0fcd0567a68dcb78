"""`llamakit plugins`: what is installed, and why something is not available."""

from __future__ import annotations

import textwrap

import click
from llamakit.plugins.frontends.cli.params import json_option

from llamakit.registry import KINDS
from llamakit.terminal import json_text


@click.command()
@json_option
@click.option("--kind", type=click.Choice(KINDS), help="Only this kind.")
def plugins(as_json: bool, kind: str | None) -> None:
    """Show what is installed, and why something is not available."""
    from llamakit.registry import Registry

    infos = Registry.discover().plugins(kind)
    if as_json:
        click.echo(json_text(infos))
        return
    width = max(len(info.name) for info in infos)
    for info in infos:
        state = click.style("ok", fg="green") if info.available else click.style("--", fg="red")
        text = info.summary if info.available else info.reason
        package = "" if info.package == "llamakit" else f"{info.package} {info.version}: "
        head = f"  {info.kind:<12} {info.name:<{width}}  "
        lines = textwrap.wrap(f"{package}{text}", max(20, 78 - len(head)), break_on_hyphens=False) or [""]
        click.echo(state + head + f"\n  {' ' * len(head)}".join(lines))
