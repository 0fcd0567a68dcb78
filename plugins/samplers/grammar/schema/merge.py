"""Schemas that hold together (`allOf`, keywords beside `$ref` or `anyOf`) as one schema."""

from __future__ import annotations

from fractions import Fraction
from math import gcd, lcm
from typing import Any

Schema = dict[str, Any]
ANNOTATIONS = {
    "$schema", "$id", "id", "$comment", "$anchor", "$vocabulary", "title", "description", "default", "examples",
    "example", "deprecated", "readOnly", "writeOnly", "$defs", "definitions", "contentMediaType", "contentEncoding",
    "contentSchema", "$dynamicAnchor", "$recursiveAnchor", "discriminator", "xml", "externalDocs", "$async",
    "errorMessage", "markdownDescription", "enumNames", "tsType", "defaultSnippets", "propertyOrder",
    "deprecationMessage", "doNotSuggest", "enumDescriptions", "markdownEnumDescriptions", "links",
    "propertyOrdering",
}  # fmt: skip
BY_KEYWORD = {  # the type that a keyword is about, where no type is given
    "properties": "object", "required": "object", "additionalProperties": "object", "patternProperties": "object",
    "propertyNames": "object", "minProperties": "object", "maxProperties": "object", "unevaluatedProperties": "object",
    "items": "array", "prefixItems": "array", "minItems": "array", "maxItems": "array", "uniqueItems": "array",
    "contains": "array", "unevaluatedItems": "array", "minLength": "string", "maxLength": "string",
    "pattern": "string", "format": "string", "minimum": "number", "maximum": "number", "exclusiveMinimum": "number",
    "exclusiveMaximum": "number", "multipleOf": "number",
}  # fmt: skip
# Says what a property must be without being what `unevaluatedProperties` calls evaluated: of opposites, which have
# no annotations.
UNSEEN = "\0properties"
BY_KEYWORD[UNSEEN] = "object"
APPLIED = {  # further schemas for the same value
    "$ref", "allOf", "anyOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas", "dependencies",
}  # fmt: skip
UNEVALUATED = {"unevaluatedProperties": "additionalProperties", "unevaluatedItems": "items"}
BOUNDS_UP = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")  # the larger one counts
BOUNDS_DOWN = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")  # the smaller one
SCHEMAS = ("additionalItems", "propertyNames")  # both have to hold
# Of those Python calls values the same that are not: 1 and true.
COMPARED = {"enum", "properties", "patternProperties", "items", "prefixItems", "additionalProperties", UNSEEN}
SEVERAL = ("pattern", "format", "not")  # any number of them can hold together
TABLES = ("properties", "patternProperties", UNSEEN)
DEFERRED = ("not", "$ref", "if", "dependentRequired", "dependentSchemas", "dependencies")  # worked out later
MOST_PAIRS = 400


class Both(tuple[Any, ...]):
    """Values of one keyword that hold together; no document has such, since its lists are lists."""

    __slots__ = ()


class CannotMergeError(Exception):
    """Two schemas that hold together in a way that one schema cannot say; `keyword` is where."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


def normal(schema: Schema) -> Schema:
    """In today's words: bounds that are true or false, `nullable` and `const` say the same in others."""
    for key, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(key), bool):
            value = schema.get(bound)
            rest = {name: each for name, each in schema.items() if name not in (key, bound)}
            schema = rest if value is None else rest | {key if schema[key] else bound: value}
    if "const" in schema:
        values = [schema["const"]]
        values = _values(values, schema["enum"]) if isinstance(schema.get("enum"), list) else values
        schema = {name: each for name, each in schema.items() if name != "const"} | {"enum": values}
    if "nullable" in schema:
        schema = dict(schema)
        if schema.pop("nullable") is True and "type" in schema:
            kinds = schema["type"]
            schema["type"] = [*([kinds] if isinstance(kinds, str) else kinds), "null"]
            if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
                schema["enum"] = [*schema["enum"], None]
    return schema


def merge(a: Schema | bool, b: Schema | bool) -> Schema | bool:
    """A schema for what both describe."""
    if a is b or a is False or b is False:
        return a if a is b else False
    if a is True or b is True:
        return b if a is True else a
    if not isinstance(a, dict) or not isinstance(b, dict):
        raise CannotMergeError("allOf")
    a, b = _deferred(normal(a), normal(b))
    a, b = _tuples(_closed(a, b), _closed(b, a))
    found = dict(a)
    for key, value in b.items():
        same = key not in a or (key not in COMPARED and a[key] == value)
        found[key] = value if same else _both(key, a[key], value)
    return found


