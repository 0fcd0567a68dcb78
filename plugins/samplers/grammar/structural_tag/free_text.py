"""Any text in which some texts do not occur, as an automaton: that of Aho and Corasick (1975), turned round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar.automata import DFA
from llamakit.plugins.samplers.grammar.ir import MAX_CODEPOINT, SURROGATES

if TYPE_CHECKING:
    from collections.abc import Collection

EVERY = ((0, SURROGATES[0] - 1), (SURROGATES[1] + 1, MAX_CODEPOINT))
DEAD = -1


def without(texts: Collection[str]) -> DFA:
    """All texts in which none of `texts`, none of them empty, occurs. A state is how far some of them have come."""
    children: list[dict[str, int]] = [{}]
    for text in texts:
        state = 0
        for letter in text[:-1]:
            state = children[state].setdefault(letter, len(children))
            if state == len(children):
                children.append({})
    last: dict[int, set[str]] = {}  # letters that complete a text, by the state before them
    for text in texts:
        last.setdefault(_state(children, text[:-1]), set()).add(text[-1])
    return _automaton(children, last)


def _state(children: list[dict[str, int]], text: str) -> int:
    state = 0
    for letter in text:
        state = children[state][letter]
    return state


def _automaton(children: list[dict[str, int]], last: dict[int, set[str]]) -> DFA:
    """The tree with the edges where a text does not go on, but a shorter end of it does."""
    targets: list[dict[str, int]] = [{} for _ in children]  # not those to state 0
    back = [0] * len(children)  # the state of the longest proper end
    queue = [0]
    for state in queue:
        shorter = targets[back[state]] if state else {}
        own = targets[state] = dict(shorter)
        own |= dict.fromkeys(last.get(state, ()), DEAD)
        for letter, child in children[state].items():
            if own.get(letter) != DEAD:
                back[child] = shorter.get(letter, 0)
                own[letter] = child
                queue.append(child)
    dfa = DFA()
    for _ in children:
        dfa.add(True)
    for state in queue:
        dfa.edges[state] = _edges(targets[state])
    return dfa


def _edges(targets: dict[str, int]) -> list[tuple[int, int, int]]:
    """Edges for letters, none where the target is dead; all other letters lead to state 0."""
    edges: list[tuple[int, int, int]] = []
    for low, high in EVERY:
        at = low
        for letter, target in sorted(targets.items()):
            code = ord(letter)
            if not low <= code <= high:
                continue
            if code > at:
                edges.append((at, code - 1, 0))
            if target != DEAD:
                edges.append((code, code, target))
            at = code + 1
        if at <= high:
            edges.append((at, high, 0))
    return edges
