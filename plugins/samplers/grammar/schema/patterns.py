"""Regular expressions of `pattern`, with look-ahead where it is regular: right behind the `^` they begin with."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar.automata import determinize, product
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.regex import parse_pattern

if TYPE_CHECKING:
    from llamakit.plugins.samplers.grammar.ir import Node

AHEAD = ("(?!", "(?=")


@lru_cache(maxsize=256)
def pattern_node(pattern: str) -> Node:
    """The texts in which an expression is found. GrammarError for what is not regular, or beyond the limits."""
    if not pattern.startswith(("^(?!", "^(?=")):
        return parse_pattern(pattern, search=True)
    conditions, rest = _peeled(pattern)
    found = determinize(parse_pattern(rest, search=True))
    for negated, inner in conditions:
        found = product(found, determinize(parse_pattern(inner, search=True)), without=negated)
    return found.node()


def _peeled(pattern: str) -> tuple[list[tuple[bool, str]], str]:
    """Each look-ahead as an expression for the whole text, whether it is negated, and what is behind them."""
    found: list[tuple[bool, str]] = []
    rest = pattern[1:]
    while rest.startswith(AHEAD):
        end, ways = _closing(rest)
        inner = rest[3:end]
        found.append((rest.startswith("(?!"), f"^(?:{inner})" if ways else "^" + inner.removeprefix("^")))
        rest = rest[end + 1 :]
    if _closing(f"({rest})")[1]:
        raise GrammarError("look-ahead before several ways is not possible")
    return found, "^" + rest


def _closing(text: str) -> tuple[int, bool]:
    """Where the first parenthesis is closed, and whether there are several ways right in it."""
    depth, in_class, ways, i = 0, False, False, 0
    while i < len(text):
        c = text[i]
        if c == "\\":
            i += 1
        elif in_class:
            in_class = c != "]"
        elif c == "[":
            in_class = True
        elif c == "|":
            ways = ways or depth == 1
        elif c in "()":
            depth += 1 if c == "(" else -1
            if depth == 0:
                return i, ways
        i += 1
    raise GrammarError("a look-ahead is not closed")
