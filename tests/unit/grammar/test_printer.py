"""GBNF from the intermediate form: printed and read again, it is the same language."""

from __future__ import annotations

import random
import re

import pytest
from llamakit.plugins.samplers.grammar import parse
from llamakit.plugins.samplers.grammar.build import NOTHING
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.generate import random_text
from llamakit.plugins.samplers.grammar.ir import (
    Alt,
    Automaton,
    Chars,
    Grammar,
    Ref,
    Repeat,
    Rule,
    Seq,
    State,
    Text,
    Tokens,
)
from llamakit.plugins.samplers.grammar.printer import to_gbnf

from llamakit import json_schema_to_grammar
from llamakit.grammar import study
from tests.examples import gbnf
from tests.timing import is_quick

NODE = {
    "type": "object",
    "properties": {"next": {"$ref": "#/$defs/a b/ü"}, "v": {"enum": [1, "x\n", None]}},
    "required": ["v"],
    "$defs": {"a b": {"ü": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "root": True},
}
TABLE = [
    ("json_schema", True),
    ("json_schema", NODE),
    ("json_schema", {"$ref": "#/$defs/root", "$defs": {"root": {"type": "array", "items": {"$ref": "#/$defs/root"}}}}),
    ("json_schema", {"type": "integer", "minimum": -17, "maximum": 20345}),
    ("json_schema", {"type": "number", "exclusiveMinimum": 0.25, "maximum": 3}),
    ("json_schema", {"type": "integer", "multipleOf": 7}),
    ("json_schema", {"type": "string", "pattern": "ab|[^a-c]d", "minLength": 3, "maxLength": 9}),
    ("json_schema", {"type": "string", "format": "date-time"}),
    ("json_schema", {"type": "object", "patternProperties": {"^x-": {"type": "boolean"}}}),
    ("json_schema", {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 5}),
    ("regex", r"[^\d\-\^\]\[\\]{0,7}|x{3}|(ab?)+|\t\n\r\"\x00\u2028"),
    ("regex", r"(?:(?:a{2}){3,}b?){0,2}|.+|[\s\S]"),
    ("regex", r"[\u{1F600}-\u{1F64F}é-ü\x7f-\x9f]{2}"),
    ("regex", r"[\^-]|[a\]-]"),
    ("choices", ['a"b', "\n\\", "", "[x]", "é😀\u200b"]),
    ("gbnf", 'root ::= sum\nsum ::= sum "+" d | d\nd ::= [0-9]'),
    ("gbnf", 'root ::= "(" root ")" | ("" | "x")*'),
    ("gbnf", "root ::= (a_b a-b){2}\na_b ::= \"1\"\na-b ::= [^\\x00-\\x20]?"),
    ("gbnf", 'root ::= ("a"*)+ ("b"{2,4}){3} .'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "source"), TABLE)
def test_read_again_it_is_the_same(matches, kind, source):
    same_language(matches, parse(kind, source))


def same_language(matches, grammar, count=60):
    text = to_gbnf(grammar)
    again = parse("gbnf", text)
    for one, other in ((grammar, again), (again, grammar)):
        rng, holds = random.Random(5), matches(other)
        assert [t for t in (random_text(one, rng) for _ in range(count)) if not holds(t)] == [], text
    return text


@pytest.mark.parametrize(("kind", "source"), [row for row in TABLE if "." not in str(row[1])])
def test_another_reader_of_gbnf_says_the_same(kind, source):
    grammar, rng = parse(kind, source), random.Random(1)
    other = gbnf.parse(to_gbnf(grammar))
    texts = [text for text in (random_text(grammar, rng) for _ in range(20)) if len(text) < 80]
    assert [text for text in texts if not other.accepts(text)] == []
    assert len(texts) > 10


def test_checking_a_long_text_takes_time_as_its_length():
    found = study("json_schema", True)
    right, wrong = "[" + "1, " * 100_000 + "1]", "[" + "1, " * 100_000 + "x"
    assert is_quick(5, lambda: (found.check(right), found.check(wrong)))
    assert found.check(right).accepted
    assert found.check(wrong).column == 300_002


def made(body, *others):
    return Grammar((Rule("root", body, ""), *others), 0)


def test_what_gbnf_has_no_words_for(matches):
    loop = Automaton((
        State(((0x61, 0x63, 0), (0x78, 0x78, 1), (0x79, 0x79, 2)), False),
        State(((0x30, 0x39, 1), (0x41, 0x41, 0)), True),
        State(((0x41, 0x5A, 2),), False),  # nothing is accepted from here
    ))  # fmt: skip
    same_language(matches, made(Repeat(loop, 2, 3)))
    same_language(matches, made(Seq((Alt((Text(b"a"), NOTHING, Seq((Text(b"q"), Chars(()))))), Repeat(NOTHING, 0, 4)))))
    names = [Rule(name, Text(str(n).encode()), "") for n, name in enumerate(("root", "ä ö", "a_b", "a-b", "-", "x.y"))]
    text = same_language(matches, made(Seq(tuple(Ref(n + 1) for n in range(len(names)))), *names))
    assert re.fullmatch(r"([a-zA-Z0-9-]+ ::= [^\n]*\n)+", text)
    never = Rule("never", Seq((Text(b"x"), Ref(1))), "")
    assert to_gbnf(made(Alt((Text(b"a"), Ref(1))), never)) == 'root ::= "a"\n'


def test_an_automaton_of_many_states(matches):
    n = 400
    chain = [State(((0x61, 0x61, i + 1), (0x62, 0x62, (i * 7) % n)), i % 50 == 49) for i in range(n)]
    same_language(matches, made(Automaton((*chain, State((), True)))), count=5)


def test_counts_beyond_nine_digits():
    text = to_gbnf(made(Repeat(Text(b"ab"), 1_500_000_000, 1 << 31)))
    counts = [(int(a), int(b or a)) for a, b in re.findall(r"\{(\d+)(?:,(\d+))?\}", text)]
    assert sum(a for a, _ in counts) == 1_500_000_000
    assert sum(b for _, b in counts) == 1 << 31
    assert max(b for _, b in counts) < 10**9
    parse("gbnf", text)


def test_tokens_keep_their_ids():
    text = to_gbnf(made(Seq((Repeat(Tokens((7, 9), False), 0, None), Tokens((3,), True)))))
    assert text == "root ::= (<[7]> | <[9]>)* !<[3]>\n"
    parse("gbnf", text)
    with pytest.raises(GrammarError, match="any token but one of several"):
        to_gbnf(made(Tokens((1, 2), True)))


def test_a_grammar_of_nothing_is_said():
    with pytest.raises(GrammarError, match="matches no text"):
        to_gbnf(parse("regex", r"[^\s\S]"))


def test_the_public_function():
    text = json_schema_to_grammar('{"type": "boolean"}')
    assert text == 'root ::= "true" | "false"\n'
    with pytest.raises(GrammarError, match="not"):
        json_schema_to_grammar({"type": "integer", "not": {"multipleOf": 7}})
    assert json_schema_to_grammar({"type": "null", "not": {"multipleOf": 7}}, lenient=True) == 'root ::= "null"\n'
