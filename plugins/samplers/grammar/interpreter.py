"""A slow, plain matcher over the rules: `llamakit grammar test`, and what the native matcher is compared with.

A state is a set of stacks of frames still to be matched. `first` of a frame lists the ways to begin it: something
that reads a character, then the frames that follow inside of it; so a step never loops over empty parts.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import Alt, Automaton, Chars, Grammar, Node, Ref, Repeat, Seq, Text, Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_STACKS = 20_000  # alive at once


class Frame(msgspec.Struct, eq=False):
    """A part still to be matched: a node, the rest of a text, a repetition with counts, an automaton in a state."""

    node: Node
    at: int = 0  # characters read of a text, state of an automaton, turns left to do of a repetition
    most: int | None = None  # of a repetition: turns left at most
    nullable: bool = False
    first: list[tuple[Frame, ...]] | None = None  # each: a frame that reads, then those that follow


class Stack(msgspec.Struct, eq=False):
    """Frames, the next one on top; equal stacks are the same object."""

    top: Frame
    rest: Stack | None


Stacks = dict[Stack | None, None]  # an ordered set; None is the empty stack: all is matched


class Matcher:
    """Feeds text, bytes or tokens to a grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._frames: dict[tuple[int, int, int | None], Frame] = {}
        self._stacks: dict[tuple[int, int], Stack] = {}
        self._nodes: list[Node] = []  # kept alive: frames are known by the ids of their nodes
        self._nullable = nullable_rules(grammar)
        self.pending = b""  # the beginning of a character
        self.stacks: Stacks = {}
        self.reset()

    def reset(self) -> None:
        """Back to the start."""
        self.pending = b""
        self.stacks = {}
        with deep():
            self._open(self._push(self._frame(Ref(self.grammar.root)), None), self.stacks)

    def fork(self) -> Matcher:
        """An independent copy in the same state."""
        other = Matcher.__new__(Matcher)
        for name, value in vars(self).items():
            setattr(other, name, value)
        other.stacks = dict(self.stacks)
        return other

    @property
    def can_end(self) -> bool:
        """Whether what was read is a whole text of the grammar."""
        return not self.pending and None in self.stacks

    @property
    def alive(self) -> bool:
        """Whether anything can follow, or the end."""
        return bool(self.stacks)

    def accepts(self, text: str) -> bool:
        """Whether the text, from the start, is one of the grammar's."""
        self.reset()
        return self.feed(text) == len(text) and self.can_end

    def feed(self, text: str) -> int:
        """Read characters; returns how many were taken."""
        for i, char in enumerate(text):
            if not self.step(ord(char)):
                return i
        return len(text)

    def feed_bytes(self, data: bytes) -> bool:
        """Read bytes, which may end inside of a character; False leaves nothing alive."""
        return all(self._byte(byte) for byte in data)

    def feed_token(self, token: int, piece: bytes) -> bool:
        """Read a token: as a whole where the grammar names tokens, and as its bytes."""
        whole = self._after_token(token) if not self.pending else {}
        if not piece or not self.feed_bytes(piece):
            self.stacks, self.pending = {}, b""
        if whole and self.pending:
            raise GrammarError(f"token {token} is both named by the grammar and half a character of its text")
        self.stacks = whole | self.stacks
        return bool(self.stacks)

    def step(self, code: int) -> bool:
        """Read one character."""
        found: Stacks = {}
        with deep():
            for stack in self.stacks:
                if stack is not None:
                    after = self._read(stack, code)
                    if after is not _FAILED:
                        self._open(after, found)
        self.stacks = found
        return bool(found)

    def _after_token(self, token: int) -> Stacks:
        found: Stacks = {}
        for stack in self.stacks:
            node = stack.top.node if stack is not None else None
            if stack is not None and isinstance(node, Tokens) and (token in node.ids) != node.negated:
                self._open(stack.rest, found)
        return found

    def _byte(self, byte: int) -> bool:
        self.pending += bytes([byte])
        lo, hi, whole = reach(self.pending)
        if whole:
            self.pending = b""
            return lo <= hi and self.step(lo)
        if not any(self._could_read(stack, lo, hi) for stack in self.stacks if stack is not None):
            self.stacks, self.pending = {}, b""
            return False
        return True

    def _could_read(self, stack: Stack, lo: int, hi: int) -> bool:
        return any(lo <= high and low <= hi for low, high in self._readable(stack.top))

    @staticmethod
    def _readable(frame: Frame) -> charset.Ranges:
        node = frame.node
        if isinstance(node, Text):
            code = ord(node.data.decode("utf-8")[frame.at])
            return ((code, code),)
        if isinstance(node, Chars):
            return node.ranges
        if isinstance(node, Automaton):
            return tuple((lo, hi) for lo, hi, _ in node.states[frame.at].edges)
        return ()

    def _read(self, stack: Stack, code: int) -> Stack | None:
        """The stack after a character, or `_FAILED`."""
        frame, node = stack.top, stack.top.node
        if isinstance(node, Text):
            text = node.data.decode("utf-8")
            if ord(text[frame.at]) != code:
                return _FAILED
            more = frame.at + 1 < len(text)
            return self._push(self._frame(node, frame.at + 1), stack.rest) if more else stack.rest
        if isinstance(node, Chars):
            return stack.rest if charset.contains(node.ranges, code) else _FAILED
        if isinstance(node, Automaton):
            for lo, hi, target in node.states[frame.at].edges:
                if lo <= code <= hi:
                    return self._push(self._frame(node, target), stack.rest)
        return _FAILED

    def _open(self, stack: Stack | None, found: Stacks) -> None:
        """Add every stack that `stack` can become without reading, with something that reads on top."""
        while stack is not None:
            frame, rest = stack.top, stack.rest
            for first, *then in self._first(frame):
                new = rest
                for each in reversed(then):
                    new = self._push(each, new)
                found[self._push(first, new)] = None
            if len(found) > MAX_STACKS:
                raise GrammarError(f"the grammar is ambiguous in more than {MAX_STACKS:,} ways here")
            if not frame.nullable:
                return
            stack = rest
        found[None] = None

    def _first(self, frame: Frame) -> list[tuple[Frame, ...]]:
        if frame.first is None:
            frame.first = []  # of a rule that begins with itself: left recursion, which the parsers remove
            frame.first = list(dict.fromkeys(self._ways(frame)))
        return frame.first

    def _ways(self, frame: Frame) -> Iterator[tuple[Frame, ...]]:
        node = frame.node
        if isinstance(node, Ref):
            yield from self._first(self._frame(self.grammar.rules[node.rule].body))
        elif isinstance(node, Alt):
            for item in node.items:
                yield from self._first(self._frame(item))
        elif isinstance(node, Seq):
            frames = [self._frame(item) for item in node.items]
            for i, part in enumerate(frames):
                yield from ((*way, *frames[i + 1 :]) for way in self._first(part))
                if not part.nullable:
                    return
        elif isinstance(node, Repeat):
            if frame.most != 0:
                most = None if frame.most is None else frame.most - 1
                again = self._frame(node, max(frame.at - 1, 0), most)
                yield from ((*way, again) for way in self._first(self._frame(node.item)))
        elif isinstance(node, Text):
            if node.data:
                yield (frame,)
        elif isinstance(node, Automaton):
            if node.states[frame.at].edges:
                yield (frame,)
        else:
            yield (frame,)

    def _frame(self, node: Node, at: int | None = None, most: int | None = None) -> Frame:
        if isinstance(node, Repeat) and at is None:
            at, most = node.least, node.most
        key = (id(node), at or 0, most)
        frame = self._frames.get(key)
        if frame is None:
            self._nodes.append(node)
            frame = Frame(node, at or 0, most, self._is_nullable(node, at or 0))
            self._frames[key] = frame
        return frame

    def _is_nullable(self, node: Node, at: int) -> bool:
        if isinstance(node, Repeat) and at == 0:
            return True
        if isinstance(node, Automaton):
            return node.states[at].accepting
        return nullable(node, self._nullable)

    def _push(self, frame: Frame, rest: Stack | None) -> Stack:
        key = (id(frame), id(rest))
        stack = self._stacks.get(key)
        if stack is None:
            stack = self._stacks[key] = Stack(frame, rest)
        return stack