def own(schema: Any) -> Any:
    """A whole schema before it is put together with another one, whose properties and items are not its own."""
    if not isinstance(schema, dict) or not set(UNEVALUATED) & set(schema):
        return schema
    if set(schema) & APPLIED:
        return {"allOf": [schema]}
    for key, closed in UNEVALUATED.items():
        if key in schema:
            word = "additionalItems" if isinstance(schema.get(closed), list) else closed
            schema = {word: schema[key]} | {name: value for name, value in schema.items() if name != key}
    return schema


def _deferred(a: Schema, b: Schema) -> tuple[Schema, Schema]:
    """With the words of `b` that cannot stand beside the same ones of `a` moved to its `allOf`."""
    for key in DEFERRED:
        if key in a and key in b and a[key] != b[key]:
            if key == "not" and isinstance(a[key], Both) and isinstance(b[key], Both):
                continue
            words = ("if", "then", "else") if key == "if" else (key,)
            moved = {word: b[word] for word in words if word in b}
            rest = {word: value for word, value in b.items() if word not in words}
            b = rest | {"allOf": [*b.get("allOf", ()), moved]}
    if {"then", "else"} & set(a) & set(b) and "if" not in b:
        b = {word: value for word, value in b.items() if word not in ("then", "else")}
    return a, b


def _closed(a: Schema, b: Schema) -> Schema:
    """`a` with its properties, where they are further ones to `b`, as `b` wants those."""
    from llamakit.plugins.samplers.grammar.schema.valid import matches

    further = b.get("additionalProperties", True)
    if further is True or further == {}:
        return a
    if set(a.get("patternProperties", ())) - set(b.get("patternProperties", ())):
        raise CannotMergeError("patternProperties")
    known, patterns = b.get("properties", {}), b.get("patternProperties", {})
    table = {
        name: schema
        if name in known or any(matches(pattern, name) for pattern in patterns)
        else merge(own(schema), own(further))
        for name, schema in a.get("properties", {}).items()
    }
    return a | {"properties": table} if table else a


def _tuples(a: Schema, b: Schema) -> tuple[Schema, Schema]:
    """Items by position in the words of 2020, filled up to the same length."""
    sides = []
    for side in (a, b):
        if isinstance(side.get("items"), list):
            rest = {key: value for key, value in side.items() if key not in ("items", "additionalItems")}
            further = {"items": side["additionalItems"]} if "additionalItems" in side else {}
            sides.append(rest | {"prefixItems": side["items"]} | further)
        else:
            sides.append(side)
    longest = max(len(side.get("prefixItems", ())) for side in sides)
    for i, side in enumerate(sides):
        first = side.get("prefixItems", [])
        if longest and ("items" in side or first):
            sides[i] = side | {"prefixItems": [*first, *[side.get("items", True)] * (longest - len(first))]}
    return sides[0], sides[1]


def _both(key: str, a: Any, b: Any) -> Any:
    if key in BOUNDS_UP or key in BOUNDS_DOWN:
        return max(a, b) if key in BOUNDS_UP else min(a, b)
    if key in (*SCHEMAS, "items", "additionalProperties"):
        return merge(own(a), own(b))
    if key in TABLES:
        return a | {name: merge(own(a[name]), own(schema)) if name in a else schema for name, schema in b.items()}
    if key == "required":
        return list(dict.fromkeys([*a, *b]))
    if key == "type":
        return _types(a, b)
    if key == "enum":
        return _values(a, b)
    if key == "multipleOf":
        one, two = Fraction(str(a)), Fraction(str(b))
        both = Fraction(lcm(one.numerator, two.numerator), gcd(one.denominator, two.denominator))
        return both.numerator if both.denominator == 1 else float(both)
    if key == "prefixItems":
        return [merge(own(x), own(y)) for x, y in zip(a, b, strict=True)]
    if key == "allOf":
        return [*a, *b]
    if key in SEVERAL:
        return Both((*(a if isinstance(a, Both) else (a,)), *(b if isinstance(b, Both) else (b,))))
    if key == "uniqueItems":
        return a or b
    if key in ("anyOf", "oneOf"):
        if len(a) * len(b) > MOST_PAIRS:
            raise CannotMergeError(key)
        return [{"allOf": [x, y]} for x in a for y in b]
    if key in ANNOTATIONS or key.startswith("x-"):
        return a
    raise CannotMergeError(key)


def _values(a: list[Any], b: list[Any]) -> list[Any]:
    from llamakit.plugins.samplers.grammar.schema.valid import identity

    known = {identity(value) for value in b}
    return [value for value in a if identity(value) in known]


def _types(a: Any, b: Any) -> Any:
    one, two = ([t] if isinstance(t, str) else t for t in (a, b))
    found = [t for t in one if t in two]
    if "number" in two:
        found += [t for t in one if t == "integer" and t not in found]
    if "number" in one:
        found += [t for t in two if t == "integer" and t not in found]
    return found
