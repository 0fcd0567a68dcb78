"""`llamakit config`: every setting and where it came from."""

from __future__ import annotations

import click
from llamakit.plugins.frontends.cli.params import Context, json_option

from llamakit.errors import UsageError
from llamakit.options import OptionField, near
from llamakit.terminal import json_text


@click.command()
@json_option
@click.option("--changed", is_flag=True, help="Only what is not a default.")
@click.option("--keys", is_flag=True, help="What each setting means and which values it takes, instead.")
@click.argument("section", default="")
@click.pass_context
def config(ctx: click.Context, as_json: bool, changed: bool, keys: bool, section: str) -> None:
    """Show every setting (or those of a SECTION) and where it came from.

    \b
    llamakit config --changed
    llamakit config --keys sampling
    """
    composed = Context(ctx).config
    settings = {k: s for k, s in composed.settings.items() if not section or f"{k}.".startswith(f"{section}.")}
    if not settings:
        sections = sorted({key.rpartition(".")[0] for key in composed.schema} - {""})
        raise UsageError(f"no section {section!r}", found=near(section, sections), param="section")
    if keys:
        _print_keys({key: composed.schema[key] for key in settings}, as_json)
        return
    shown = {key: s for key, s in settings.items() if not changed or s.origin != "default"}
    if as_json:
        click.echo(json_text(shown))
        return
    width = max((len(key) for key in shown), default=0)
    for key, setting in shown.items():
        click.echo(f"{key:<{width}}  {json_text(setting.value):<12}  {setting.origin}")


def _print_keys(schema: dict[str, OptionField], as_json: bool) -> None:
    """Key, description, possible values and default."""
    if as_json:
        click.echo(json_text(schema))
        return
    for key, field in schema.items():
        default = f"default {field.shown_default}" if field.shown_default else ""
        possible = ", ".join(part for part in (field.possible, default) if part)
        click.echo(f"{key}  [{possible}]\n    {field.description}")
