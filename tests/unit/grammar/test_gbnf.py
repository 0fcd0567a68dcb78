"""GBNF: what is in a grammar and what is not, and what is said of grammars that cannot be used."""

from __future__ import annotations

import contextlib

import pytest
from llamakit.plugins.samplers.grammar.compile import network
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.gbnf import parse_gbnf

from tests.timing import is_quick

JSON = r"""
root   ::= value
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,2})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
TABLE = [  # grammar, texts in it, texts that are not
    (JSON, ["{}", "[]", '{"a": [1, -2.5e+3, "x\\n\\u00e9", {"b": null}]}', '"é中😀"', "0", "true "],
     ["", "{", '{"a":}', "[1,]", "01", '"\\x"', '"\n"', "tru", "{}x", "[1 2]"]),
    ('root ::= "a"{2,3}', ["aa", "aaa"], ["", "a", "aaaa"]),
    ('root ::= "ab"{2}', ["abab"], ["ab", "ababab"]),
    ('root ::= "a"{2,} "b"', ["aab", "aaaaaaab"], ["ab", "b"]),
    ('root ::= [0-9]{0,2}', ["", "1", "12"], ["123", "a"]),
    ('root ::= "a"+ "b"* "c"?', ["a", "aab", "abbc", "ac"], ["", "b", "acc"]),
    ("root ::= x | y\nx ::= [a-c]+\ny ::= \"q\" x?", ["abc", "q", "qa"], ["", "qq", "d"]),
    ('root ::= "a"\n  | "b"', ["a", "b"], ["ab"]),
    ("root ::= [^a-c]", ["d", "é", "😀"], ["a", "", "dd"]),
    ("root ::= [a\\-z]", ["a", "-", "z"], ["b"]),
    ("root ::= [-a] [a-]", ["-a", "a-"], ["ab"]),
    ("root ::= .", ["a", "\n", "中"], ["", "ab"]),
    ('root ::= ""', [""], ["a"]),
    ('root ::= ("" | "x")*', ["", "xxx"], ["y"]),
    ('root ::= ("a"?){3,5} "b"', ["b", "ab", "aaaaab"], ["aaaaaab"]),
    ('root ::= (("a" | "b"){2} ","){1,2}', ["ab,", "ab,ba,"], ["a,", "ab,ab,ab,"]),
    ('root ::= "\\x41\\u00e9\\U0001F600\\t"', ["Aé😀\t"], ["A"]),
    ('root ::= sum\nsum ::= sum "+" digit | digit\ndigit ::= [0-9]', ["1", "1+2+3"], ["+", "1+", ""]),
    ('root ::= "(" root ")" | ""', ["", "()", "((()))"], ["(", "())"]),
    ("my_rule ::= \"q\"\nroot ::= my_rule # a comment | not more", ["q"], ["qq"]),
    ('root ::= "a"{0,1000000}', ["", "a" * 500], ["b"]),
    ('root ::= "a" root | "b"', ["b", "aaab"], ["a", "ba"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "good", "bad"), TABLE)
def test_texts(matches, text, good, bad):
    holds = matches(parse_gbnf(text))
    assert [t for t in good if not holds(t)] == []
    assert [t for t in bad if holds(t)] == []


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ('root ::= "a', "cannot stand here", 1, 10),
        ("root ::= (", "ends too early", 1, 11),
        ("root ::= b", "'b' is used but not defined", 1, 10),
        ('root ::= "x"\nfoo ::= "y" bar', "'bar' is used but not defined", 2, 13),
        ('root ::= "a"{3,1}', "wrong way round", 1, 13),
        ("root ::= [z-a]", "z-a", 1, 10),
        ('root ::= "\\q"', "no escape", 1, 10),
        ("root ::= *", "nothing before '*'", 1, 10),
        ('root ::= "a" ::= "b"', "cannot stand here", 1, 14),
        ('root ::= "a"{9999999999}', "too large", 1, 13),
        ("root ::= <nope>", "vocabulary", 1, 10),
    ],
)
def test_errors_have_a_place(text, message, line, column):
    with pytest.raises(GrammarError, match=message.replace("(", r"\(").replace("*", r"\*")) as caught:
        parse_gbnf(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert "^" in caught.value.found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('foo ::= "a"', "no rule 'root'"),
        ("", "no rule 'root'"),
        ("root ::= root", "matches no text"),
        ('root ::= "a" root', "matches no text"),
        ('root ::= a\na ::= b "x"\nb ::= a "y" | "z"', "a -> b -> a"),
    ],
)
def test_errors_of_the_whole(text, message):
    with pytest.raises(GrammarError, match=message):
        parse_gbnf(text)


def test_tokens_of_a_vocabulary():
    grammar = parse_gbnf('root ::= <[5]> !<think> "x"', token_ids=lambda text: [7] if text == "<think>" else [1, 2])
    assert network(grammar).n_state > 3
    with pytest.raises(GrammarError, match="not a single token"):
        parse_gbnf("root ::= <other>", token_ids=lambda text: [1, 2])


@pytest.mark.parametrize(
    "text",
    [
        "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000,
        "root ::= " + '("a" ' * 3000 + ")" * 3000,
        'root ::= "a"{999999999}',
        'root ::= ((((("a"?){1,1000}){1,1000}){1,1000}){1,1000}){1,1000}',
        "root ::= " + "# " * 20_000,
        "root ::= " + '"' * 9999,
        "[" * 20_000,
        "root ::= " + "a{" * 5000,
    ],
)
def test_hostile_grammars_take_no_time(text):
    parse_gbnf('root ::= "a"')  # the tables are made

    def read():
        with contextlib.suppress(GrammarError):
            network(parse_gbnf(text))

    assert is_quick(0.25, read)  # 0.05 on a quiet machine
