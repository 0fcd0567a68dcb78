"""Lark's notation: what is in a grammar and what is not, compared with lark itself, and what is said of bad ones."""

from __future__ import annotations

import contextlib
import random

import lark
import pytest
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.gbnf import parse_gbnf
from llamakit.plugins.samplers.grammar.generate import random_text
from llamakit.plugins.samplers.grammar.lark_common import COMMON
from llamakit.plugins.samplers.grammar.lark_notation import parse_lark
from llamakit.plugins.samplers.grammar.printer import to_gbnf

from tests.timing import is_quick

CALCULATOR = r"""
%import common.NUMBER
%import common (WS_INLINE, CNAME)
%import common.ESCAPED_STRING -> TEXT
%ignore WS_INLINE
// a comment
?start: sum
  | NAME "=" sum    -> assign_var

?sum: product
    | sum "+" product   -> add
    | sum "-" product   -> sub

?product.2: atom
    | product ("*"|"/") atom
!atom: NUMBER | "-" atom | NAME | "(" sum ")" | "sqrt"i "(" sum ")" | TEXT
NAME.3: CNAME
"""
JSON = r"""
?start: value
?value: object | array | string | SIGNED_NUMBER -> number | "true" | "false" | "null"
array : "[" [value ("," value)*] "]"
object: "{" [pair ("," pair)*] "}"
pair  : string ":" value
string: ESCAPED_STRING
%import common.ESCAPED_STRING
%import common.SIGNED_NUMBER
%import common.WS
%ignore WS
"""
TABLE = [  # grammar, texts in it, texts that are not
    (CALCULATOR, ["1", "a = 1 + 2*( SQRT(x) )", ' "s\\"" - -3.5e2'], ["", "1 +", "a = = 1", "(1", "a\n"]),
    (JSON, ['{"a": [1, -2.5, {}]}', " [ ]\n", "true"], ["", "{1: 2}", "[1,]", "tru e"]),
    ('start: "a"~2..3 "b"?', ["aa", "aaab"], ["a", "aaaa", "aabb"]),
    ('start: "ab"~2\n', ["abab"], ["ab", "ababab"]),
    ('start: ("x" | "y" B)+ [C]\nB: "0".."3"\nC: /c{2}/', ["x", "y3x", "xcc"], ["", "y", "y4", "xc"]),
    ('start: A B\nA: /[^x-z\\/]+/i\nB: "st" "\\u00e4\\n"', ["abstä\n"], ["xstä\n", "Xstä\n", "a/stä\n", "abst"]),
    ('start: A\nA: /k.[a-c]é/is', ["K\nBÉ", "kxaé"], ["kxdé", "xxaé"]),
    ('start: A\nA: /a.c/', ["abc", "a\rc"], ["a\nc"]),
    ('start: _list{"x"}\n_list: "x"', None, "line 1, column 8: templates are not possible"),
    ('start: A _sep A\n_sep: ","\nA: "a" | "b"\n%ignore " "', ["a , b", " a,a "], ["a b", "ab"]),
    ('A: "a" "b"\nstart: A A\n%ignore " "', ["abab", " ab ab "], ["a bab"]),
    ('start: "(" start ")" | "."', [".", "((.))"], ["(.", ""]),
    ("start: a*\na: \"x\" |\n", ["", "xx"], ["y"]),
    ('start: ("a"\n  | "b" -> bee\n  "c")', None, "line 3, column 3"),
    ('start: ("a"\n  | "b"\n  "c"\n)', ["a", "bc"], ["b"]),
    ('start: (A | "b")*\n%ignore /#[^\\n]*\\n/ // to the end of the line\n%ignore /\\/\\*.*?\\*\\//s\nA: /\\#/ # one',
     ["#/*\n*/b# x\n", "# #\n#"], ["x", "b/*"]),
    ("start: \\\n  \"a\"", ["a"], [""]),
    ('%llguidance {}\nstart: "a"', ["a"], [""]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "good", "bad"), [row for row in TABLE if row[1] is not None])
def test_texts(matches, text, good, bad):
    grammar = parse_lark(text)
    for each in (grammar, parse_gbnf(to_gbnf(grammar))):
        holds = matches(each)
        assert [t for t in good if not holds(t)] == []
        assert [t for t in bad if holds(t)] == []


