"""`llamakit json-schema-to-grammar`: a JSON Schema as GBNF, under the name that scripts of 2023 know."""

from __future__ import annotations

from typing import Any

import click
from llamakit.plugins.frontends.cli.params import read_text

from llamakit.errors import UsageError


@click.command("json-schema-to-grammar")
@click.argument("file", metavar="FILE")
@click.option("--prop-order", metavar="NAMES", help="Properties that come first wherever they occur, such as id,name.")
@click.option("--lenient", is_flag=True, help="Leave out what cannot be enforced.")
def json_schema_to_grammar(file: str, prop_order: str | None, lenient: bool) -> None:
    """Write the grammar of a JSON Schema in FILE (- is standard input) to standard output.

    \b
    llamakit json-schema-to-grammar person.json > person.gbnf
    """
    import msgspec

    from llamakit.grammar import json_schema_to_grammar

    schema: Any = read_text(file)
    if prop_order:
        try:
            schema = _ordered(msgspec.json.decode(schema), prop_order.split(","))
        except (msgspec.DecodeError, RecursionError) as error:
            raise UsageError(f"{file} is not JSON: {error}") from None
    click.echo(json_schema_to_grammar(schema, lenient=lenient), nl=False)


def _ordered(schema: Any, first: list[str]) -> Any:
    """The schema with these properties before the others, which stay as they are declared."""
    if isinstance(schema, list):
        return [_ordered(part, first) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _ordered(part, first) for key, part in schema.items()}
    properties = found.get("properties")
    if isinstance(properties, dict):
        names = [name for name in first if name in properties]
        found["properties"] = {name: properties[name] for name in [*names, *(n for n in properties if n not in names)]}
    return found
