"""Whether schemas exclude one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar.schema.valid import identity, kinds_of

if TYPE_CHECKING:
    from collections.abc import Callable

Schema = dict[str, Any]
DEEPEST = 4  # properties of properties that are compared


def all_apart(parts: list[Any], expand: Callable[[Any], Any]) -> bool:
    """Whether one look tells all of them apart: all are constants, or all need a property of other constants each."""
    values = [_values(part) for part in parts if isinstance(part, dict)]
    if len(values) < len(parts) or _distinct(values):
        return len(values) == len(parts)
    needed = [set(part.get("required", ())) for part in parts]
    if not all(_possible(part) == {"object"} for part in parts):
        return False
    tables = [part.get("properties", {}) for part in parts]
    for name in sorted(set.intersection(*needed)):
        told = [expand(table.get(name, True)) for table in tables]
        if _distinct([_values(part) if isinstance(part, dict) else None for part in told]):
            return True
    return False


def _distinct(values: list[set[Any] | None]) -> bool:
    known = [each for each in values if each is not None]
    return len(known) == len(values) and len(set().union(*known)) == sum(map(len, known))


def apart(a: Any, b: Any, expand: Callable[[Any], Any], depth: int = 0) -> bool:
    """Whether two schemas surely have no value in common: by type, by constants, by a property that tells."""
    if depth > DEEPEST:
        return False
    a, b = expand(a), expand(b)
    if a is False or b is False:
        return True
    if not isinstance(a, dict) or not isinstance(b, dict):
        return False
    one, two = _possible(a), _possible(b)
    if one is not None and two is not None and not one & two:
        return True
    values = [_values(schema) for schema in (a, b)]
    if values[0] is not None and values[1] is not None:
        return not values[0] & values[1]
    if not all(_possible(schema) == {"object"} for schema in (a, b)):
        return False
    return any(
        (name in b.get("required", ()) and apart(part, b["properties"].get(name, True), expand, depth + 1))
        for name, part in a.get("properties", {}).items()
        if name in b.get("properties", {}) and name in a.get("required", ())
    ) or any(_lacks(a, b, name) for name in a.get("required", ())) or any(
        _lacks(b, a, name) for name in b.get("required", ())
    )  # fmt: skip


def _lacks(a: Schema, b: Schema, name: str) -> bool:
    """Whether `a` needs a property that `b` does not allow."""
    closed = b.get("additionalProperties") is False and not b.get("patternProperties")
    return b.get("properties", {}).get(name, not closed) is False


def _values(schema: Schema) -> set[Any] | None:
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if not isinstance(listed, list) else {identity(value) for value in listed}


def _possible(schema: Schema) -> set[str] | None:
    """The types that a schema's values may have; None if any."""
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(listed, list):
        return {kind for value in listed for kind in kinds_of(value)}
    kinds = schema.get("type")
    if kinds is None or not isinstance(kinds, str | list):
        return None
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    found |= {"null"} if schema.get("nullable") is True else set()
    return found | ({"integer"} if "number" in found else set())
