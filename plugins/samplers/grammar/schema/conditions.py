"""Conditions as alternatives: `not`, `if` and what depends on a property that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar.schema.merge import UNSEEN, Both
from llamakit.plugins.samplers.grammar.schema.valid import dependent

if TYPE_CHECKING:
    from llamakit.plugins.samplers.grammar.schema.convert import Converter

Schema = dict[str, Any]
WORDS = ("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies")


def rewritten(converter: Converter, schema: Schema, pointer: str) -> Schema:
    """The schema without those words; what they say is in its `allOf`."""
    words = set(WORDS) & set(schema)
    if not words or (words == {"not"} and _done(schema["not"])):
        return schema
    rest = {key: value for key, value in schema.items() if key not in WORDS or (key == "not" and _done(value))}
    parts: list[Any] = []
    if "not" in schema and not _done(schema["not"]):
        parts.append(converter.opposite(schema["not"], pointer, "not"))
    if "if" in schema and {"then", "else"} & set(schema):
        condition = schema["if"]
        holds = {"allOf": [condition, schema.get("then", True)]}
        fails = {"allOf": [converter.opposite(condition, pointer, "if"), schema.get("else", True)]}
        parts.append({"anyOf": [holds, fails]})
    for key in ("dependentRequired", "dependentSchemas", "dependencies"):
        if not isinstance(schema.get(key, {}), dict):
            raise converter.error(pointer, key, "it is an object by the names of properties")
    for name, part in dependent(schema):
        parts.append({"anyOf": [{UNSEEN: {name: False}}, {"allOf": [{"type": "object", "required": [name]}, part]}]})
    return rest | {"allOf": [*schema.get("allOf", ()), *parts]} if parts else rest


def _done(value: Any) -> bool:
    return isinstance(value, Both)
