"""Schemas that hold together (`allOf`, keywords beside `$ref` or `anyOf`) as one schema."""

from __future__ import annotations

import math
from typing import Any

Schema = dict[str, Any]
BOUNDS_UP = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")  # the larger one counts
BOUNDS_DOWN = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")  # the smaller one
SCHEMAS = ("items", "additionalProperties", "propertyNames")  # both have to hold
TABLES = ("properties", "patternProperties")


class CannotMergeError(Exception):
    """Two schemas that hold together in a way that one schema cannot say; `keyword` is where."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


def merge(a: Schema | bool, b: Schema | bool) -> Schema | bool:
    """A schema for what both describe."""
    if a is False or b is False:
        return False
    if a is True or b is True:
        return b if a is True else a
    assert isinstance(a, dict)
    assert isinstance(b, dict)
    found = dict(a)
    for key, value in b.items():
        found[key] = _both(key, a[key], value) if key in a and a[key] != value else value
    _close(found, a, b)
    return found


def _both(key: str, a: Any, b: Any) -> Any:
    if key in BOUNDS_UP or key in BOUNDS_DOWN:
        return max(a, b) if key in BOUNDS_UP else min(a, b)
    if key in SCHEMAS:
        return merge(a, b)
    if key in TABLES:
        return a | {name: merge(a[name], schema) if name in a else schema for name, schema in b.items()}
    if key == "required":
        return list(dict.fromkeys([*a, *b]))
    if key == "type":
        return _types(a, b)
    if key == "enum":
        return [value for value in a if value in b]
    if key == "multipleOf":
        if float(a).is_integer() and float(b).is_integer():
            return math.lcm(int(a), int(b))
        raise CannotMergeError(key)
    if key == "prefixItems":
        longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
        return [merge(x, y) for x, y in zip(longer, shorter, strict=False)] + longer[len(shorter) :]
    if key in ("allOf", "x-patterns"):
        return [*a, *b]
    if key == "pattern":
        return a  # the other one is kept by `_close`
    if key in ("uniqueItems", "nullable"):
        return a or b if key == "uniqueItems" else a and b
    if key in ("anyOf", "oneOf", "not", "const", "format", "$ref", "if", "then", "else", "contains"):
        raise CannotMergeError(key)
    return a  # an annotation


def _types(a: Any, b: Any) -> Any:
    one, two = ([t] if isinstance(t, str) else t for t in (a, b))
    found = [t for t in one if t in two]
    if "number" in two:
        found += [t for t in one if t == "integer" and t not in found]
    if "number" in one:
        found += [t for t in two if t == "integer" and t not in found]
    return found


def _close(found: Schema, a: Schema, b: Schema) -> None:
    """What depends on more than one keyword: second patterns, and properties that the other side forbids."""
    if "pattern" in a and "pattern" in b and a["pattern"] != b["pattern"]:
        found["x-patterns"] = [*found.get("x-patterns", []), b["pattern"]]
    for one, other in ((a, b), (b, a)):
        if one.get("additionalProperties") is False and "patternProperties" not in one:
            known = one.get("properties", {})
            for name in other.get("properties", {}):
                if name not in known:
                    found["properties"] = {**found["properties"], name: False}
