"""Automata over code points: against Python's expressions, and their algebra."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest
from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.automata import DFA, accepts, determinize, of_length, product, spelled, trimmed
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.regex import parse_pattern
from llamakit.plugins.samplers.grammar.structural_tag.free_text import without

PATTERNS = ["", "a", "ab|ac", "(a|b)*abb", "a{2,4}b?", "[^a]c*", "(ab*){1,3}", "(a|ab)(c|bc)", "[a-c]+b", "ä|é*"]


def texts(seed):
    rng = random.Random(seed)
    return ["".join(rng.choices("abcäé\U0001f600", k=rng.randint(0, 8))) for _ in range(400)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_same_texts_as_python(pattern):
    dfa = determinize(parse_pattern(pattern, search=False))
    for text in texts(1):
        assert accepts(dfa, text) == bool(re.fullmatch(pattern, text)), text


@pytest.mark.parametrize("first", PATTERNS[:5])
@pytest.mark.parametrize("second", PATTERNS[5:])
def test_both_and_one_without_the_other(first, second):
    a, b = (determinize(parse_pattern(pattern, search=True)) for pattern in (first, second))
    both, rest = product(a, b), product(a, b, without=True)
    for text in texts(2):
        assert accepts(both, text) == (accepts(a, text) and accepts(b, text)), text
        assert accepts(rest, text) == (accepts(a, text) and not accepts(b, text)), text


def test_lengths():
    dfa = product(determinize(parse_pattern("[ab]*", search=False)), of_length(2, 3))
    assert [n for n in range(6) if accepts(dfa, "a" * n)] == [2, 3]


def test_states_that_lead_nowhere_are_left_out():
    dfa = DFA()
    for accepting in (False, False, True):
        dfa.add(accepting)
    dfa.edges[0] = [(97, 97, 1), (98, 98, 2)]
    dfa.edges[1] = [(97, 97, 1)]
    assert [len(edges) for edges in trimmed(dfa).edges] == [1, 0]
    assert trimmed(DFA.empty()).accepting == [False]


def test_spellings():
    dfa = spelled(determinize(parse_pattern("[a-d]x", search=False)), [(98, "/b"), (99, "/cc")])
    good = {"ax", "/bx", "/ccx", "dx"}
    tried = good | {"bx", "cx", "/x", "/cx", "a", "/b"}
    assert {text for text in tried if accepts(dfa, text)} == good


def test_an_edge_that_leads_nowhere_is_refused():
    dfa = DFA()
    dfa.add(True)
    dfa.edges[0] = [(97, 97, 7)]
    with pytest.raises(ValueError, match="leads to no state"):
        trimmed(dfa)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [("(a|b)*a(a|b){14}", "4,?000 states|too ambiguous"), ("(a{1,300}){1,300}", "too large"), ("a{301}", "301|300")],
)
def test_limits(pattern, told):
    with pytest.raises(GrammarError, match=told):
        determinize(parse_pattern(pattern, search=False))


def test_text_without_some_texts():
    rng = random.Random(3)
    for _ in range(60):
        words = {"".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))}
        dfa = without(words)
        for _ in range(60):
            text = "".join(rng.choices("abc", k=rng.randint(0, 9)))
            assert accepts(dfa, text) == (not any(word in text for word in words)), (words, text)


def test_categories_are_pythons():
    """Also of the code points that are not looked at one by one."""
    by_code = {}
    for name, pairs in charset._categories().items():
        for lo, hi in pairs:
            by_code[lo, hi] = name
    place = 0
    for (lo, hi), name in sorted(by_code.items()):
        assert lo == place
        place = hi + 1
        assert {unicodedata.category(chr(code)) for code in range(lo, hi + 1)} == {name}
    assert place == 0x110000
