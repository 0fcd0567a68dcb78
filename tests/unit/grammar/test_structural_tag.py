"""Structural tags: what each format allows, the same as xgrammar where that is installed, and what is refused."""

from __future__ import annotations

import random

import pytest

from llamakit.errors import UsageError
from llamakit.grammar import study
from tests.timing import is_quick

NUMBER = {"type": "json_schema", "json_schema": {"type": "integer", "minimum": 0}}
TEXT = {"type": "any_text"}


def const(value):
    return {"type": "const_string", "value": value}


def tag(begin, content, end):
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def triggered(**more):
    tags = [tag("<f>", NUMBER, "</f>"), tag("<fg>", const("x"), "</fg>")]
    return {"type": "triggered_tags", "triggers": ["<f"], "tags": tags} | more


def separated(**more):
    tags = [tag("<f>", NUMBER, "</f>"), tag("<g>", const("x"), "</g>")]
    return {"type": "tags_with_separator", "separator": ",", "tags": tags} | more


def dispatch(**more):
    return {"type": "dispatch", "rules": [["<f", const(">1")], ["<g", NUMBER]]} | more


TABLE = [
    (const("ab"), ["ab"], ["", "a", "abb"]),
    ({"type": "sequence", "elements": [const("a"), const("b")]}, ["ab"], ["a", "ba"]),
    ({"type": "or", "elements": [const("a"), const("b")]}, ["a", "b"], ["", "ab"]),
    ({"type": "optional", "content": const("ab")}, ["", "ab"], ["abab"]),
    ({"type": "plus", "content": const("ab")}, ["ab", "abab"], ["", "aba"]),
    ({"type": "star", "content": const("ab")}, ["", "abab"], ["a"]),
    ({"type": "repeat", "min": 1, "max": 2, "content": const("a")}, ["a", "aa"], ["", "aaa"]),
    ({"type": "repeat", "min": 2, "max": -1, "content": const("a")}, ["aa", "aaaaa"], ["a"]),
    ({"type": "regex", "pattern": "[ab]{2}"}, ["ab", "bb"], ["a", "abc"]),
    ({"type": "grammar", "grammar": 'root ::= "a" b\nb ::= "b"*'}, ["a", "abb"], ["b", ""]),
    (TEXT, ["", "anything <at> all\n", "\U0001f600"], []),
    ({"type": "any_text", "excludes": ["<f", "aba"]}, ["", "<", "ab<ab", "<<"], ["<f", "a<f", "<<f", "ababa", "xaba"]),
    ({"type": "any_text", "max_chars": 3}, ["", "a\u00e4b"], ["abcd"]),
    (tag("<f>", NUMBER, "</f>"), ["<f>1</f>"], ["<f></f>", "<f>x</f>", "<f>1</f> "]),
    (tag("<f>", TEXT, "</f>"), ["<f></f>", "<f>a<f></f>", "<f></</f>"], ["<f></f></f>", "<f>"]),
    (tag("<f>", TEXT, ["</f>", "</g>"]), ["<f>a</g>", "<f>a</f>"], ["<f>a</g></f>"]),
    (triggered(), ["", "a < b", "x<f>12</f>y<fg>x</fg>", "<f>1</f><f>2</f>"], ["<f", "<f>x</f>", "<fg>1</fg>", "a<f>"]),
    (triggered(at_least_one=True), ["<f>1</f>", "<f>1</f> then <fg>x</fg>"], ["", "a<f>1</f>"]),
    (triggered(stop_after_first=True), ["a<f>1</f>", "a"], ["<f>1</f> ", "<f>1</f><f>1</f>"]),
    (triggered(at_least_one=True, stop_after_first=True), ["<f>1</f>"], ["", "a<f>1</f>", "<f>1</f>a"]),
    (separated(), ["", "<f>1</f>", "<f>1</f>,<g>x</g>,<f>2</f>"], ["<f>1</f>,", "<f>1</f><g>x</g>", " "]),
    (separated(at_least_one=True), ["<g>x</g>"], [""]),
    (separated(stop_after_first=True), ["", "<g>x</g>"], ["<g>x</g>,<g>x</g>"]),
    (dispatch(), ["", "a<f>1b<g7c", "<f>1<f>1"], ["<f", "<fx", "<g<g"]),
    (dispatch(loop=False), ["", "a<f>1", "b"], ["a<f>1b"]),
    (dispatch(excludes=["no"]), ["n<f>1o", "a"], ["no", "<f>1no"]),
    (
        {"type": "sequence", "elements": [tag("<t>", TEXT, "</t>"), triggered()]},
        ["<t>a</t>", "<t>1<f</t>b<f>1</f>"],
        ["<t>a", "<t></t><f"],
    ),
]
OURS = [  # what xgrammar has not, or has otherwise
    ({"type": "lark", "grammar": 'start: "a" B\nB: /b+/'}, ["ab", "abb"], ["a"]),
    ({"type": "any_text", "not_begin": "a+b"}, ["", "a", "aac", "xaab"], ["ab", "aab", "abx"]),
    ({"type": "any_text", "not_begin": "a", "excludes": ["b"]}, ["", "ca"], ["a", "cb"]),
    ({"type": "sequence", "elements": [TEXT, const("end")]}, ["end", "en end"], ["", "endend"]),
    (
        {"type": "sequence", "elements": [TEXT, {"type": "optional", "content": const("X")}, const("Y")]},
        ["aXY", "Y"], ["aX", "XXY"],
    ),
    ({"type": "star", "content": {"type": "sequence", "elements": [TEXT, const(";")]}}, ["", "a;b;"], ["a;b"]),
]  # fmt: skip


