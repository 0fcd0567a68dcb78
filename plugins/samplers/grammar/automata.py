"""Deterministic automata over code points: for texts that must satisfy several conditions at once. Native within."""

from __future__ import annotations

from typing import Any

from llamakit.plugins.samplers.grammar.budget import spend
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import (
    MAX_CODEPOINT,
    Alt,
    Automaton,
    Chars,
    Node,
    Repeat,
    Seq,
    State,
    Text,
)

MOST_STATES = 4000
MOST_WORK = 40_000  # states of sets of states that `determinize` goes through
MOST_TURNS = 300  # of a repetition, which is written out here
LIMITS = (MOST_STATES, MOST_WORK, MOST_TURNS)
Edges = list[tuple[int, int, int]]  # lo, hi, target


class DFA:
    """States 0 (the start), 1, ...: disjoint edges in order, and whether they accept."""

    def __init__(self) -> None:
        self.edges: list[Edges] = []
        self.accepting: list[bool] = []

    @classmethod
    def empty(cls) -> DFA:
        """That accepts nothing."""
        made = cls()
        made.add(False)
        return made

    def add(self, accepting: bool) -> int:
        """One more state."""
        if len(self.edges) >= MOST_STATES:
            raise GrammarError(f"a condition on a text takes more than {MOST_STATES:,} states")
        self.edges.append([])
        self.accepting.append(accepting)
        return len(self.edges) - 1

    def node(self) -> Automaton:
        """As a node of a grammar."""
        spend(sum(map(len, self.edges)))
        return Automaton(
            tuple(State(tuple(edges), accepts) for edges, accepts in zip(self.edges, self.accepting, strict=True))
        )


def determinize(node: Node) -> DFA:
    """The automaton of a node without references and tokens; GrammarError if it takes too much."""
    if isinstance(node, Automaton):  # one that was made here
        made = DFA()
        made.edges = [list(state.edges) for state in node.states]
        made.accepting = [state.accepting for state in node.states]
        return made
    return _native("determinize", _tree(node), LIMITS)


def _tree(node: Node) -> tuple[Any, ...]:
    """A node as the native function takes it. Trees are at most `ir.MAX_DEPTH` deep."""
    match node:
        case Text(data):
            return ("text", data.decode())
        case Chars(ranges):
            return ("chars", ranges)
        case Seq(items):
            return ("seq", [_tree(item) for item in items])
        case Alt(items):
            return ("alt", [_tree(item) for item in items])
        case Repeat(item, least, most):
            return ("repeat", _tree(item), least, -1 if most is None else most)
    raise GrammarError("this part of a condition on a text is not possible")


def _native(name: str, *args: Any) -> DFA:
    from llamakit import _sampling

    dfa = DFA()
    try:
        dfa.edges, dfa.accepting = getattr(_sampling, name)(*args)
    except _sampling.GrammarLimitError as error:
        raise GrammarError(str(error)) from None
    return dfa


def product(a: DFA, b: DFA, *, without: bool = False) -> DFA:
    """Texts that both accept; `without`: that `a` accepts and `b` does not."""
    return _native("product", (a.edges, a.accepting), (b.edges, b.accepting), without, LIMITS)


def of_length(least: int, most: int | None) -> DFA:
    """Any text of so many code points."""
    dfa = DFA()
    last = least if most is None else most
    for n in range(last + 1):
        dfa.add(n >= least)
    for n in range(last):
        dfa.edges[n].append((0, MAX_CODEPOINT, n + 1))
    if most is None:
        dfa.edges[last].append((0, MAX_CODEPOINT, last))
    return dfa


def trimmed(dfa: DFA) -> DFA:
    """Without states from which nothing is accepted; the start stays."""
    return _native("trimmed", (dfa.edges, dfa.accepting))


def spelled(dfa: DFA, spellings: list[tuple[int, str]]) -> DFA:
    """The same over how texts are written: each of these characters, in order, goes through those of its spelling."""
    return _native("spelled", (dfa.edges, dfa.accepting), spellings)


def accepts(dfa: DFA, text: str) -> bool:
    """Whether an automaton accepts a text."""
    state = 0
    for code in map(ord, text):
        for lo, hi, target in dfa.edges[state]:
            if lo <= code <= hi:
                state = target
                break
        else:
            return False
    return dfa.accepting[state]
