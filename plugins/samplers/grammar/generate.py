"""Random texts of a grammar, for tests and for people who want to see what they have written."""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import Alt, Automaton, Chars, Grammar, Node, Ref, Repeat, Seq, Text

if TYPE_CHECKING:
    from random import Random

USUAL = ((0x20, 0x7E),)  # characters that are preferred where a class has them
USUAL_SHARE = 0.9
GO_ON = 0.6  # chance of one more turn of a repetition
BUDGET = 60  # choices that are made freely; then the shortest way out is taken


def random_text(grammar: Grammar, random: Random, *, budget: int = BUDGET) -> str:
    """A text that the grammar matches. GrammarError where there is none, or a token of a vocabulary in it."""
    return _Generator(grammar, random, budget).text()


class _Generator:
    def __init__(self, grammar: Grammar, random: Random, budget: int) -> None:
        self.grammar, self.random, self.budget = grammar, random, budget
        self.depths = [math.inf] * len(grammar.rules)  # of the shallowest tree of each rule
        self.far: dict[int, list[float]] = {}  # of automata, by their id
        changed = True
        while changed:
            changed = False
            for number, rule in enumerate(grammar.rules):
                depth = 1 + self._depth(rule.body)
                if depth < self.depths[number]:
                    self.depths[number], changed = depth, True

    def text(self) -> str:
        """One text, made from left to right."""
        if self.depths[self.grammar.root] == math.inf:
            raise GrammarError(f"the rule {self.grammar.rules[self.grammar.root].name!r} matches no text at all")
        made: list[str] = []
        work: list[Node] = [Ref(self.grammar.root)]
        while work:
            node = work.pop()
            if isinstance(node, Ref):
                work.append(self.grammar.rules[node.rule].body)
            elif isinstance(node, Seq):
                work.extend(reversed(node.items))
            elif isinstance(node, Alt):
                work.append(self._way(node))
            elif isinstance(node, Repeat):
                work.extend([node.item] * self._turns(node))
            else:
                made.append(self._leaf(node))
        return "".join(made)

    def _depth(self, node: Node) -> float:
        if isinstance(node, Ref):
            return self.depths[node.rule]
        if isinstance(node, Seq):
            return max((self._depth(item) for item in node.items), default=0)
        if isinstance(node, Alt):
            return min((self._depth(item) for item in node.items), default=math.inf)
        if isinstance(node, Repeat):
            return self._depth(node.item) if node.least else 0
        return math.inf if isinstance(node, Chars) and not node.ranges else 0

    def _way(self, node: Alt) -> Node:
        self.budget -= 1
        possible = [item for item in node.items if self._depth(item) < math.inf]
        if self.budget > 0:
            return self.random.choice(possible)
        return min(possible, key=self._depth)

    def _turns(self, node: Repeat) -> int:
        turns = node.least
        if self._depth(node.item) == math.inf:
            return turns
        while (node.most is None or turns < node.most) and self.budget > 0 and self.random.random() < GO_ON:
            turns += 1
            self.budget -= 1
        return turns

    def _leaf(self, node: Node) -> str:
        if isinstance(node, Text):
            return node.data.decode()
        if isinstance(node, Chars):
            return self._character(node.ranges)
        if isinstance(node, Automaton):
            return self._walk(node)
        raise GrammarError("a grammar that names tokens has no texts without a vocabulary")

    def _character(self, ranges: charset.Ranges) -> str:
        usual = charset.intersect(ranges, USUAL)
        chosen = usual if usual and self.random.random() < USUAL_SHARE else ranges
        lo, hi = self.random.choice(chosen)
        return chr(self.random.randint(lo, hi))

    def _walk(self, node: Automaton) -> str:
        """A path to an accepting state: at random at first, then the shortest."""
        if id(node) not in self.far:
            self.far[id(node)] = self._distances(node)
        far = self.far[id(node)]
        state, made, steps = 0, [], 0
        while True:
            here = node.states[state]
            stops = here.accepting and (steps > BUDGET or self.random.random() < 1 - GO_ON)
            edges = [edge for edge in here.edges if far[edge[2]] < math.inf]
            if stops or not edges:
                return "".join(made)
            if steps > BUDGET // 2:
                edges = [min(edges, key=partial(_far, far))]
            lo, hi, state = self.random.choice(edges)
            made.append(self._character(((lo, hi),)))
            steps += 1

    @staticmethod
    def _distances(node: Automaton) -> list[float]:
        """From each state, how many characters an accepting one is away."""
        before: list[list[int]] = [[] for _ in node.states]
        for number, state in enumerate(node.states):
            for _, _, target in state.edges:
                before[target].append(number)
        far: list[float] = [0 if state.accepting else math.inf for state in node.states]
        work = deque(number for number, state in enumerate(node.states) if state.accepting)
        while work:
            target = work.popleft()
            for number in before[target]:
                if far[number] == math.inf:
                    far[number] = far[target] + 1
                    work.append(number)
        return far


def _far(far: list[float], edge: tuple[int, int, int]) -> float:
    return far[edge[2]]
