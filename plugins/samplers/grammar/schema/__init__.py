"""JSON Schema to the intermediate form: the texts are JSON values that the schema describes.

Properties come in the order in which they are declared, required or not; others follow only where
`additionalProperties`, `patternProperties` or an object without properties asks for them. White space is free after
braces, brackets, commas and colons, up to a line break and 32 blanks. What cannot be enforced is an error that names
the place by its JSON pointer, or with `lenient` is left out and reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamakit.plugins.samplers.grammar.ir import Grammar


def schema_to_grammar(schema: object, *, lenient: bool = False) -> tuple[Grammar, list[str]]:
    """The grammar of a schema, and what was left out of it. GrammarError names what cannot be enforced."""
    from llamakit.plugins.samplers.grammar.schema.convert import Converter

    return Converter(schema, lenient=lenient).grammar()
