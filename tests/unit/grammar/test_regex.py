"""Regular expressions against Python's own, alone and together with lengths."""

from __future__ import annotations

import random
import re

import pytest
from llamakit.plugins.samplers.grammar.automata import determinize, of_length, product
from llamakit.plugins.samplers.grammar.build import Builder
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.regex import parse_pattern, parse_regex


def random_pattern(chance, depth):
    kind = chance.random()
    if depth == 0 or kind < 0.35:
        return chance.choice(["a", "b", "c", "[ab]", "[^a]", "\\d", "\\w", ".", "ab", "[a-c]", "x", "\\.", "\\s"])
    if kind < 0.6:
        return random_pattern(chance, depth - 1) + random_pattern(chance, depth - 1)
    if kind < 0.75:
        return f"(?:{random_pattern(chance, depth - 1)}|{random_pattern(chance, depth - 1)})"
    return f"({random_pattern(chance, depth - 1)})" + chance.choice(["*", "+", "?", "{2}", "{1,3}", "{2,}"])


def grammar_of(node):
    builder = Builder()
    return builder.grammar(builder.new_rule("root", "here", node))


@pytest.mark.parametrize("seed", range(4))
def test_random_expressions(matches, seed):
    chance = random.Random(seed)
    for _ in range(250):
        pattern = random_pattern(chance, 3)
        whole, part = matches(parse_regex(pattern)), matches(grammar_of(parse_pattern(pattern, search=True)))
        both = product(determinize(parse_pattern(pattern, search=True)), of_length(1, 4))
        short = matches(grammar_of(both.node()))
        for _ in range(12):
            text = "".join(chance.choice("abcx1. é") for _ in range(chance.randint(0, 6)))
            assert whole(text) == bool(re.fullmatch(pattern, text, re.ASCII)), (pattern, text)
            found = bool(re.search(pattern, text, re.ASCII))
            assert part(text) == found, (pattern, text)
            assert short(text) == (found and 1 <= len(text) <= 4), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^a$", ["a"], ["", "ba", "ab"]),
        ("^a|b$", ["axx", "xb", "a", "b"], ["xa", "bx"]),
        ("^(a|b)$", ["a", "b"], ["ab"]),
        ("(^a$|^bb$)", ["a", "bb"], ["b"]),
        ("\\p{Lu}", ["xÉ", "A"], ["é", ""]),
        ("[\\w-]{2}", ["a-"], ["a"]),
        ("a{,3}", ["a{,3}"], ["aaa"]),
        ("\\u00e9\\x41\\/", ["éA/"], ["e"]),
        ("(?<name>a)+?", ["aa"], ["b"]),
        ("[^\\s]", ["x"], [" ", "\u2003"]),
    ],
)
def test_expressions(matches, pattern, good, bad):
    holds = matches(grammar_of(parse_pattern(pattern, search=True)))
    assert all(map(holds, good))
    assert not any(map(holds, bad))


@pytest.mark.parametrize(
    "pattern",
    [
        "[a",
        "(a",
        "a)",
        "(?=x)",
        "(?!x)",
        "a**",
        "\\1",
        "a{3,1}",
        "*",
        "\\",
        "a{99999999}",
        "(" * 5000,
        "[z-a]",
        "x^y",
        "\\p{Nope}",
    ],
)
def test_what_is_not_possible_is_an_error_with_a_place(pattern):
    with pytest.raises(GrammarError, match="column"):
        parse_regex(pattern)