_FAILED = Stack(Frame(Text(b"")), None)


def nullable(node: Node, rules: list[bool]) -> bool:
    """Whether a node matches the empty text, given which rules do."""
    if isinstance(node, Ref):
        return rules[node.rule]
    if isinstance(node, Seq):
        return all(nullable(item, rules) for item in node.items)
    if isinstance(node, Alt):
        return any(nullable(item, rules) for item in node.items)
    if isinstance(node, Repeat):
        return node.least == 0 or nullable(node.item, rules)
    if isinstance(node, Automaton):
        return node.states[0].accepting
    return isinstance(node, Text) and not node.data


def nullable_rules(grammar: Grammar) -> list[bool]:
    """Which rules match the empty text."""
    found = [False] * len(grammar.rules)
    changed = True
    while changed:
        changed = False
        for i, rule in enumerate(grammar.rules):
            if not found[i] and nullable(rule.body, found):
                found[i] = changed = True
    return found


def reach(data: bytes) -> tuple[int, int, bool]:
    """The code points (lo, hi) that bytes begin, and whether they are whole; lo > hi where they begin none."""
    lead = data[0]
    if lead < 0x80:
        return lead, lead, True
    length = 2 if 0xC2 <= lead <= 0xDF else 3 if 0xE0 <= lead <= 0xEF else 4 if 0xF0 <= lead <= 0xF4 else 0
    if not length or any(not 0x80 <= byte <= 0xBF for byte in data[1:]):
        return 1, 0, True
    value = lead & (0xFF >> (length + 1))
    for byte in data[1:]:
        value = value << 6 | byte & 0x3F
    left = 6 * (length - len(data))
    lo, hi = value << left, (value << left) | ((1 << left) - 1)
    lo, hi = max(lo, (0, 0, 0x80, 0x800, 0x10000)[length]), min(hi, 0x10FFFF)
    if left:
        if lo >= 0xD800 and hi <= 0xDFFF:
            return 1, 0, True
        return lo, hi, lo > hi
    return (1, 0, True) if 0xD800 <= lo <= 0xDFFF else (lo, hi, True)


@contextmanager
def deep() -> Iterator[None]:
    """Report a grammar that nests deeper than this matcher can follow."""
    try:
        yield
    except RecursionError:
        limit = sys.getrecursionlimit()
        raise GrammarError(f"the grammar's rules begin with one another in chains beyond {limit} calls") from None
