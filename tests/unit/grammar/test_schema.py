"""JSON Schemas: every text that a schema's grammar makes is valid, and what is valid is in it."""

from __future__ import annotations

import json
import random
from decimal import Decimal

import pytest
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.generate import random_text
from llamakit.plugins.samplers.grammar.schema import schema_to_grammar

from llamakit.grammar import study

NODE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
}
KINDS = [
    {"type": "object", "properties": {"k": {"const": name}, name: {"type": kind}}, "required": ["k", name]}
    for name, kind in (("a", "integer"), ("b", "string"))
]
SCHEMAS = [  # schema, valid values, values that are not
    ({"type": "object", "properties": {"n": {"type": "string"}, "a": {"type": "integer"}}, "required": ["n"]},
     [{"n": "x"}, {"n": "", "a": -3}], [{}, {"a": 1}, {"n": 1}, [], {"n": "x", "a": 1.5}]),
    ({"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 17}, "minItems": 2, "maxItems": 3},
     [[1, 2], [-5, 17, 0]], [[1], [1, 2, 3, 4], [18, 1], [-6, 1]]),
    ({"enum": ["red", 3, None, {"a": [1]}]}, ["red", 3, None, {"a": [1]}], ["blue", 4, {"a": [2]}]),
    ({"const": 'x"y\\\n'}, ['x"y\\\n'], ["x"]),
    ({"type": "string", "minLength": 2, "maxLength": 5}, ["ab", "éé中😀a"], ["a", "abcdef"]),
    ({"type": "string", "maxLength": 1_000_000}, ["", "a" * 300], [1]),
    ({"type": "string", "pattern": "^[a-z]{2,3}-[0-9]+$"}, ["ab-1", "abc-12345"], ["a-1", "ab-", "ab-1x"]),
    ({"type": "string", "pattern": "a\"b", "maxLength": 5}, ['a"b', 'xa"by'], ["ab", 'xxxa"b']),
    ({"type": "string", "format": "date"}, ["2024-02-28", "1999-12-31"], ["2024-13-01", "2024-1-1", "x"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    ({"type": "string", "format": "ipv4"}, ["1.2.3.255"], ["256.1.1.1", "1.2.3"]),
    ({"type": "string", "format": "ipv6"}, ["::1", "fe80::1:2", "1:2:3:4:5:6:7:8"], ["1::2::3", ":::"]),
    ({"type": "string", "format": "email"}, ["a.b@example.org"], ["a@", "@b.c", "a b@c.de"]),
    ({"type": "string", "format": "date-time"}, ["2024-05-06T07:08:09Z"], ["2024-05-06"]),
    ({"type": "string", "format": "hostname"}, ["example.org"], ["-x", "a..b"]),
    ({"type": "string", "format": "uri"}, ["https://example.org/a?b=c#d"], ["not a uri"]),
    (NODE, [{"v": 1}, {"v": 1, "kids": [{"v": 2, "kids": []}]}], [{"kids": []}, {"v": 1, "x": 2}]),
    ({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "multipleOf": 7}]},
     ["abc", 14, 0, -7], ["abcd", 15]),
    ({"oneOf": KINDS}, [{"k": "a", "a": 1}, {"k": "b", "b": "x"}], [{"k": "a", "b": "x"}, {"k": "c"}]),
    ({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"properties": {"b": {"type": "string"}}, "required": ["b"]}]},
     [{"a": 1, "b": ""}], [{"a": 1}, {"b": ""}]),
    ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, [3, 4, 5], [2, 6]),
    ({"type": "number", "minimum": 0, "maximum": 1}, [0, 1, 0.5, 0.999], [-0.1, 1.1, 2]),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 2.5}, [0.1, 1, 2.4], [0, 2.5, 2.6, -1]),
    ({"type": "number", "minimum": -1.25, "maximum": 3.5}, [-1.25, -1, 0, 3.5, 3.49], [-1.26, 3.51, 4]),
    ({"type": "number", "minimum": -90, "maximum": -10.5}, [-90, -10.5, -45.25], [-10.4, 0, -90.1]),
    ({"type": "integer", "minimum": 5}, [5, 10**15], [4, -5]),
    ({"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 13}, [11, 12], [10, 13]),
    ({"type": "integer", "multipleOf": 12, "minimum": 0, "maximum": 1000}, [0, 12, 996], [5, 1008]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"x": 1, "y": 2}], [{"x": "a"}]),
    ({"type": "object", "properties": {"id": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
     [{"id": 1}, {"id": 1, "ix": "a"}, {"i": "x"}], [{"id": "1"}, {"id": 1, "x": 2}]),
    ({"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
     [{}, {"x-a": 1}], [{"y": 1}, {"x-a": "b"}]),
    ({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": {"type": "boolean"}},
     [{"ab": True}], [{"A": True}, {"ab": 1}]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
     [[1, "a"]], [[1], ["a", 1], [1, "a", 2]]),
    ({"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 1},
     [["a"], ["c", "a", "b"]], [["a", "a"], []]),
    ({"type": ["string", "null"]}, ["x", None], [1]),
    ({"type": "string", "nullable": True}, ["x", None], [1]),
    ({"type": "integer", "not": {"enum": [3, 5]}, "minimum": 0}, [2, 4, 6], [3, 5]),
    ({"type": "string", "not": {"pattern": "^x"}}, ["", "ax"], ["x", "xa"]),
    ({"type": "object", "properties": {"k": {"enum": ["a", "b"]}, "v": {"type": "integer"}}, "required": ["k"],
      "if": {"properties": {"k": {"const": "a"}}}, "then": {"required": ["v"]}, "else": {"properties": {"v": False}}},
     [{"k": "a", "v": 1}, {"k": "b"}], [{"k": "a"}, {"k": "b", "v": 1}]),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
      "dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 2}], [{"a": 1}]),
    ({"type": "array", "items": {"type": "integer"}, "contains": {"minimum": 5}, "minContains": 2, "maxContains": 3},
     [[5, 1, 6], [7, 8, 9, 0]], [[5, 1], [5, 6, 7, 8], []]),
    ({"type": "object", "patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 3}},
      "additionalProperties": {"type": "string"}}, [{"a": 1, "ab": 4, "b": 3, "x": ""}], [{"ab": 2}, {"x": 1}]),
    ({"oneOf": [{"type": "integer", "minimum": 0}, {"type": "integer", "maximum": 9}]}, [-1, 10], [0, 9]),
    ({"type": "object", "properties": {c: {"type": "null"} for c in "abc"}, "minProperties": 2, "maxProperties": 2},
     [{"a": None, "c": None}], [{"a": None}, {"a": None, "b": None, "c": None}]),
    ({"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 2}, [0.25, 1, 1.5], [0.3, 2.25, -0.25]),
    ({"$id": "https://example.org/a", "$ref": "b#/$defs/n", "$defs": {"x": {"$id": "b", "$defs": {"n": {"const": 1}}}}},
     [1], [2]),
    ({"$ref": "#it", "$defs": {"x": {"$anchor": "it", "type": "boolean"}}}, [True], [1]),
    ({"enum": ["a", "b1", 2], "pattern": "[0-9]", "type": "string"}, ["b1"], ["a", 2]),
    ({"enum": [True, 1.0, "1"], "not": {"const": 1}}, [True, "1"], [1]),
    ({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "null"}}}],
      "unevaluatedProperties": False}, [{"a": 1, "b": None}], [{"a": 1, "c": 1}]),
    ({"type": "string", "format": "email", "maxLength": 254, "minLength": 3}, ["a@b.org"], ["a@", "a@" + "b." * 130]),
    (True, [1, {"a": [None, 1.5e3]}, "x"], []),
    ({"type": "object", "required": ["z"]}, [{"z": [1]}], [{}]),
    ({"minLength": 2}, ["ab", 1, None, [], {"a": 1}], ["a"]),
    ({"properties": {"a": {"type": "null"}}}, [{"a": None}, 3, "x", [{}]], [{"a": 1}]),
    ({"type": "string", "pattern": "^(?!\\.)(?!.*\\.\\.)[a-z.]+@[a-z]+$"}, ["a.b@c"], [".a@b", "a..b@c", "a@"]),
    ({"type": "string", "pattern": "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$"}, ["1", "-0.5", "+.5"], ["", "-", ".", "1e5"]),
    ({"type": "string", "pattern": "^(?=.*[0-9]|.*_)[a-z0-9_]{3,}$"}, ["ab1", "a_b"], ["abc", "1"]),
    ({"type": "integer", "minimum": 10**19, "maximum": 2 * 10**19}, [10**19, 15 * 10**18], [10**18, 3 * 10**19]),
    ({"type": "number", "maximum": 1e20, "minimum": -1e20}, [10**19, 0.5], [2 * 10**20, -2 * 10**20]),
    ({"type": "integer", "minimum": 9223372036854775807}, [2**63 - 1, 2**63], [2**63 - 2, 1]),
    ({"type": "string", "format": "base64"}, ["", "YWI=", "YQ=="], ["YQ", "Y"]),
    ({"type": "string", "format": "cidrv4"}, ["10.0.0.0/8"], ["10.0.0.0", "10.0.0.0/33"]),
    ({"type": "string", "format": "ulid"}, ["01ARZ3NDEKTSV4RRFFQ69G5FAV"], ["81ARZ3NDEKTSV4RRFFQ69G5FAV"]),
    ({"type": "string", "format": "uuid4"}, ["123e4567-e89b-42d3-a456-426614174000"],
     ["123e4567-e89b-12d3-a456-426614174000"]),
    ({"type": "string", "format": "e164"}, ["+491701234567"], ["491701234567"]),
    ({"type": "string", "format": "ipvanynetwork"}, ["10.0.0.0/8", "fe80::/64"], ["10.0.0.1/8"]),
    ({"const": 2.0}, [2.0, 2], [3]),
    ({"propertyOrdering": ["a"], "type": "null"}, [None], [1]),
    ({"type": "object", "properties": {c: {"type": "boolean"} for c in "abcd"}, "required": ["c"]},
     [{"c": True}, {"a": True, "c": False}, {"b": True, "c": True, "d": False}], [{"a": True}, {"d": True}]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS, ids=range(len(SCHEMAS)))
def test_values(matches, schema, good, bad):
    holds = matches(schema_to_grammar(schema)[0])
    for value in good:
        for text in (
            json.dumps(value),
            json.dumps(value, ensure_ascii=False, indent=2),
            json.dumps(value, separators=(",", ":")),
        ):
            assert holds(text), text
    for value in bad:
        assert not holds(json.dumps(value)), value


@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_every_text_of_the_grammar_is_valid(matches, number):
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema as an oracle")
    schema = SCHEMAS[number][0]
    if schema is not True and "nullable" in schema:
        pytest.skip("a word of OpenAPI, not of JSON Schema")
    grammar = schema_to_grammar(schema)[0]
    holds, chance = matches(grammar), random.Random(number)
    check = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.FormatChecker(["date", "uuid", "ipv4", "ipv6"])
    )
    for _ in range(40):
        text = random_text(grammar, chance)
        assert holds(text)
        if '\\n"' in text:  # before which Python's $ matches too
            continue
        value = json.loads(text)
        check.validate(value)
        assert holds(json.dumps(value, ensure_ascii=False)) or "e" in json.dumps(value)  # 1e+16 is another spelling


@pytest.mark.parametrize(
    ("schema", "pointer", "keyword"),
    [
        ({"not": {"uniqueItems": True}}, "#", "not"),
        ({"properties": {"a/b": {"if": {"propertyNames": {}}, "then": True}}}, "#/properties/a~1b", "if"),
        ({"type": "object", "not": {"const": {"a": 1}}}, "#", "not"),
        ({"type": "thing"}, "#", "type"),
        ({"$ref": "#/nowhere"}, "#", "$ref"),
        ({"$ref": "http://x/y"}, "#", "$ref"),
        ({"oneOf": [{"type": "object"}, {"type": "object", "propertyNames": {"maxLength": 3}}]}, "#", "oneOf"),
        ({"type": "string", "pattern": "(?=x)"}, "#", "pattern"),
        ({"type": "string", "format": "nonsense"}, "#", "format"),
        ({"type": "array", "uniqueItems": True}, "#", "uniqueItems"),
        ({"minLength": -1}, "#", "minLength"),
        ({"anyOf": 3}, "#", "anyOf"),
        ({"properties": {"a": {"type": 3}}}, "#/properties/a", "type"),
        ({"oneOf": [{"not": {"required": 5}}, {"not": {"minLength": "x"}}]}, "#", ""),
    ],
)
def test_what_cannot_be_enforced_is_named(schema, pointer, keyword):
    with pytest.raises(GrammarError) as caught:
        schema_to_grammar(schema)
    assert (caught.value.pointer, caught.value.keyword) == (pointer, keyword)


def test_unknown_words_are_annotations_and_reported():
    assert schema_to_grammar({"type": "null", "typo": 1})[1] == [
        "#: typo: there is no such keyword, so it has no effect"
    ]
    assert schema_to_grammar({"type": "null", "propertyOrdering": []})[1] == []


def test_lenient_leaves_out_and_reports():
    grammar, relaxed = schema_to_grammar(
        {"type": "string", "format": "nonsense", "not": {"uniqueItems": True}}, lenient=True
    )
    assert len(relaxed) == 2
    assert grammar.rules


@pytest.mark.parametrize(
    "schema",
    [
        1,
        "x",
        [],
        None,
        {"items": 3},
        {"$ref": "#"},
        False,
        {"enum": []},
        {"type": "number", "minimum": 9, "maximum": 1},
    ],
)
def test_what_is_no_schema_or_has_no_values(schema):
    with pytest.raises(GrammarError):
        schema_to_grammar(schema)


def test_deep_and_large_schemas_are_bounded():
    deep: dict = {}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}}
    with pytest.raises(GrammarError, match="within one another"):
        schema_to_grammar(deep)
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": 10_000} for i in range(1500)}}
    assert len(schema_to_grammar(wide)[0].rules) < 5000


