"""json-schema-to-grammar.mjs: grammars that are well formed and let through what satisfies the schema, nothing else."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "plugins/frontends/rest/web/json-schema-to-grammar.mjs"
SPEC = importlib.util.spec_from_file_location("gbnf", Path(__file__).with_name("gbnf.py"))
assert SPEC
assert SPEC.loader
gbnf = importlib.util.module_from_spec(SPEC)
sys.modules["gbnf"] = gbnf  # dataclasses look their module up
SPEC.loader.exec_module(gbnf)

CONVERT = f"""
import {{ readFileSync }} from 'node:fs'
import {{ SchemaConverter }} from '{MODULE.as_uri()}'
const out = JSON.parse(readFileSync(0, 'utf8')).map(([schema, order]) => {{
  try {{
    const converter = new SchemaConverter(order ?? undefined)
    const name = converter.visit(schema, '')
    return {{ name, grammar: converter.formatGrammar() }}
  }} catch (error) {{
    return {{ error: error.message, type: error.constructor.name }}
  }}
}})
console.log(JSON.stringify(out))
"""


def convert(*jobs: tuple[Any, Any]) -> list[dict[str, str]]:
    """What the converter makes of (schema, order of properties); all in one run of node."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    done = subprocess.run(
        ["node", "--input-type=module", "-e", CONVERT],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=True,
    )
    result: list[dict[str, str]] = json.loads(done.stdout)
    return result


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


