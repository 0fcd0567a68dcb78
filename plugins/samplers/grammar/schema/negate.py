"""The schema of what another one does not describe: for `not`, `if` and alternatives of which only one may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar.schema.merge import ANNOTATIONS, UNSEEN, Both, normal

if TYPE_CHECKING:
    from collections.abc import Callable

Schema = dict[str, Any]
KINDS = ("object", "array", "string", "number", "boolean", "null")
EVALUATING = {"items", "prefixItems", "contains", "additionalProperties", "patternProperties", "$ref", "if"}
DEEPEST = 12  # schemas within one another
OPPOSITE = {  # keyword: the type that it is about, the opposite keyword, and how far that is away
    "minLength": ("string", "maxLength", -1), "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1), "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1), "maxProperties": ("object", "minProperties", 1),
    "minimum": ("number", "exclusiveMaximum", 0), "maximum": ("number", "exclusiveMinimum", 0),
    "exclusiveMinimum": ("number", "maximum", 0), "exclusiveMaximum": ("number", "minimum", 0),
}  # fmt: skip


class CannotNegateError(Exception):
    """A keyword whose opposite no schema can say."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


def negate(schema: Any, resolve: Callable[[str], Any], depth: int = 0) -> Schema | bool:
    """A schema of values that `schema` does not describe: all of them, but for numbers that are not integers."""
    if isinstance(schema, bool):
        return not schema
    if not isinstance(schema, dict) or depth > DEEPEST:
        raise CannotNegateError("depth" if isinstance(schema, dict) else "")
    schema = normal(schema)
    ways: list[Any] = []
    for key, value in schema.items():
        ways += _opposites(key, value, schema, lambda part: negate(part, resolve, depth + 1), resolve)
    ways = [way for way in ways if way is not False]
    if not ways:
        return False
    return ways[0] if len(ways) == 1 else {"anyOf": ways}


def _opposites(key: str, value: Any, schema: Schema, opposite: Callable[[Any], Any], resolve: Any) -> list[Any]:
    if key in ANNOTATIONS or key in ("then", "else", "minContains", "maxContains") or key.startswith("x-"):
        return []
    if key in OPPOSITE:
        kind, other, step = OPPOSITE[key]
        return [{"type": kind, other: value + step}] if value + step >= 0 or not step else []
    if key == "$ref":
        return [opposite(resolve(value))]
    if key == "type":
        named = {value} if isinstance(value, str) else set(value)
        left = [kind for kind in KINDS if kind not in named and not (kind == "number" and "integer" in named)]
        return [{"type": left}] if left else []
    if key == "enum":
        return [{"not": Both(({"enum": value},))}]
    if key in ("pattern", "format"):
        return [{"type": "string", "not": Both(({key: value},))}]
    if key == "properties":
        needed = schema.get("required", ())
        return [
            {"type": "object", "properties": {name: opposite(part)}} | ({} if name in needed else {"required": [name]})
            for name, part in value.items()
            if part is not True
        ]
    if key == "required":
        known = schema.get("properties", {})
        return [{"type": "object", "properties": {n: False}} for n in value if known.get(n, True) is True]
    if key == "items" and not isinstance(value, list) and "prefixItems" not in schema:
        return [{"type": "array", "contains": opposite(value)}]
    if key == "contains" and not {"minContains", "maxContains"} & set(schema):
        return [{"type": "array", "items": opposite(value)}]
    if key == "allOf":
        return [opposite(part) for part in value]
    if key == "anyOf":
        return [{"allOf": [opposite(part) for part in value]}]
    if key == "not":
        return list(value) if isinstance(value, Both) else [value]
    raise CannotNegateError(key)


def unseen(schema: Any) -> tuple[Any, set[str]]:
    """An opposite whose properties do not count as evaluated; and what in it would count nevertheless."""
    if not isinstance(schema, dict):
        return schema, set()
    found, seen = dict(schema), set(schema) & EVALUATING
    if "properties" in found:
        found[UNSEEN] = found.pop("properties")
    for key in ("allOf", "anyOf", "oneOf"):
        if key in found:
            parts = [unseen(part) for part in found[key]]
            found[key] = [part for part, _ in parts]
            seen |= set().union(*(each for _, each in parts))
    return found, seen