@pytest.mark.parametrize("bound", [99.5, -3, 123456.75, 1e-3])
def test_no_number_is_too_near_to_an_open_bound(bound):
    """A program that reads a float64 still finds it within."""
    for schema in ({"exclusiveMinimum": bound}, {"exclusiveMaximum": bound}):
        found = study("json_schema", {"type": "number"} | schema)
        below = "exclusiveMaximum" in schema
        for digits in range(1, 19):
            value = Decimal(str(bound)) + Decimal(10) ** -digits * (-1 if below else 1)
            if found.check(f"{value:f}").accepted:
                assert float(value) != bound, value
            else:
                assert digits > 15 - len(str(int(abs(bound)))), value


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"items": [{"type": "string"}], "unevaluatedItems": False}, ['["a"]', "[]"], ['["a", 1]', "[1]"]),
        ({"prefixItems": [{}], "unevaluatedItems": False, "type": "array"}, ["[1]"], ["[1, 2]"]),
        ({"enum": [[1, 2], [1]], "prefixItems": [{}], "unevaluatedItems": False}, ["[1]"], ["[1,2]", "[1, 2]"]),
        ({"enum": [[1, 2], [1]], "items": [{}], "unevaluatedItems": False}, ["[1]"], ["[1, 2]"]),
        ({"enum": [["a", 1], ["a", "b"]], "contains": {"const": "a"}, "unevaluatedItems": {"type": "string"}},
         ['["a", "b"]', '["a","b"]'], ['["a", 1]']),
    ],
)  # fmt: skip
def test_unevaluated_items_beside_places_and_constants(matches, schema, good, bad):
    grammar, _ = schema_to_grammar(schema)
    holds = matches(grammar)
    assert [text for text in good if not holds(text)] == []
    assert [text for text in bad if holds(text)] == []
