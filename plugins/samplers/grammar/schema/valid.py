"""Whether a constant of a schema satisfies what stands beside it."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar.automata import accepts, determinize
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.schema.formats import format_node
from llamakit.plugins.samplers.grammar.schema.merge import UNSEEN, Both, normal
from llamakit.plugins.samplers.grammar.schema.patterns import pattern_node

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Schema = dict[str, Any]
MOST_STEPS = 20_000  # values compared with schemas
DEEPEST = 60  # schemas within one another
SIZES = {"Length": str, "Items": list, "Properties": dict}  # of minLength and so on


def identity(value: Any) -> Hashable:
    """Equal for values that JSON Schema calls equal: 1 is 1.0, but not true."""
    if isinstance(value, bool) or value is None:
        return value, "word"
    if isinstance(value, list):
        return tuple(identity(item) for item in value), "array"
    if isinstance(value, dict):
        return frozenset((name, identity(item)) for name, item in value.items()), "object"
    return value, "text" if isinstance(value, str) else "number"


def kinds_of(value: Any) -> tuple[str, ...]:
    """The types that a value has."""
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return ("integer", "number")
    names = {float: "number", str: "string", list: "array", dict: "object", type(None): "null"}
    return (names.get(type(value), ""),)


@lru_cache(maxsize=256)
def matches(pattern: str, value: str) -> bool:
    """Whether a pattern is found in a text. GrammarError for patterns beyond the limits."""
    return accepts(determinize(pattern_node(pattern)), value)


class Validator:
    """Judges values; `resolve` gives what a reference leads to."""

    def __init__(self, resolve: Callable[[str, str], Any]) -> None:
        self.resolve = resolve
        self._left, self._depth = MOST_STEPS, 0
        self._known: dict[int, tuple[list[Any], frozenset[Hashable]]] = {}

    def holds(self, value: Any, schema: Any) -> bool:
        """Whether a schema describes a value. GrammarError for patterns beyond the limits."""
        if isinstance(schema, bool):
            return schema
        self._left -= 1
        if self._left < 0 or self._depth > DEEPEST:
            raise GrammarError("it takes too long to compare constants with what stands beside them")
        self._depth += 1
        try:
            schema = normal(schema)
            return self._by_any(value, schema) and self._by_kind(value, schema)
        finally:
            self._depth -= 1

    def _by_any(self, value: Any, schema: Schema) -> bool:
        kinds = schema.get("type")
        if kinds is not None and not set(kinds_of(value)) & set([kinds] if isinstance(kinds, str) else kinds):
            return False
        listed = schema.get("enum")
        if listed is not None and identity(value) not in self._identities(listed):
            return False
        if "$ref" in schema and not self.holds(value, self.resolve(schema["$ref"], "#")):
            return False
        if "not" in schema:
            excluded = schema["not"] if isinstance(schema["not"], Both) else [schema["not"]]
            if any(self.holds(value, each) for each in excluded):
                return False
        if "if" in schema and not self.holds(
            value, schema.get("then" if self.holds(value, schema["if"]) else "else", True)
        ):
            return False
        return (
            all(self.holds(value, part) for part in schema.get("allOf", ()))
            and ("anyOf" not in schema or any(self.holds(value, part) for part in schema["anyOf"]))
            and ("oneOf" not in schema or sum(self.holds(value, part) for part in schema["oneOf"]) == 1)
        )

    def _identities(self, listed: list[Any]) -> frozenset[Hashable]:
        """Those of the values of an `enum`, which is kept alive so that no other list gets its id."""
        known = self._known.get(id(listed))
        if known is None:
            known = self._known[id(listed)] = (listed, frozenset(identity(each) for each in listed))
        return known[1]

    def _by_kind(self, value: Any, schema: Schema) -> bool:
        for size, kind in SIZES.items():
            if isinstance(value, kind) and not (
                schema.get("min" + size, 0) <= len(value) <= schema.get("max" + size, len(value))
            ):
                return False
        if isinstance(value, str):
            return self._text(value, schema)
        if isinstance(value, list):
            return self._list(value, schema)
        if isinstance(value, dict):
            return self._table(value, schema)
        return isinstance(value, bool) or value is None or _number(value, schema)

    def _text(self, value: str, schema: Schema) -> bool:
        if not all(matches(pattern, value) for pattern in all_of(schema, "pattern")):
            return False
        nodes = [format_node(name) for name in all_of(schema, "format") if isinstance(name, str)]
        return all(node is None or accepts(determinize(node), value) for node in nodes)

    def _list(self, value: list[Any], schema: Schema) -> bool:
        first, rest = places(schema)
        if schema.get("uniqueItems") is True and len({identity(item) for item in value}) < len(value):
            return False
        seen = schema["contains"] if "contains" in schema and "items" not in schema else False  # evaluates what it is
        if not all(
            self.holds(item, first[i]) if i < len(first) else self.holds(item, rest) or self.holds(item, seen)
            for i, item in enumerate(value)
        ):
            return False
        if "contains" in schema:
            found = sum(self.holds(item, schema["contains"]) for item in value)
            return bool(schema.get("minContains", 1) <= found <= schema.get("maxContains", found))
        return True

    def _table(self, value: Schema, schema: Schema) -> bool:
        if not set(schema.get("required", ())) <= set(value):
            return False
        if not all(self.holds(name, schema.get("propertyNames", True)) for name in value):
            return False
        return all(
            self.holds(item, part) for name, item in value.items() for part in value_schemas(schema, name) or ()
        ) and all(self.holds(value, part) for name, part in dependent(schema) if name in value)


def places(schema: Schema) -> tuple[list[Any], Any]:
    """What the first items of an array have to be, one by one, and what all others."""
    first, rest = schema.get("prefixItems", []), schema.get("items", schema.get("unevaluatedItems", True))
    if isinstance(rest, list):  # as drafts before 2020 wrote it
        first, rest = rest, schema.get("additionalItems", schema.get("unevaluatedItems", True))
    return first, rest


def value_schemas(schema: Schema, name: str) -> list[Any]:
    """What the value of a property has to be: by its name, by patterns that its name matches, or as any other."""
    found = [schema["properties"][name]] if name in schema.get("properties", ()) else []
    found += [part for pattern, part in schema.get("patternProperties", {}).items() if matches(pattern, name)]
    found = found or [schema.get("additionalProperties", schema.get("unevaluatedProperties", True))]
    return [*found, schema[UNSEEN][name]] if name in schema.get(UNSEEN, ()) else found


def dependent(schema: Schema) -> list[tuple[str, Any]]:
    """What has to hold where a property is there."""
    found: list[tuple[str, Any]] = []
    for key in ("dependentRequired", "dependentSchemas", "dependencies"):
        for name, part in schema.get(key, {}).items():
            found.append((name, {"required": part} if isinstance(part, list) else part))
    return found


def all_of(schema: Schema, key: str) -> tuple[Any, ...]:
    """The values of a keyword, of which there may be several after schemas were put together."""
    value = schema.get(key)
    return () if value is None else tuple(value) if isinstance(value, Both) else (value,)


def _number(value: Any, schema: Schema) -> bool:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if (low is not None and value < low) or (high is not None and value > high):
        return False
    if (above is not None and value <= above) or (below is not None and value >= below):
        return False
    multiple = schema.get("multipleOf")
    return multiple is None or not multiple or Decimal(str(value)) % Decimal(str(multiple)) == 0
