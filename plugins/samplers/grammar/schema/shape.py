"""What kind of value each keyword has."""

from __future__ import annotations

from typing import Any

from llamakit.bounded_json import kind_of

KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("properties", "patternProperties", "\0properties", "dependentRequired", "dependentSchemas", "dependencies"),
        ((dict,), "an object by the names of properties"),
    ),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), ((list,), "a list of schemas")),
    **dict.fromkeys(
        ("not", "if", "then", "else", "contains", "additionalProperties", "unevaluatedProperties", "propertyNames",
         "unevaluatedItems", "additionalItems"),
        ((dict, bool, tuple), "a schema"),
    ),
    "items": ((dict, bool, list), "a schema or a list of schemas"),
    "type": ((str, list), "the name of a type or a list of such names"),
    "enum": ((list,), "a list of values"),
    "required": ((list,), "a list of names"),
    "pattern": ((str, tuple), "a regular expression"),
    "$ref": ((str,), "the place of a schema"),
}  # fmt: skip


def wrong_keyword(schema: dict[str, Any]) -> tuple[str, str] | None:
    """The first keyword whose value is of another kind, and what it should be."""
    for key, value in schema.items():
        if key in KINDS and not isinstance(value, KINDS[key][0]):
            return key, f"it is {KINDS[key][1]}, not {kind_of(value)}"
    return None