def ids(rows):
    return [f"{i}-{row[0]['type']}" for i, row in enumerate(rows)]


@pytest.mark.parametrize(("format", "good", "bad"), TABLE + OURS, ids=ids(TABLE + OURS))
def test_what_is_allowed(format, good, bad):
    found = study("structural_tag", {"type": "structural_tag", "format": format})
    assert [text for text in good if not found.check(text).accepted] == []
    assert [text for text in bad if found.check(text).accepted] == []
    assert all(found.check(text).accepted for text in found.texts(20, seed=1))


BITS = ["<f>", "</f>", "1", "<g>", "</g>", "x", "a", "b", ",", "<f", "<fg>", "</fg>", "<t>", "</t>", ">", "<", "<g"]


@pytest.mark.parametrize(("format", "good", "bad"), TABLE, ids=ids(TABLE))
def test_the_same_as_xgrammar(format, good, bad):
    xgrammar = pytest.importorskip("xgrammar", reason="xgrammar is not installed")
    from xgrammar.testing import _is_grammar_accept_string

    asked = {"type": "structural_tag", "format": format}
    theirs = xgrammar.Grammar.from_structural_tag(xgrammar.StructuralTag.model_validate(asked))
    ours, rng = study("structural_tag", asked), random.Random(7)
    texts = {"".join(rng.choices(BITS, k=rng.randint(0, 6))) for _ in range(400)}
    texts |= {*good, *bad, *(text for text in ours.texts(20, seed=2) if "-0" not in text)}
    assert [t for t in sorted(texts) if ours.check(t).accepted != _is_grammar_accept_string(theirs, t)] == []


def test_the_first_kind_of_structural_tags():
    asked = {"structures": [{"begin": "<f>", "schema": {"type": "boolean"}, "end": "</f>"}], "triggers": ["<f"]}
    found = study("structural_tag", asked)
    assert found.check("so <f>true</f> it is").accepted
    assert not found.check("<f>1</f>").accepted


def test_a_lenient_schema_that_cannot_be_read_is_any_object():
    schema = {"type": "object", "properties": {"x": {"$ref": "#/nowhere"}}}
    format = {"type": "json_schema", "json_schema": schema, "lenient": True, "about": "the parameters of f"}
    found = study("structural_tag", {"format": format})
    assert found.check('{"x": 1}').accepted
    assert not found.check("1").accepted
    assert found.left_out[0].startswith("the parameters of f: ")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("{", "structural_tag: Input data was truncated"),
        ({"type": "other"}, "of type 'other'"),
        ({}, "neither format nor structures"),
        ({"format": {"type": "nothing"}}, r"Invalid value 'nothing' - at `\$.format.type`"),
        ({"format": {"type": "const_string"}}, r"missing required field `value` - at `\$.format`"),
        ({"format": {"type": "sequence", "elements": [{"type": "regex", "pattern": "("}]}}, r"^format.elements\[0\]: "),
        ({"format": {"type": "json_schema", "json_schema": {"type": "x"}}}, "^format: "),
        ({"format": {"type": "json_schema", "json_schema": {}, "style": "qwen_xml"}}, "style 'qwen_xml'"),
        ({"format": {"type": "any_text", "excludes": [""]}}, "the empty text"),
        ({"format": {"type": "any_text", "excludes": ["ab" * 2000]}}, "more than 1,000 characters"),
        ({"format": {"type": "any_text", "not_begin": "("}}, "^format: "),
        ({"format": {"type": "token", "token": "<x>"}}, "needs the vocabulary"),
        ({"format": {"type": "token", "token": -1}}, "there is no token -1"),
        ({"format": {"type": "repeat", "min": 3, "max": 2, "content": TEXT}}, "max is 2, less than min, 3"),
        ({"format": {"type": "repeat", "min": -1, "max": 2, "content": TEXT}}, "`integer` >= 0"),
        ({"format": tag("<f>", TEXT, [])}, "names no end"),
        ({"format": {"type": "triggered_tags", "triggers": ["<g"], "tags": [tag("<f>", TEXT, "</f>")]}}, "no trigger"),
        ({"format": {"type": "triggered_tags", "triggers": ["<g"], "tags": []}}, "has no tags"),
        ({"format": {"type": "or", "elements": []}}, "matches nothing"),
    ],
)
def test_what_is_refused(asked, told):
    with pytest.raises(UsageError, match=told):
        study("structural_tag", asked).n_state  # noqa: B018


def nested(depth):
    return '{"format": ' + '{"type": "star", "content": ' * depth + '{"type": "any_text"}' + "}" * depth + "}"


def test_deep_nesting_ends():
    assert study("structural_tag", nested(50)).check("abc").accepted
    for depth, told in ((100, "nests deeper"), (100_000, "nests deeper|characters")):
        with pytest.raises(UsageError, match=told):
            study("structural_tag", nested(depth))


def test_hostile_excludes_end_soon():
    texts = ["".join(chr(0x4E00 + (i * j) % 900) for j in range(1, 40)) for i in range(1, 26)]
    accepted = []

    def check():
        found = study("structural_tag", {"format": {"type": "any_text", "excludes": texts}})
        accepted.append(found.check("abc").accepted)

    assert is_quick(5, check)
    assert all(accepted)
