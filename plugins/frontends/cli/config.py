"""`llamakit config`: every setting and where it came from."""

from __future__ import annotations

import click
from llamakit.plugins.frontends.cli.params import Context, json_option


@click.command()
@json_option
@click.option("--changed", is_flag=True, help="Only what is not a default.")
@click.pass_context
def config(ctx: click.Context, as_json: bool, changed: bool) -> None:
    """Show every setting and where it came from: default, file, environment or command line."""
    import msgspec

    settings = Context(ctx).config.settings
    shown = {key: s for key, s in settings.items() if not changed or s.origin != "default"}
    if as_json:
        click.echo(msgspec.json.encode(shown).decode())
        return
    width = max((len(key) for key in shown), default=0)
    for key, setting in shown.items():
        click.echo(f"{key:<{width}}  {msgspec.json.encode(setting.value).decode():<12}  {setting.origin}")
