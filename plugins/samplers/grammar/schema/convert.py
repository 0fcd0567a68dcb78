"""From a JSON Schema to rules: types, references, alternatives. Objects and arrays have a file of their own."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from llamakit.plugins.samplers.grammar.analysis import finish
from llamakit.plugins.samplers.grammar.build import NOTHING, Builder, alt, chars, repeat, seq, text
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.schema import numbers, texts
from llamakit.plugins.samplers.grammar.schema.apart import all_apart, apart
from llamakit.plugins.samplers.grammar.schema.conditions import rewritten
from llamakit.plugins.samplers.grammar.schema.merge import (
    ANNOTATIONS,
    APPLIED,
    BY_KEYWORD,
    UNEVALUATED,
    CannotMergeError,
    merge,
    normal,
    own,
)
from llamakit.plugins.samplers.grammar.schema.negate import CannotNegateError, negate, unseen
from llamakit.plugins.samplers.grammar.schema.references import localised, mentions
from llamakit.plugins.samplers.grammar.schema.scalars import number_node, string_node
from llamakit.plugins.samplers.grammar.schema.shape import wrong_keyword
from llamakit.plugins.samplers.grammar.schema.valid import Validator

from llamakit.bounded_json import kind_of, quoted, short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamakit.plugins.samplers.grammar.ir import Grammar, Node, Ref

Schema = dict[str, Any]
MOST_SCHEMAS = 20_000  # places visited
MOST_SECONDS = 2.0  # of the processor
MOST_CASES = 700  # schemas made by merging alternatives with what stands beside them
MOST_ALTERNATIVES = 500  # of one `oneOf`
MOST_CONSTANT = 1 << 18  # characters of all constants
DEEPEST = 60  # schemas within one another, references not counted
MOST_PAIRED = 40  # alternatives each of which is compared with each
MOST_COMPARED = 16  # alternatives of which one excludes the others by their opposites
ANY = ("object", "array", "string", "number", "boolean", "null")
TYPES = (*ANY, "integer")
BESIDE = {"type", "enum", "not", "additionalItems", "minContains", "maxContains"}  # say nothing about the type
CANNOT = {"$dynamicRef", "$recursiveRef"}


class Converter:
    """Converts one schema. Every place that is referred to becomes a rule, so recursion is fine."""

    def __init__(self, schema: object, *, lenient: bool) -> None:
        self.root, self.lenient = localised(schema), lenient
        self.relaxed: list[str] = []
        self.builder = Builder()
        self._rules: dict[str, Ref] = {}  # by pointer
        self._shared: dict[str, Ref] = {}
        self._visited = self._depth = self._cases = self._constant = self._followed = 0
        self._end = time.thread_time() + MOST_SECONDS
        self.unevaluated = mentions(self.root, set(UNEVALUATED))  # whether what counts as evaluated matters
        self._at = "#"
        self.validator = Validator(self.resolve)

    def grammar(self) -> tuple[Grammar, list[str]]:
        """The grammar, and what was left out."""
        root = self.builder.new_rule("root", "#")
        try:
            self.builder.define(root, self.visit(self.root, "#"))
        except (TypeError, AttributeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
            # Parts that are put together before they are visited; the place that was visited last is near.
            raise self.error(self._at, "", f"a keyword there has a value of a wrong kind ({error})"[:300]) from error
        return finish(self.builder.grammar(root)), self.relaxed

    def visit(self, schema: Any, pointer: str) -> Node:
        """A value that a schema describes."""
        self._visited += 1
        self._at = pointer
        if self._visited > MOST_SCHEMAS:
            raise self.error(pointer, "", f"the schema has more than {MOST_SCHEMAS:,} parts")
        if time.thread_time() > self._end:
            raise self.error(pointer, "", f"it takes longer than {MOST_SECONDS:g} seconds to work out")
        if isinstance(schema, bool):
            return self.value() if schema else NOTHING
        if not isinstance(schema, dict):
            raise self.error(pointer, "", f"a schema is an object, true or false; this is {kind_of(schema)}")
        wrong = wrong_keyword(schema)
        if wrong is not None:
            raise self.error(pointer, *wrong)
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
        schema = normal(schema)
        if "$ref" in schema:
            return self._reference(schema, pointer)
        schema = rewritten(self, schema, pointer)
        for key in ("allOf", "anyOf", "oneOf"):
            if key in schema:
                return self._combined(key, schema, pointer)
        self._check_keywords(schema, pointer)
        if "enum" in schema:
            return self._constants(schema, pointer)
        return alt([self._typed(kind, schema, pointer) for kind in self._types(schema, pointer)])

    # -- putting schemas together ---------------------------------------------------------------------------------

    def _reference(self, schema: Schema, pointer: str) -> Node:
        target = schema["$ref"]
        others = {key: value for key, value in schema.items() if key != "$ref" and key not in ANNOTATIONS}
        if not isinstance(target, str) or not target.startswith("#"):
            raise self.error(pointer, "$ref", f"{short(target, 80)!r} is not in this document")
        if others:
            return self.visit(self.merged(self._expanded({"$ref": target}, pointer), others, pointer), pointer)
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
                raise self.error(pointer, "$ref", f"{short(target, 80)!r} leads back to itself")
            seen.add(target)
            found: Any = self.root
            for part in target[2:].split("/") if target not in ("#", "#/") else []:
                name = unquote(part).replace("~1", "/").replace("~0", "~")
                inside = isinstance(found, dict) and name in found
                listed = isinstance(found, list) and name.isdigit() and int(name) < len(found)
                if not inside and not listed:
                    raise self.error(pointer, "$ref", f"there is nothing at {short(target, 80)!r}")
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
                found = self.merged(found, self._expanded(part, pointer), f"{pointer}/{key}/{i}")
            return self.visit(found, pointer)
        plain = not set(base) - ANNOTATIONS
        whole = parts
        if not plain or key == "oneOf":
            whole = [
                self.merged(base, self._expanded(part, pointer), f"{pointer}/{key}/{i}") for i, part in enumerate(parts)
            ]
        if key == "oneOf":
            whole = self._exclusive([self.flat(part, pointer) for part in whole], parts, pointer)
        return alt([self.visit(part, f"{pointer}/{key}/{i}") for i, part in enumerate(whole)])

    def _exclusive(self, whole: list[Any], parts: list[Any], pointer: str) -> list[Any]:
        """The alternatives, `whole` with what stands beside them, each without what others describe as well."""

        def expand(part: Any) -> Any:
            return self._expanded(part, pointer)

        if all_apart(whole, expand):
            return whole
        if len(whole) > MOST_PAIRED:
            self.cannot(pointer, "oneOf", f"no property tells its alternatives apart, of which there are {len(whole)}")
            return whole
        found = []
        known = {(i, j): apart(whole[i], whole[j], expand) for i in range(len(whole)) for j in range(i)}
        for i, part in enumerate(whole):
            others = [parts[j] for j in range(len(whole)) if j != i and not known[max(i, j), min(i, j)]]
            if len(others) >= MOST_COMPARED:
                self.cannot(pointer, "oneOf", f"more than {MOST_COMPARED} of its alternatives may hold at once")
                return whole
            opposites = [self.opposite(other, pointer, "oneOf") for other in others]
            found.append({"allOf": [part, *opposites]} if opposites else part)
        return found

    def opposite(self, schema: Any, pointer: str, keyword: str) -> Any:
        """A schema of what another one does not describe."""

        def resolve(target: str) -> Any:
            self._followed += 1
            if self._followed > MOST_SCHEMAS or time.thread_time() > self._end:
                raise self.error(pointer, keyword, "it takes too long to work out its opposite")
            return self.resolve(target, pointer)

        try:
            found, seen = unseen(negate(schema, resolve))
            if seen and self.unevaluated:
                self.cannot(pointer, keyword, f"the opposite needs {min(seen)}, beside which nothing is unevaluated")
            return found
        except CannotNegateError as error:
            why = (
                "its alternatives may hold at once, and" if keyword == "oneOf" else "it needs the opposite of a schema:"
            )
            self.cannot(pointer, keyword, f"{why} {error.keyword!r} has no opposite")
            return True

    def _expanded(self, schema: Any, pointer: str) -> Any:
        """A schema as it can be merged: references at its top replaced, and what it says of further parts closed."""
        if not isinstance(schema, dict):
            return schema
        if isinstance(schema.get("$ref"), str):
            others = {key: value for key, value in schema.items() if key != "$ref" and key not in ANNOTATIONS}
            target = self._expanded(self.resolve(schema["$ref"], pointer), pointer)
            return self.merged(target, self._expanded(others, pointer), pointer) if others else target
        if set(UNEVALUATED) & set(schema):
            return self._closed(schema, pointer) if set(schema) & APPLIED else own(schema)
        return rewritten(self, normal(schema), pointer)

    def _closed(self, schema: Schema, pointer: str) -> Any:
        """A schema whose unevaluated properties or items are those that none of its parts knows: by alternative."""
        words = {key: schema[key] for key in UNEVALUATED if key in schema}
        found = self.flat({key: value for key, value in schema.items() if key not in UNEVALUATED}, pointer)
        if not isinstance(found, dict):
            return found
        for key in ("oneOf", "anyOf"):
            if key in found:
                base = {name: value for name, value in found.items() if name != key}
                parts = [self.merged(base, self._expanded(part, pointer), pointer) for part in found[key]]
                if key == "oneOf":
                    parts = self._exclusive([self.flat(part, pointer) for part in parts], found[key], pointer)
                return {"anyOf": [{"allOf": [part]} | words for part in parts]}
        return own(found | words)

    def flat(self, schema: Any, pointer: str) -> Any:
        """A schema with its references and `allOf` put together."""
        found = self._expanded(schema, pointer)
        while isinstance(found, dict) and "allOf" in found:
            parts = found["allOf"]
            found = {key: value for key, value in found.items() if key != "allOf"}
            for part in parts:
                found = self.merged(found, self._expanded(part, pointer), pointer)
        return found if isinstance(found, bool) else normal(found)

    def merged(self, a: Any, b: Any, pointer: str) -> Any:
        """A schema for what both describe."""
        self._cases += 1
        if self._cases > MOST_CASES or time.thread_time() > self._end:
            raise self.error(pointer, "", f"more than {MOST_CASES:,} ways to put its parts together")
        try:
            return merge(a, b)
        except CannotMergeError as error:
            self.cannot(pointer, error.keyword, "it stands in several schemas that hold together")
        except GrammarError as error:  # of a pattern
            self.cannot(pointer, "patternProperties", error.message)
        return a

    # -- values ---------------------------------------------------------------------------------------------------

    def _types(self, schema: Schema, pointer: str) -> list[str]:
        kinds = schema.get("type", ANY)
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        for kind in kinds:
            if kind not in TYPES:
                raise self.error(pointer, "type", f"there is no type {quoted(kind, 40)}; there are {', '.join(TYPES)}")
        return [kind for kind in kinds if not (kind == "integer" and "number" in kinds)]

    def _typed(self, kind: str, schema: Schema, pointer: str) -> Node:
        from llamakit.plugins.samplers.grammar.schema.containers import array_node, object_node

        if kind in ("boolean", "null"):
            words = (True, False) if kind == "boolean" else (None,)
            return alt([self.constant(word) for word in words if self.validator.holds(word, schema)])
        if kind in ("object", "array") and "not" not in schema and kind not in map(BY_KEYWORD.get, schema):
            self.value()
            return self.shared(kind, self._any_object if kind == "object" else self._any_array)
        makers: dict[str, Callable[[Converter, Schema, str], Node]] = {
            "object": object_node, "array": array_node, "string": string_node, "number": number_node,
            "integer": number_node,
        }  # fmt: skip
        values = schema if kind != "integer" else schema | {"type": "integer"}
        if kind == "number" and schema.get("type") != "number":
            values = schema | {"type": "number"}
        return makers[kind](self, values, pointer)

    def _constants(self, schema: Schema, pointer: str) -> Node:
        values = schema["enum"]
        if not isinstance(values, list):
            raise self.error(pointer, "enum", "it is a list of values")
        self._count_constant(4 * len(values), pointer)
        rest = {key: value for key, value in schema.items() if key != "enum" and key not in ANNOTATIONS}
        try:
            kept = [value for value in values if not rest or self.validator.holds(value, rest)]
        except GrammarError as error:
            self.cannot(pointer, error.keyword or "pattern", error.message)
            kept = values
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
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53
        return alt([text(json.dumps(value)), text(str(int(value)))]) if whole else text(json.dumps(value))

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
        words = [text("true"), text("false"), text("null")]
        array, object_ = self.shared("array", self._any_array), self.shared("object", self._any_object)
        return alt([object_, array, self.string(), self.shared("number", lambda: numbers.NUMBER), *words])

    def _any_array(self) -> Node:
        value, space = self.value(), self.space()
        items = repeat(seq([value, repeat(seq([text(","), space, value]), 0, None)]), 0, 1)
        return seq([text("["), space, items, space, text("]")])

    def _any_object(self) -> Node:
        pair, space = self.pair(self.string(), self.value()), self.space()
        pairs = repeat(seq([pair, repeat(seq([text(","), space, pair]), 0, None)]), 0, 1)
        return seq([text("{"), space, pairs, space, text("}")])

    # -- what cannot be done --------------------------------------------------------------------------------------

    def _check_keywords(self, schema: Schema, pointer: str) -> None:
        for key in schema:
            if key in CANNOT:
                self.cannot(pointer, key, "it is not supported")
        known = ANNOTATIONS | CANNOT | set(BY_KEYWORD) | BESIDE
        for key in schema:
            if key not in known and not key.startswith("x-"):
                self.relaxed.append(f"{pointer}: {key[:60]}: there is no such keyword, so it has no effect")

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
