"""Deterministic automata over code points: for texts that must satisfy several conditions at once."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_STATES = 4000
MOST_WORK = 40_000  # states of sets of states that `determinize` goes through
MOST_TURNS = 300  # of a repetition, which is written out here
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
        return Automaton(
            tuple(State(tuple(edges), accepts) for edges, accepts in zip(self.edges, self.accepting, strict=True))
        )


class _NFA:
    def __init__(self) -> None:
        self.edges: list[list[tuple[int, int, int]]] = []
        self.eps: list[list[int]] = []

    def add(self) -> int:
        if len(self.edges) >= 10 * MOST_STATES:
            raise GrammarError("a condition on a text is too large")
        self.edges.append([])
        self.eps.append([])
        return len(self.edges) - 1

    def write(self, node: Node, start: int) -> int:
        """The states of a node behind `start`; returns its end. Trees are at most `ir.MAX_DEPTH` deep."""
        if isinstance(node, Text):
            for c in node.data.decode():
                start = self._read(start, [(ord(c), ord(c))])
            return start
        if isinstance(node, Chars):
            return self._read(start, node.ranges)
        if isinstance(node, Seq):
            for item in node.items:
                start = self.write(item, start)
            return start
        if isinstance(node, Alt):
            end = self.add()
            for item in node.items:
                begin = self.add()
                self.eps[start].append(begin)
                self.eps[self.write(item, begin)].append(end)
            return end
        if isinstance(node, Repeat):
            return self._repeat(node, start)
        raise GrammarError("this part of a condition on a text is not possible")

    def _read(self, start: int, ranges: Iterable[tuple[int, int]]) -> int:
        end = self.add()
        self.edges[start] += [(lo, hi, end) for lo, hi in ranges]
        return end

    def _repeat(self, node: Repeat, start: int) -> int:
        if max(node.least, node.most or 0) > MOST_TURNS:
            raise GrammarError(f"a repetition in a condition on a text has more than {MOST_TURNS} turns")
        for _ in range(node.least):
            start = self.write(node.item, start)
        end = self.add()
        self.eps[start].append(end)
        if node.most is None:
            begin = self.add()
            self.eps[start].append(begin)
            last = self.write(node.item, begin)
            self.eps[last] += [begin, end]
            return end
        for _ in range(node.most - node.least):
            start = self.write(node.item, start)
            self.eps[start].append(end)
        return end


def determinize(node: Node) -> DFA:
    """The automaton of a node without references and tokens."""
    nfa = _NFA()
    start = nfa.add()
    end = nfa.write(node, start)
    bounds = sorted({b for edges in nfa.edges for lo, hi, _ in edges for b in (lo, hi + 1)})
    dfa, numbers = DFA(), {}

    def number(states: frozenset[int]) -> int:
        closed = _closure(nfa, states)
        if closed not in numbers:
            numbers[closed] = dfa.add(end in closed)
            work.append(closed)
        return numbers[closed]

    work: list[frozenset[int]] = []
    done = 0
    number(frozenset([start]))
    while work:
        at = work.pop()
        done += len(at)
        if done > MOST_WORK:
            raise GrammarError("a condition on a text is too ambiguous to work out")
        targets: dict[int, set[int]] = {}  # by the interval between two bounds
        for state in at:
            for lo, hi, target in nfa.edges[state]:
                for i in range(bisect_right(bounds, lo) - 1, bisect_right(bounds, hi)):
                    if bounds[i] <= hi:
                        targets.setdefault(i, set()).add(target)
        for i in sorted(targets):
            high = bounds[i + 1] - 1 if i + 1 < len(bounds) else MAX_CODEPOINT
            _append(dfa.edges[numbers[at]], bounds[i], high, number(frozenset(targets[i])))
    return dfa


def _closure(nfa: _NFA, states: Iterable[int]) -> frozenset[int]:
    seen = set(states)
    work = list(seen)
    while work:
        for target in nfa.eps[work.pop()]:
            if target not in seen:
                seen.add(target)
                work.append(target)
    return frozenset(seen)


def _append(edges: Edges, lo: int, hi: int, target: int) -> None:
    """Add an edge; one that goes on where the last one ended is joined with it."""
    if edges and edges[-1][1] == lo - 1 and edges[-1][2] == target:
        edges[-1] = (edges[-1][0], hi, target)
    else:
        edges.append((lo, hi, target))


def product(a: DFA, b: DFA, *, without: bool = False) -> DFA:
    """Texts that both accept; `without`: that `a` accepts and `b` does not."""
    dead = -1
    made, numbers = DFA(), {}
    work: list[tuple[int, int]] = []

    def number(pair: tuple[int, int]) -> int:
        if pair not in numbers:
            in_b = pair[1] != dead and b.accepting[pair[1]]
            numbers[pair] = made.add(a.accepting[pair[0]] and in_b is not without)
            work.append(pair)
        return numbers[pair]

    number((0, 0))
    while work:
        pair = work.pop()
        edges = made.edges[numbers[pair]]
        for lo, hi, target in a.edges[pair[0]]:
            at = lo
            for low, high, other in b.edges[pair[1]] if pair[1] != dead else ():
                if high < at or low > hi:
                    continue
                if low > at and without:
                    _append(edges, at, low - 1, number((target, dead)))
                at = max(at, low)
                _append(edges, at, min(high, hi), number((target, other)))
                at = min(high, hi) + 1
            if at <= hi and without:
                _append(edges, at, hi, number((target, dead)))
    return trimmed(made)


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
    before: list[list[int]] = [[] for _ in dfa.edges]
    for state, edges in enumerate(dfa.edges):
        for _, _, target in edges:
            before[target].append(state)
    alive, work = set(), [state for state, accepts in enumerate(dfa.accepting) if accepts]
    while work:
        state = work.pop()
        if state not in alive:
            alive.add(state)
            work += before[state]
    kept = sorted(alive | {0})
    number = {old: new for new, old in enumerate(kept)}
    made = DFA()
    for old in kept:
        made.add(dfa.accepting[old])
    for old in kept:
        made.edges[number[old]] = [(lo, hi, number[t]) for lo, hi, t in dfa.edges[old] if t in alive]
    return made


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