# name: schema, texts let through, texts refused
CASES: dict[str, tuple[Any, list[str], list[str]]] = {
    # what the converter of 2023 knew
    "boolean": ({"type": "boolean"}, ["true", "false "], ["True", "1", "", "true  "]),
    "null": ({"type": "null"}, ["null"], ["nul", "none"]),
    "integer": ({"type": "integer"}, ["0", "-12", "103"], ["01", "1.5", "1e3", "--1", "+1"]),
    "number": ({"type": "number"}, ["0", "-0.5", "12.25e-3", "1E9"], ["01", "1.", ".5", "NaN", "1e"]),
    "string": (
        {"type": "string"},
        ['""', '"a b"', r'"\""', r'"\u00e9\n\/"', '"日本"'],
        ['"', "a", '"\n"', r'"\x"', r'"\ud800"', '"\t"', '"a" b'],
    ),
    "const": ({"const": 'a"\\\n'}, [r'"a\"\\\n"'], ['"a"', r'"a\"\\n"']),
    "enum": ({"enum": ["x", 1, None, {"k": [True]}]}, ['"x"', "1", "null", '{"k":[true]}'], ["x", "2", "true"]),
    "enum of a type": ({"type": "string", "enum": ["x", 1]}, ['"x"'], ["1"]),
    "array": (
        {"type": "array", "items": {"type": "integer"}},
        ["[]", "[1]", "[ 1, 2,3 ]"],
        ["[1,]", "[,1]", '["a"]', "1", "[1 2]"],
    ),
    "object, all of its properties, by name": (
        obj(b={"type": "null"}, a={"type": "boolean"}),
        ['{"a":true,"b":null}', '{ "a" : true , "b" : null }'],
        ['{"b":null,"a":true}', '{"a":true}', "{}", '{"a":true,"b":null,"c":1}', '{"a":true "b":null}'],
    ),
    "oneOf": ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, ["null", "1"], ["true", "nullnull"]),
    "anyOf": ({"anyOf": [{"const": "a"}, {"const": "b"}]}, ['"a"', '"b"'], ['"c"', '"a""b"']),
    "nested": (
        obj(list={"type": "array", "items": obj(list={"type": "boolean"})}),
        ['{"list":[{"list":true},{"list":false}]}'],
        ['{"list":[{"list":1}]}', '{"list":[true]}'],
    ),
    "properties with the names of rules": (
        obj(string={"type": "integer"}, root={"type": "string"}, space={"enum": [1, 2]}, value={"type": "array"}),
        ['{"root":"a","space":2,"string":3,"value":[1,"a",{"b":[]}]}'],
        ['{"root":3,"space":2,"string":3,"value":[]}'],
    ),
    # what it did not
    "anything": (True, ["1", '{"a":[null,{}]}', '"x"', "[[],{}]"], ["{a:1}", "[1,]", '{"a":}']),
    "anything, empty": ({}, ["true", "{}"], ["x"]),
    "any object": ({"type": "object"}, ["{}", '{"a":1,"b":[2]}'], ["[]", '{"a"}']),
    "map": (
        {"type": "object", "additionalProperties": {"type": "integer"}},
        ["{}", '{"a":1}', '{"a":1,"b":2}'],
        ['{"a":"1"}', '{"a":1,}'],
    ),
    "no properties": ({"type": "object", "additionalProperties": False}, ["{}", "{ }"], ['{"a":1}']),
    "required first": (
        {**obj(a={"type": "null"}, b={"type": "null"}, c={"type": "null"}), "required": ["a"]},
        ['{"a":null}', '{"a":null,"b":null}', '{"a":null,"c":null}', '{"a":null,"b":null,"c":null}'],
        ["{}", '{"b":null}', '{"a":null,}', '{"a":null,"c":null,"b":null}'],
    ),
    "required in the middle": (
        {**obj(a={"type": "null"}, b={"type": "null"}, c={"type": "null"}), "required": ["b"]},
        ['{"b":null}', '{"a":null,"b":null}', '{"b":null,"c":null}', '{"a":null,"b":null,"c":null}'],
        ["{}", '{"a":null}', '{"c":null}', '{"a":null,"c":null}', '{,"b":null}'],
    ),
    "nothing required": (
        {**obj(a={"type": "null"}, b={"type": "null"}, c={"type": "null"}), "required": []},
        ["{}", '{"a":null}', '{"b":null}', '{"c":null}', '{"a":null,"c":null}', '{"a":null,"b":null,"c":null}'],
        ['{"b":null,"a":null}', '{"a":null,"a":null}', '{"a":null "b":null}'],
    ),
    "required beyond the properties": (
        {**obj(a={"type": "null"}), "required": ["a", "z"], "additionalProperties": {"type": "integer"}},
        ['{"a":null,"z":1}'],
        ['{"a":null}', '{"a":null,"z":"1"}'],
    ),
    "types": ({"type": ["integer", "string", "null"]}, ["1", '"a"', "null"], ["true", "1.5"]),
    "types and their keywords": (
        {"type": ["string", "array"], "maxLength": 1, "items": {"type": "null"}},
        ['""', '"a"', "[null]"],
        ['"ab"', "[1]"],
    ),
    "length": (
        {"type": "string", "minLength": 2, "maxLength": 3},
        ['"ab"', '"abc"', r'"\n\u0041"', '"日本語"'],
        ['"a"', '"abcd"', '""'],
    ),
    "at least": ({"minLength": 2}, ['"ab"', '"abcdef"'], ['"a"']),
    "at most": ({"type": "string", "maxLength": 0}, ['""'], ['"a"']),
    "items": ({"items": {"const": 1}, "minItems": 2, "maxItems": 3}, ["[1,1]", "[1,1,1]"], ["[1]", "[1,1,1,1]"]),
    "one item": ({"items": {"const": 1}, "minItems": 1, "maxItems": 1}, ["[1]"], ["[]", "[1,1]"]),
    "no items": ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    "items false": ({"type": "array", "items": False}, ["[]"], ["[1]"]),
    "tuple": (
        {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}]},
        ["[1,2]"],
        ["[1]", "[2,1]", "[1,2,3]", "[]"],
    ),
    "tuple, shorter ones too": (
        {"prefixItems": [{"const": 1}, {"const": 2}], "minItems": 0},
        ["[]", "[1]", "[1,2]"],
        ["[2]", "[1,]", "[1,2,3]"],
    ),
    "tuple with more": (
        {"prefixItems": [{"const": 1}], "items": {"const": 0}, "maxItems": 3},
        ["[1]", "[1,0]", "[1,0,0]"],
        ["[]", "[0]", "[1,0,0,0]"],
    ),
    "$ref": (
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}},
        ["5"],
        ['"5"'],
    ),
    "recursion": (
        {"$ref": "#/$defs/n", "$defs": {"n": obj(next={"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]})}},
        ['{"next":null}', '{"next":{"next":{"next":null}}}'],
        ['{"next":{}}', "null"],
    ),
    "recursion to the root": (
        {"type": "array", "items": {"$ref": "#"}},
        ["[]", "[[],[[]]]"],
        ["[1]", "[[]"],
    ),
    "allOf": (
        {
            "allOf": [obj(a={"type": "number"}), {"$ref": "#/$defs/more"}, True],
            "properties": {"a": {"type": ["integer", "string"]}},
            "$defs": {"more": obj(b={"type": "string", "minLength": 1})},
        },
        ['{"a":1,"b":"x"}'],
        ['{"a":1.5,"b":"x"}', '{"a":"s","b":"x"}', '{"a":1,"b":""}', '{"a":1}'],
    ),
    "allOf of bounds": (
        {"allOf": [{"type": "string", "minLength": 1, "maxLength": 9}, {"minLength": 2}, {"maxLength": 2}]},
        ['"ab"'],
        ['"a"', '"abc"'],
    ),
    "allOf of required": (
        {"allOf": [obj(a={"type": "null"}, b={"type": "null"}), {"required": ["b"]}]},
        ['{"b":null}', '{"a":null,"b":null}'],
        ['{"a":null}', "{}"],
    ),
    "allOf, one of them closed": (
        {
            "allOf": [
                {**obj(a={"type": "null"}), "additionalProperties": False, "required": []},
                {**obj(a={"type": "null"}, b={"type": "null"}), "required": ["a"]},
            ]
        },
        ['{"a":null}'],
        ['{"a":null,"b":null}', "{}"],
    ),
    "$ref beside others": (
        {"$ref": "#/$defs/s", "maxLength": 2, "$defs": {"s": {"type": "string", "minLength": 1}}},
        ['"a"', '"ab"'],
        ['""', '"abc"'],
    ),
    "anyOf beside others": (
        {**obj(a={"type": "null"}), "anyOf": [obj(b={"const": 1}), obj(c={"const": 2})]},
        ['{"a":null,"b":1}', '{"a":null,"c":2}'],
        ['{"a":null}', '{"b":1}', '{"a":null,"b":1,"c":2}'],
    ),
    "notes": ({"title": "t", "description": "d", "default": 1, "examples": [], "type": "null"}, ["null"], ["1"]),
    "names that need care": (
        obj(**{'a"b\\\n\u0001': {"type": "null"}, "é🙂": {"type": "null"}}),
        [r'{"a\"b\\\n\u0001":null,"é🙂":null}'],
        [],
    ),
}

ERRORS: dict[str, tuple[Any, str]] = {
    "pattern": (obj(a={"type": "string", "pattern": "a+"}), "#/properties/a/pattern: is not supported"),
    "format": ({"items": {"format": "date"}}, "#/items/format: is not supported"),
    "minimum": ({"type": "integer", "minimum": 1}, "#/minimum: is not supported"),
    "not": ({"anyOf": [{"not": {}}]}, "#/anyOf/0/not: is not supported"),
    "if": ({"prefixItems": [True, {"if": True}]}, "#/prefixItems/1/if: is not supported"),
    "patternProperties": ({"$defs": {"x": {"patternProperties": {}}}, "$ref": "#/$defs/x"}, "#/$defs/x/patternProp"),
    "a name with slash and tilde": (obj(**{"a/~": {"uniqueItems": True}}), "#/properties/a~1~0/uniqueItems"),
    "additionalProperties": ({"additionalProperties": {"format": "x"}}, "#/additionalProperties/format"),
    "allOf": ({"allOf": [{}, {"properties": {"a": {"pattern": ""}}}]}, "/a/pattern: is not supported"),
    "type": ({"type": "text"}, '#/type: "text" is not a type'),
    "false": (obj(a=False), "#/properties/a: allows nothing"),
    "a number": (obj(a=7), "#/properties/a: is 7, not a schema"),
    "remote": ({"$ref": "https://example.com/s"}, "#/$ref: is not a reference into this document"),
    "missing": ({"$ref": "#/$defs/x"}, "#/$ref: #/$defs/x is not there"),
    "itself": ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "refers to itself"),
    "itself through anyOf": (
        {"$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        "#/$defs/a/anyOf/1/$ref: #/$defs/a refers to itself",
    ),
    "itself through allOf": (
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}], "type": "null"}}, "$ref": "#/$defs/a"},
        "refers to itself",
    ),
    "no count": ({"minItems": -1}, "#/minItems: -1 is not a count"),
    "fraction": ({"type": "string", "maxLength": 1.5}, "#/maxLength: 1.5 is not a count"),
    "bounds": ({"minLength": 3, "maxLength": 2}, "#: allows nothing: minLength is above maxLength"),
    "too few items": ({"prefixItems": [True], "items": False, "minItems": 2}, "#: allows nothing"),
    "no shared type": ({"allOf": [{"type": "string"}, {"type": "null"}]}, "#/type: allows nothing"),
    "no shared value": ({"allOf": [{"enum": [1, 2]}, {"enum": [3]}]}, "#: allows nothing"),
    "enum and length": ({"enum": ["a"], "maxLength": 1}, "#/maxLength: is not supported beside const or enum"),
    "ruled out": ({**obj(), "required": ["x"], "additionalProperties": False}, "#: allows nothing: x is required"),
    "differs": ({"allOf": [{"const": 1}, {"const": 2}]}, "#/const: differs"),
}


