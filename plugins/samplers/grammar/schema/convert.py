"""From a JSON Schema to rules: types, references, alternatives. Objects and arrays have a file of their own."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from llamakit.plugins.samplers.grammar.analysis import finish
from llamakit.plugins.samplers.grammar.build import NOTHING, Builder, alt, chars, repeat, seq, text
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.schema import numbers, texts
from llamakit.plugins.samplers.grammar.schema.merge import CannotMergeError, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamakit.plugins.samplers.grammar.ir import Grammar, Node, Ref

Schema = dict[str, Any]
MOST_SCHEMAS = 20_000  # places visited
MOST_SECONDS = 2.0
MOST_CASES = 700  # schemas made by merging alternatives with what stands beside them
MOST_ALTERNATIVES = 500  # of one `oneOf`, each of which is compared with each
MOST_CONSTANT = 1 << 18  # characters of all constants
DEEPEST = 60  # schemas within one another, references not counted
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
BY_KEYWORD = {  # the type that a keyword is about, where no type is given
    "properties": "object", "required": "object", "additionalProperties": "object", "patternProperties": "object",
    "propertyNames": "object", "minProperties": "object", "maxProperties": "object", "items": "array",
    "prefixItems": "array", "minItems": "array", "maxItems": "array", "uniqueItems": "array", "contains": "array",
    "minLength": "string", "maxLength": "string", "pattern": "string", "x-patterns": "string", "minimum": "number",
    "maximum": "number", "exclusiveMinimum": "number", "exclusiveMaximum": "number", "multipleOf": "number",
}  # fmt: skip
ANNOTATIONS = {
    "$schema", "$id", "id", "$comment", "$anchor", "$vocabulary", "title", "description", "default", "examples",
    "example", "deprecated", "readOnly", "writeOnly", "$defs", "definitions", "contentMediaType", "contentEncoding",
    "discriminator", "xml", "externalDocs", "nullable", "format",
}  # fmt: skip
CANNOT = {
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties",
    "unevaluatedItems", "contains", "minContains", "maxContains", "$dynamicRef", "$recursiveRef", "contentSchema",
}  # fmt: skip


class Converter:
    """Converts one schema. Every place that is referred to becomes a rule, so recursion is fine."""

    def __init__(self, schema: object, *, lenient: bool) -> None:
        self.root, self.lenient = schema, lenient
        self.relaxed: list[str] = []
        self.builder = Builder()
        self._rules: dict[str, Ref] = {}  # by pointer
        self._shared: dict[str, Ref] = {}
        self._visited = self._depth = self._cases = self._constant = 0
        self._end = time.monotonic() + MOST_SECONDS

    def grammar(self) -> tuple[Grammar, list[str]]:
        """The grammar, and what was left out."""
        root = self.builder.new_rule("root", "#")
        self.builder.define(root, self.visit(self.root, "#"))
        return finish(self.builder.grammar(root)), self.relaxed

    def visit(self, schema: Any, pointer: str) -> Node:
        """A value that a schema describes."""
        self._visited += 1
        if self._visited > MOST_SCHEMAS:
            raise self.error(pointer, "", f"the schema has more than {MOST_SCHEMAS:,} parts")
        if time.monotonic() > self._end:
            raise self.error(pointer, "", f"it takes longer than {MOST_SECONDS:g} seconds to work out")
        if isinstance(schema, bool):
            return self.value() if schema else NOTHING
        if not isinstance(schema, dict):
            raise self.error(pointer, "", f"a schema is an object, true or false; this is {type(schema).__name__}")
        self._depth += 1
        if self._depth > DEEPEST:
            raise self.error(pointer, "", f"more than {DEEPEST} schemas within one another")
        try:
            return self.builder.shallow(*self._visit(schema, pointer))
        finally:
            self._depth -= 1

    def _visit(self, schema: Schema, pointer: str) -> tuple[Node, list[Node], str, str]:
        node = self._applied(schema, pointer)
        return node, list(getattr(node, "items", ())), "part", pointer

    def _applied(self, schema: Schema, pointer: str) -> Node:
        if "$ref" in schema:
            return self._reference(schema, pointer)
        for key in ("allOf", "anyOf", "oneOf"):
            if key in schema:
                return self._combined(key, schema, pointer)
        self._check_keywords(schema, pointer)
        if "const" in schema or "enum" in schema:
            return self._constants(schema, pointer)
        return alt([self._typed(kind, schema, pointer) for kind in self._types(schema, pointer)])

    # -- putting schemas together ---------------------------------------------------------------------------------

    def _reference(self, schema: Schema, pointer: str) -> Node:
        target = schema["$ref"]
        others = {key: value for key, value in schema.items() if key != "$ref" and key not in ANNOTATIONS}
        if not isinstance(target, str) or not target.startswith("#"):
            raise self.error(pointer, "$ref", f"{str(target)[:80]!r} is not in this document")
        if others:
            return self.visit(self._merged(self.resolve(target, pointer), others, pointer), pointer)
        if target not in self._rules:
            self._rules[target] = self.builder.new_rule(target.rpartition("/")[2] or "root", target)
            depth, self._depth = self._depth, 0
            self.builder.define(self._rules[target], self.visit(self.resolve(target, pointer), target))
            self._depth = depth
        return self._rules[target]

    def resolve(self, target: str, pointer: str) -> Any:
        """What a JSON pointer within the document leads to; a chain of references is followed."""
        seen = set()
        while True:
            if target in seen:
                raise self.error(pointer, "$ref", f"{target!r} leads back to itself")
            seen.add(target)
            found: Any = self.root
            for part in target[1:].strip("/").split("/") if target not in ("#", "#/") else []:
                name = unquote(part).replace("~1", "/").replace("~0", "~")
                inside = isinstance(found, dict) and name in found
                listed = isinstance(found, list) and name.isdigit() and int(name) < len(found)
                if not inside and not listed:
                    raise self.error(pointer, "$ref", f"there is nothing at {target!r}")
                found = found[name] if inside else found[int(name)]
            if not (isinstance(found, dict) and set(found) - ANNOTATIONS == {"$ref"}):
                return found
            target = str(found["$ref"])

    def _combined(self, key: str, schema: Schema, pointer: str) -> Node:
        parts = schema[key]
        if not isinstance(parts, list) or not parts:
            raise self.error(pointer, key, "it is a list of schemas")
        if key == "oneOf" and len(parts) > MOST_ALTERNATIVES:
            raise self.error(pointer, key, f"{len(parts):,} alternatives; {MOST_ALTERNATIVES} are possible")
        base = {name: value for name, value in schema.items() if name != key}
        if key == "allOf":
            found: Any = base
            for i, part in enumerate(parts):
                found = self._merged(found, self._expanded(part, pointer), f"{pointer}/{key}/{i}")
            return self.visit(found, pointer)
        if key == "oneOf" and not self._disjoint([self._expanded(part, pointer) for part in parts]):
            self.cannot(pointer, key, "its alternatives may hold at once")
        plain = not set(base) - ANNOTATIONS
        ways = []
        for i, part in enumerate(parts):
            whole = part if plain else self._merged(base, self._expanded(part, pointer), f"{pointer}/{key}/{i}")
            ways.append(self.visit(whole, f"{pointer}/{key}/{i}"))
        return alt(ways)

    def _expanded(self, schema: Any, pointer: str) -> Any:
        """A schema with a reference at its top replaced by what it refers to."""
        if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            others = {key: value for key, value in schema.items() if key != "$ref" and key not in ANNOTATIONS}
            target = self.resolve(schema["$ref"], pointer)
            return self._merged(target, others, pointer) if others else target
        return schema

    def _merged(self, a: Any, b: Any, pointer: str) -> Any:
        self._cases += 1
        if self._cases > MOST_CASES:
            raise self.error(pointer, "", f"more than {MOST_CASES:,} ways to put its parts together")
        try:
            return merge(a, b)
        except CannotMergeError as error:
            self.cannot(pointer, error.keyword, "it stands in several schemas that hold together")
            return a

    def _disjoint(self, parts: Sequence[Any]) -> bool:
        """Whether no value can be described by two of the schemas: by type, by constants, by a property that tells."""
        return all(_apart(a, b) for i, a in enumerate(parts) for b in parts[i + 1 :])

    # -- values ---------------------------------------------------------------------------------------------------

    def _types(self, schema: Schema, pointer: str) -> list[str]:
        kinds = schema.get("type")
        if kinds is None:
            kinds = list(dict.fromkeys(BY_KEYWORD[key] for key in schema if key in BY_KEYWORD)) or list(TYPES)
            if "format" in schema and kinds == list(TYPES):
                kinds = ["string"]
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        for kind in kinds:
            if kind not in TYPES:
                raise self.error(pointer, "type", f"there is no type {str(kind)[:40]!r}; there are {', '.join(TYPES)}")
        if schema.get("nullable") is True and "null" not in kinds:
            kinds.append("null")
        return [kind for kind in kinds if not (kind == "integer" and "number" in kinds)]

    def _typed(self, kind: str, schema: Schema, pointer: str) -> Node:
        from llamakit.plugins.samplers.grammar.schema.containers import array_node, object_node

        if kind == "boolean":
            return alt([text("true"), text("false")])
        if kind == "null":
            return text("null")
        makers: dict[str, Callable[[Converter, Schema, str], Node]] = {
            "object": object_node, "array": array_node, "string": string_node, "number": number_node,
            "integer": number_node,
        }  # fmt: skip
        values = schema if kind != "integer" else schema | {"type": "integer"}
        if kind == "number" and schema.get("type") != "number":
            values = schema | {"type": "number"}
        return makers[kind](self, values, pointer)

    def _constants(self, schema: Schema, pointer: str) -> Node:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, list):
            raise self.error(pointer, "enum", "it is a list of values")
        if "const" in schema and "enum" in schema:
            values = [value for value in values if value in schema["enum"]]
        rest = {key: value for key, value in schema.items() if key not in ("const", "enum") and key not in ANNOTATIONS}
        if schema.get("nullable") is True and None not in values:
            values = [*values, None]
        self._count_constant(4 * len(values), pointer)
        kept = [value for value in values if _fits(value, rest)]
        if set(rest) - {"type"} - set(BY_KEYWORD):
            self.cannot(pointer, "enum", "it stands beside other conditions")
        return alt([self.constant(value) for value in kept])

    def _count_constant(self, n: int, pointer: str) -> None:
        self._constant += n
        if self._constant > MOST_CONSTANT:
            raise self.error(pointer, "enum", f"the constants have more than {MOST_CONSTANT:,} characters")

    def constant(self, value: Any) -> Node:
        """Exactly this value, with free white space inside."""
        if isinstance(value, str):
            self._count_constant(len(value), "#")
            return texts.literal(value)
        if isinstance(value, list):
            return self.listed("[", [self.constant(item) for item in value], "]")
        if isinstance(value, dict):
            pairs = [self.pair(texts.literal(name), self.constant(item)) for name, item in value.items()]
            return self.listed("{", pairs, "}")
        return text(json.dumps(value))

    def listed(self, begin: str, items: Sequence[Node], end: str) -> Node:
        """Items between brackets."""
        space = self.space()
        parts: list[Node] = [text(begin), space]
        for i, item in enumerate(items):
            parts += [text(","), space, item] if i else [item]
        return seq([*parts, space, text(end)])

    def pair(self, name: Node, value: Node) -> Node:
        """A property."""
        return seq([name, text(":"), self.space(), value])

    def shared(self, name: str, make: Callable[[], Node]) -> Ref:
        """A rule that all places have in common."""
        if name not in self._shared:
            self._shared[name] = self.builder.new_rule(name, "any")
            self.builder.define(self._shared[name], make())
        return self._shared[name]

    def space(self) -> Ref:
        """Free white space: nothing, a blank, or a line break and an indentation."""
        blanks = repeat(chars([(0x20, 0x20), (0x09, 0x09)]), 0, 32)
        line = seq([repeat(text("\r"), 0, 1), text("\n"), blanks])
        return self.shared("space", lambda: alt([text(""), text(" "), line]))

    def string(self) -> Ref:
        """Any string."""
        return self.shared("string", texts.any_string)

    def value(self) -> Ref:
        """Any value."""
        return self.shared("value", self._any_value)

    def _any_value(self) -> Node:
        value, space = self.value(), self.space()
        comma = seq([text(","), space])
        items = repeat(seq([value, repeat(seq([comma, value]), 0, None)]), 0, 1)
        pair = self.pair(self.string(), value)
        pairs = repeat(seq([pair, repeat(seq([comma, pair]), 0, None)]), 0, 1)
        array = self.shared("array", lambda: seq([text("["), space, items, space, text("]")]))
        object_ = self.shared("object", lambda: seq([text("{"), space, pairs, space, text("}")]))
        words = [text("true"), text("false"), text("null")]
        return alt([object_, array, self.string(), self.shared("number", lambda: numbers.NUMBER), *words])

    # -- what cannot be done --------------------------------------------------------------------------------------

    def _check_keywords(self, schema: Schema, pointer: str) -> None:
        for key in schema:
            if key in CANNOT:
                self.cannot(pointer, key, "it is not supported")
        known = ANNOTATIONS | CANNOT | set(BY_KEYWORD) | {"type", "enum", "const", "additionalItems"}
        for key in schema:
            if key not in known and not key.startswith("x-"):
                self.cannot(pointer, key, "there is no such keyword")

    def cannot(self, pointer: str, keyword: str, why: str) -> None:
        """Report what is left out, or refuse it."""
        if not self.lenient:
            error = self.error(pointer, keyword, why)
            error.hint = "lenient leaves it out"
            raise error
        self.relaxed.append(f"{pointer}: {keyword}: {why}")

    def error(self, pointer: str, keyword: str, message: str) -> GrammarError:
        """An error at a place of the schema."""
        where = f"{pointer}: {keyword}" if keyword else pointer
        return GrammarError(f"the schema cannot be enforced at {where}: {message}", pointer=pointer, keyword=keyword)


def string_node(converter: Converter, schema: Schema, pointer: str) -> Node:
    """A string with its length, pattern and format."""
    from llamakit.plugins.samplers.grammar.regex import parse_pattern
    from llamakit.plugins.samplers.grammar.schema.formats import WITHOUT_EFFECT, format_node

    least, most = count(converter, schema, pointer, "minLength") or 0, count(converter, schema, pointer, "maxLength")
    conditions: list[Node] = []
    for pattern in [*([schema["pattern"]] if "pattern" in schema else []), *schema.get("x-patterns", [])]:
        try:
            conditions.append(parse_pattern(pattern, search=True))
        except GrammarError as error:
            converter.cannot(pointer, "pattern", str(error.message))
    name = schema.get("format")
    if isinstance(name, str) and name not in WITHOUT_EFFECT:
        found = format_node(name)
        if found is None:
            converter.cannot(pointer, "format", f"the format {name[:40]!r} is not known")
        else:
            conditions.append(found)
    if most is not None and most < least:
        return NOTHING
    if not conditions:
        return converter.string() if (least, most) == (0, None) else texts.any_string(least, most)
    try:
        if len(conditions) == 1:
            return texts.conditioned(conditions[0], least, most)
        return texts.quoted(texts.encoded_automaton(texts.both(conditions, least, most).node()))
    except GrammarError as error:
        converter.cannot(pointer, "pattern", str(error.message))
        return texts.any_string(least, most)


def number_node(converter: Converter, schema: Schema, pointer: str) -> Node:
    """A number or an integer with its bounds."""
    lo, open_lo = _bound(converter, schema, pointer, "minimum", "exclusiveMinimum", max)
    hi, open_hi = _bound(converter, schema, pointer, "maximum", "exclusiveMaximum", min)
    multiple = schema.get("multipleOf")
    if multiple is not None and (
        not isinstance(multiple, int | float) or isinstance(multiple, bool) or not multiple > 0
    ):
        raise converter.error(pointer, "multipleOf", "it is a number above 0")
    whole = multiple is not None and float(multiple).is_integer()
    try:
        if schema.get("type") == "integer" or whole:
            if multiple is not None and not whole:
                converter.cannot(pointer, "multipleOf", "of integers only whole numbers are possible")
            low = None if lo is None else int(lo.to_integral_value("ROUND_FLOOR")) + 1 if open_lo else _up(lo)
            high = None if hi is None else int(hi.to_integral_value("ROUND_CEILING")) - 1 if open_hi else _down(hi)
            return numbers.integer(low, high, int(multiple) if whole and multiple is not None else 1)
        places = -1
        if multiple is not None:
            exact = Decimal(str(multiple))
            places = -int(exact.as_tuple().exponent)
            if exact != Decimal(1).scaleb(-places):
                converter.cannot(pointer, "multipleOf", "of fractions only 0.1, 0.01 and so on are possible")
        return numbers.number(lo, hi, open_lo=open_lo, open_hi=open_hi, places=places)
    except GrammarError as error:
        if error.pointer:
            raise
        converter.cannot(pointer, "multipleOf", error.message)
        return numbers.INTEGER if schema.get("type") == "integer" else numbers.NUMBER


def _up(x: Decimal) -> int:
    return int(x.to_integral_value("ROUND_CEILING"))


def _down(x: Decimal) -> int:
    return int(x.to_integral_value("ROUND_FLOOR"))


def _bound(
    converter: Converter, schema: Schema, pointer: str, key: str, exclusive: str, choose: Any
) -> tuple[Decimal | None, bool]:
    """A bound and whether it is open; in old drafts the exclusive keyword was true or false."""
    found: list[tuple[Decimal, bool]] = []
    for name in (key, exclusive):
        value = schema.get(name)
        if value is None or isinstance(value, bool):
            continue
        if not isinstance(value, int | float) or not abs(value) <= 1e17:
            raise converter.error(pointer, name, "it is a number of at most 17 digits")
        exact = Decimal(str(value))
        if -int(exact.as_tuple().exponent) > numbers.MOST_DIGITS:
            raise converter.error(pointer, name, f"it has more than {numbers.MOST_DIGITS} places")
        found.append((exact, name == exclusive or schema.get(exclusive) is True))
    if not found:
        return None, False
    best = choose(value for value, _ in found)
    return best, any(opened for value, opened in found if value == best)


def count(converter: Converter, schema: Schema, pointer: str, key: str) -> int | None:
    """A keyword that is a count."""
    value = schema.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise converter.error(pointer, key, "it is a count")
    return min(value, 1 << 31)


def _fits(value: Any, schema: Schema) -> bool:
    """Whether a constant satisfies the simple keywords beside it."""
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds is not None and not any(kind in kinds for kind in _kinds(value)):
        return False
    if isinstance(value, str):
        return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True


def _kinds(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return ("integer", "number")
    names = {float: "number", str: "string", list: "array", dict: "object", type(None): "null"}
    return (names.get(type(value), ""),)


def _apart(a: Any, b: Any) -> bool:
    """Whether two schemas surely have no value in common."""
    if a is False or b is False:
        return True
    if not isinstance(a, dict) or not isinstance(b, dict):
        return False
    one, two = _possible(a), _possible(b)
    if one is not None and two is not None and not one & two:
        return True
    values = [[s["const"]] if "const" in s else s.get("enum") for s in (a, b)]
    if values[0] is not None and values[1] is not None:
        return not any(x == y for x in values[0] for y in values[1])
    shared = set(a.get("required", ())) & set(b.get("required", ()))
    return any(
        name in a.get("properties", {}) and name in b.get("properties", {})
        and _apart(a["properties"][name], b["properties"][name])
        for name in shared
    )  # fmt: skip


def _possible(schema: Schema) -> set[str] | None:
    """The types that a schema's values may have; None if any."""
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return {kind for value in values for kind in _kinds(value)}
    kinds = schema.get("type")
    if kinds is None:
        return None
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    return found | ({"integer"} if "number" in found else set())