@pytest.mark.parametrize("text", [CALCULATOR, JSON, *(row[0] for row in TABLE[2:8]), *(row[0] for row in TABLE[9:13])])
def test_lark_says_the_same(matches, text):
    """Earley with all ways to cut a text into terminals is what a grammar without a lexer means."""
    judge = lark.Lark(text, parser="earley", lexer="dynamic_complete")
    grammar, rng = parse_lark(text), random.Random(3)
    holds, n_good = matches(grammar), 0
    for _ in range(60):
        sample = random_text(grammar, rng, budget=14)[:40]
        for changed in (sample, mutated(sample, rng)):
            try:
                judge.parse(changed)
                good = True
            except lark.exceptions.LarkError:
                good = False
            assert holds(changed) is good, changed
            n_good += good
    assert n_good >= 50


def mutated(text, rng):
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(["", " ", "x", "(", '"', "1", "a"]) + text[place + rng.randrange(2) :]


@pytest.mark.parametrize("name", sorted(COMMON))
def test_common_terminals(matches, name):
    text = f"start: {name}\n%import common.{name}"
    judge = lark.Lark(text, parser="earley", lexer="dynamic_complete")
    grammar, rng = parse_lark(text), random.Random(name)
    for _ in range(30):
        judge.parse(random_text(grammar, rng, budget=12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rule 'start'"),
        ("begin: \"a\"", "there are: begin"),
        ("start: (", "ends too early"),
        ("start: a b\na: \"x\"", "line 1, column 10: the rule 'b' is used but not defined"),
        ("start: NUMBR\n%import common.NUMBER", "'NUMBR' is used but not defined"),
        ("start: A\n%import common.NUMBR -> A", "`common` has no NUMBR"),
        ("start: A\n%import .other.A", "other files"),
        ("start: A\n%import python.A", "only `common`"),
        ("start: A\n%declare A", "line 2, column 1: %declare is not possible"),
        ("start: \"a\"\nstart: \"b\"", "defined twice"),
        ("start: A\nA: b\nb: \"x\"", "a terminal cannot hold the rule 'b'"),
        ("start: A\nA: /a(?=b)/", "line 2, column 7: look-around"),
        ("start: A\nA: /a/x", "flag 'x'"),
        ('start: "\\d"', "no escape"),
        ('start: "b".."a"', "a range goes"),
        ('start: "a"~3..2', "wrong way round"),
        ("start: *", "nothing before"),
        ("start: <think>", "needs the vocabulary"),
        ("start: a\na: b \"x\"\nb: a \"y\" | \"z\"", "begins with itself: a -> b -> a"),
        ("start: " + "(" * 5000, "parentheses within one another"),
        ('start: "a" "\ud800"', None),
    ],
)  # fmt: skip
def test_errors_name_the_place(text, said):
    with pytest.raises(GrammarError) as caught:
        parse_lark(text)
    assert said is None or said in str(caught.value)


@pytest.mark.parametrize("row", [row for row in TABLE if row[1] is None])
def test_rows_that_are_refused(row):
    with pytest.raises(GrammarError, match=row[2]):
        parse_lark(row[0])


def test_tokens_by_name_and_number():
    grammar = parse_lark("start: <think> <[7]>", token_ids=lambda text: [5] if text == "<think>" else [1, 2])
    assert to_gbnf(grammar).endswith("start ::= <[5]> <[7]>\n")
    with pytest.raises(GrammarError, match="not a single token"):
        parse_lark("start: <other>", token_ids=lambda text: [1, 2])


@pytest.mark.parametrize("text", [
    "start: " + "[" * 50 + '"a"' + "]" * 50, "start: " + '"a"?' * 20_000, "a: " * 20_000, "start: \"" + "a" * 200_000,
    "\n" * 200_000, "start: a\n" + "\n".join(f"a{i}: a{i + 1}" for i in range(5000)), "%" * 100_000, "/" * 100_000,
    "start: " + "| " * 50_000, "start: A\n" + 'A: "a" ' * 2 + "// " * 50_000, 'start: "a"' + "~2" * 5000,
])  # fmt: skip
def test_hostile_grammars_end_soon(text):
    def read():
        with contextlib.suppress(GrammarError):
            parse_lark(text)

    assert is_quick(4, read)
