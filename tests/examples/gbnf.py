"""A small reader of GBNF for the tests: is a grammar well formed, does it let a text through, and texts that it does.

Slow and simple on purpose: a parser by recursive descent, and matching by sets of end positions.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

NAME = re.compile(r"[a-zA-Z0-9-]+")
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^"}
HEX = {"x": 2, "u": 4, "U": 8}


@dataclass
class Grammar:
    """Rules by name: a tree of ("or", [..]), ("seq", [..]), ("lit", text), ("set", ..), ("ref", name), ("many", ..)."""

    rules: dict[str, Any]

    def accepts(self, text: str) -> bool:
        """Whether the whole text matches `root`."""
        return len(text) in Matcher(self, text).ends(("ref", "root"), 0)

    def sample(self, rng: random.Random) -> str:
        """A text that the grammar lets through, short ones more likely."""
        return _sample(self, ("ref", "root"), rng, 0)


class Matcher:
    """All ends of matches of a node from a position, each rule and position worked out once."""

    def __init__(self, grammar: Grammar, text: str) -> None:
        self.grammar, self.text = grammar, text
        self.known: dict[tuple[str, int], set[int]] = {}

    def ends(self, node: Any, at: int) -> set[int]:
        kind = node[0]
        if kind == "lit":
            return {at + len(node[1])} if self.text.startswith(node[1], at) else set()
        if kind == "set":
            return {at + 1} if at < len(self.text) and contains(node, self.text[at]) else set()
        if kind == "or":
            return set().union(*(self.ends(part, at) for part in node[1]))
        if kind == "many":
            return self.repeated(node, at)
        if kind == "ref":
            key = (node[1], at)
            if key not in self.known:
                self.known[key] = self.ends(self.grammar.rules[node[1]], at)
            return self.known[key]
        places = {at}
        for part in node[1]:
            places = set().union(*(self.ends(part, place) for place in places))
        return places

    def repeated(self, node: Any, at: int) -> set[int]:
        _, part, low, high = node
        found, places, times = set(), {at}, 0
        while places and (high is None or times <= high):
            if times >= low:
                if places <= found:
                    break
                found |= places
            places = set().union(*(self.ends(part, place) for place in places))
            times += 1
        return found


def contains(node: Any, char: str) -> bool:
    _, inverted, ranges = node
    return inverted != any(low <= char <= high for low, high in ranges)


def _sample(grammar: Grammar, node: Any, rng: random.Random, depth: int) -> str:
    kind = node[0]
    if kind == "lit":
        return str(node[1])
    if kind == "set":
        choices = [char for char in map(chr, (*range(32, 127), 0xE9, 0x4E2D, 0x1F600)) if contains(node, char)]
        return rng.choice(choices)
    if kind == "or":
        return _sample(grammar, node[1][-1 if depth > 40 else rng.randrange(len(node[1]))], rng, depth)
    if kind == "ref":
        return _sample(grammar, grammar.rules[node[1]], rng, depth + 1)
    if kind == "many":
        _, part, low, high = node
        n = low if depth > 20 else rng.randint(low, low + 2 if high is None else min(high, low + 3))
        return "".join(_sample(grammar, part, rng, depth) for _ in range(n))
    return "".join(_sample(grammar, part, rng, depth) for part in node[1])


# -- reading ---------------------------------------------------------------------------------------------------------


class Reader:
    """Recursive descent over one grammar of a rule a line; a ValueError says where it is not GBNF."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.used: set[str] = set()

    def fail(self, what: str) -> ValueError:
        return ValueError(f"{what} at {self.at}: {self.text[self.at : self.at + 30]!r}")

    def spaces(self) -> None:
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1

    def take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def name(self) -> str:
        match = NAME.match(self.text, self.at)
        if not match:
            raise self.fail("no name")
        self.at = match.end()
        return match.group()

    def alternatives(self) -> Any:
        parts = [self.sequence()]
        while self.take("|"):
            parts.append(self.sequence())
        return ("or", parts) if len(parts) > 1 else parts[0]

    def sequence(self) -> Any:
        parts = []
        self.spaces()
        while self.at < len(self.text) and self.text[self.at] not in "|)\n":
            parts.append(self.repetition(self.item()))
            self.spaces()
        return ("seq", parts)

    def item(self) -> Any:
        if self.take('"'):
            chars = []
            while not self.take('"'):
                chars.append(self.char())
            return ("lit", "".join(chars))
        if self.take("["):
            return self.char_set()
        if self.take("("):
            inner = self.alternatives()
            if not self.take(")"):
                raise self.fail("no )")
            return inner
        name = self.name()
        self.used.add(name)
        return ("ref", name)

    def char_set(self) -> Any:
        inverted, ranges = self.take("^"), []
        while not self.take("]"):
            low = self.char()
            high = low
            if self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1] != "]":
                self.at += 1
                high = self.char()
            ranges.append((low, high))
        return ("set", inverted, ranges)

    def char(self) -> str:
        if self.at >= len(self.text) or self.text[self.at] == "\n":
            raise self.fail("a literal without end")
        char = self.text[self.at]
        self.at += 1
        if char != "\\":
            return char
        escape = self.text[self.at]
        self.at += 1
        if escape in HEX:
            digits = self.text[self.at : self.at + HEX[escape]]
            self.at += HEX[escape]
            return chr(int(digits, 16))
        if escape not in ESCAPES:
            raise self.fail(f"escape {escape!r}")
        return ESCAPES[escape]

    def repetition(self, item: Any) -> Any:
        for token, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(token):
                return ("many", item, *bounds)
        match = re.compile(r"\{(\d+)(,?)(\d*)\}").match(self.text, self.at)
        if not match:
            return item
        self.at = match.end()
        low = int(match[1])
        high = int(match[3]) if match[3] else (None if match[2] else low)
        return ("many", item, low, high)


def parse(text: str) -> Grammar:
    """The grammar of a text; a ValueError where it is not well formed, names an unknown rule or has no root."""
    reader, rules = Reader(text), {}
    while reader.at < len(text):
        name = reader.name()
        reader.spaces()
        if not reader.take("::="):
            raise reader.fail("no ::=")
        if name in rules:
            raise reader.fail(f"{name} is defined twice")
        rules[name] = reader.alternatives()
        if not reader.take("\n"):
            raise reader.fail("more than a rule")
    if missing := (reader.used | {"root"}) - set(rules):
        raise ValueError(f"no rules for {sorted(missing)}")
    if unused := set(rules) - reader.used - {"root"}:
        raise ValueError(f"nothing uses {sorted(unused)}")
    return Grammar(rules)
