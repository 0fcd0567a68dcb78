"""Making nodes and rules: what all the languages share.

The functions simplify as they build: sequences in sequences are joined, single characters become classes when they
are alternatives, repetitions of repetitions are merged where that keeps the meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.budget import spend
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import (
    MAX_DEPTH,
    Alt,
    Automaton,
    Chars,
    Grammar,
    Node,
    Ref,
    Repeat,
    Rule,
    Seq,
    Text,
    Tokens,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

EMPTY = Text(b"")
NOTHING = Chars(())
ANY = Chars(charset.EVERYTHING)
MAX_RULES = 100_000
MAX_COUNT = 1 << 31  # of a repetition


def text(value: str) -> Text:
    """Exactly this text."""
    return Text(value.encode("utf-8"))


def seq(items: Iterable[Node]) -> Node:
    """The items in a row."""
    flat: list[Node] = []
    for item in items:
        for part in item.items if isinstance(item, Seq) else (item,):
            if part == NOTHING:
                return NOTHING
            if isinstance(part, Text):
                if not part.data:
                    continue
                if flat and isinstance(flat[-1], Text):
                    flat[-1] = Text(flat[-1].data + part.data)
                    continue
            flat.append(part)
    if not flat:
        return EMPTY
    spend(len(flat))
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(items: Iterable[Node]) -> Node:
    """Any of the items; classes of characters are merged."""
    flat: list[Node] = []
    ranges: list[tuple[int, int]] = []
    place = -1
    for item in items:
        for part in item.items if isinstance(item, Alt) else (item,):
            if isinstance(part, Chars):
                if place < 0 and part.ranges:
                    place = len(flat)
                    flat.append(part)
                ranges += part.ranges
            elif not (isinstance(part, Text | Ref) and part in flat[-8:]):
                flat.append(part)
    spend(len(flat) + len(ranges))
    if place >= 0:
        flat[place] = Chars(charset.normal(ranges))
    if not flat:
        return NOTHING
    return flat[0] if len(flat) == 1 else Alt(tuple(flat))


def optional(item: Node) -> Node:
    """The item or nothing."""
    return repeat(item, 0, 1)


def repeat(item: Node, least: int, most: int | None) -> Node:
    """The item, so many times."""
    if most is not None and least > most:
        return NOTHING
    if most == 0 or item == EMPTY:
        return EMPTY
    if item == NOTHING:
        return EMPTY if least == 0 else NOTHING
    if (least, most) == (1, 1):
        return item
    if isinstance(item, Repeat) and item.least <= 1 and item.most is None and most is None and least <= 1:
        return Repeat(item.item, min(item.least, least), None)  # (x*)+ and the like
    return Repeat(item, min(least, MAX_COUNT), None if most is None or most > MAX_COUNT else most)


def chars(ranges: Iterable[tuple[int, int]]) -> Chars:
    """One character of these ranges."""
    made = Chars(charset.normal(ranges))
    spend(len(made.ranges))
    return made


class Builder:
    """Collects rules. Parts that nest too deep are moved into rules of their own."""

    def __init__(self) -> None:
        self.rules: list[Rule | None] = []
        self._depths: dict[int, tuple[Node, int]] = {}  # by id of the node, which is kept alive here
        self._names: set[str] = set()

    def new_rule(self, name: str, where: str, body: Node | None = None) -> Ref:
        """A rule, its body given now or by `define` later."""
        spend(1)
        if len(self.rules) >= MAX_RULES:
            raise GrammarError(f"more than {MAX_RULES:,} rules; {where} is the part that goes beyond")
        self.rules.append(None)
        index = len(self.rules) - 1
        unique, n = name, 1
        while unique in self._names:
            n += 1
            unique = f"{name}-{n}" if n < 8 else f"{name}-{index}"
        self._names.add(unique)
        self.rules[index] = Rule(unique, NOTHING if body is None else body, where)
        return Ref(index)

    def define(self, ref: Ref, body: Node) -> None:
        """Give a rule its body."""
        rule = self.rules[ref.rule]
        assert rule is not None
        self.rules[ref.rule] = Rule(rule.name, body, rule.where)

    def depth(self, node: Node) -> int:
        """Of the tree below a node that `shallow` has seen, itself included."""
        known = self._depths.get(id(node))
        return known[1] if known is not None and known[0] is node else 1

    def shallow(self, node: Node, children: Iterable[Node], name: str, where: str) -> Node:
        """The node made of `children`, or a reference to it where it has become too deep."""
        depth = 1 + max((self.depth(child) for child in children), default=0)
        if depth >= MAX_DEPTH:
            return self.new_rule(f"{name}-part", where, node)
        self._depths[id(node)] = (node, depth)
        return node

    def include(self, grammar: Grammar) -> Ref:
        """The rules of another grammar; returns the one that it starts from."""
        first = len(self.rules)
        for rule in grammar.rules:
            self.new_rule(rule.name, rule.where, _moved(rule.body, first))
        return Ref(first + grammar.root)

    def grammar(self, root: Ref) -> Grammar:
        """What was built."""
        return Grammar(tuple(rule for rule in self.rules if rule is not None), root.rule)


def _moved(node: Node, by: int) -> Node:
    """A node whose references name rules so many places further on."""
    match node:
        case Ref(rule):
            return Ref(rule + by)
        case Seq(items):
            return Seq(tuple(_moved(item, by) for item in items))
        case Alt(items):
            return Alt(tuple(_moved(item, by) for item in items))
        case Repeat(item, least, most):
            return Repeat(_moved(item, by), least, most)
    return node


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below."""
    if isinstance(node, Seq | Alt):
        return node.items
    return (node.item,) if isinstance(node, Repeat) else ()


def walk(node: Node) -> Iterable[Node]:
    """A node and everything below it within its rule."""
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(reversed(children(top)))


def is_leaf(node: Node) -> bool:
    """Whether a node reads text by itself."""
    return isinstance(node, Text | Chars | Tokens | Automaton)