@cache
def grammars() -> dict[str, dict[str, str]]:
    return dict(zip(CASES, convert(*((schema, None) for schema, _, _ in CASES.values())), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_lets_through_and_refuses(name: str) -> None:
    result = grammars()[name]
    assert result.get("name") == "root", result
    grammar = gbnf.parse(result["grammar"])
    _, yes, no = CASES[name]
    assert [text for text in yes if not grammar.accepts(text)] == []
    assert [text for text in no if grammar.accepts(text)] == []


@pytest.mark.parametrize("name", CASES)
def test_random_sentences_satisfy_the_schema(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(CASES[name][0])
    grammar = gbnf.parse(grammars()[name]["grammar"])
    rng = random.Random(name)
    for _ in range(60):
        text = grammar.sample(rng)
        assert grammar.accepts(text), text
        validator.validate(json.loads(text))


@pytest.mark.parametrize("name", ERRORS)
def test_says_where_it_cannot(name: str) -> None:
    schema, message = ERRORS[name]
    (result,) = convert((schema, None))
    assert message in result.get("error", result)
    assert result["type"] == "Error"
    assert result["error"].startswith("#")


@pytest.mark.parametrize("order", [["c", "a"], {"c": 0, "a": 1}])
def test_order_of_properties(order: Any) -> None:
    (result,) = convert((obj(a={"const": 1}, b={"const": 2}, c={"const": 3}), order))
    grammar = gbnf.parse(result["grammar"])
    assert grammar.accepts('{"c":3,"a":1,"b":2}')
    assert not grammar.accepts('{"a":1,"b":2,"c":3}')


def test_alternatives_that_exclude_each_other() -> None:
    """Of anyOf x oneOf, a pair without a common type is an error that says so: nothing is dropped in silence."""
    schema = {"anyOf": [{"type": "integer"}, {"type": "string"}], "oneOf": [{"type": "number"}, {"type": "null"}]}
    (result,) = convert((schema, None))
    assert "allows nothing" in result["error"]


def test_a_grammar_of_2023_syntax_where_nothing_is_counted() -> None:
    """Braces came to GBNF later: servers of 2023 still read what has no bounds."""
    for name in ("nested", "required in the middle", "recursion", "tuple, shorter ones too"):
        assert "{" not in "".join(part for part in grammars()[name]["grammar"].split('"')[::2])


def test_the_reader_of_the_tests_finds_faults() -> None:
    for broken in (
        'root ::= "a',
        "root ::= (a\n",
        "root ::= b\n",
        'foo ::= "a"\n',
        'root ::= "\\q"\n',
        "root ::= [a\n",
    ):
        with pytest.raises(ValueError):
            gbnf.parse(broken)
    assert not gbnf.parse('root ::= "a"{2,3}\n').accepts("a")
