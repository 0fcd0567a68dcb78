"""What every kind of grammar becomes: rules over code points and tokens.

GBNF, regular expressions, lists of choices and JSON schemas are all turned into a `Grammar`.
Rules name one another by index, so data is recursive through `Ref` alone, and no tree is deeper than `MAX_DEPTH`.
Repetitions are kept as counts, never written out.
"""

from __future__ import annotations

import msgspec

MAX_DEPTH = 64  # of the nodes within one rule; builders give deeper parts rules of their own
MAX_CODEPOINT = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)


class Text(msgspec.Struct, frozen=True, tag=True):
    """Exactly these bytes (UTF-8 of a literal); none of them is the empty text."""

    data: bytes


class Chars(msgspec.Struct, frozen=True, tag=True):
    """One code point of any of these ranges (lo, hi), both ends in it.

    Sorted, disjoint, without surrogates; what was negated is resolved. No range at all: nothing matches.
    """

    ranges: tuple[tuple[int, int], ...]


class Tokens(msgspec.Struct, frozen=True, tag=True):
    """One token of the vocabulary as a whole, by id; `negated`: any token but these."""

    ids: tuple[int, ...]
    negated: bool


class Ref(msgspec.Struct, frozen=True, tag=True):
    """Whatever the rule of this index matches."""

    rule: int


class Seq(msgspec.Struct, frozen=True, tag=True):
    """The items one after another; no item is the empty text."""

    items: tuple[Node, ...]


class Alt(msgspec.Struct, frozen=True, tag=True):
    """Any one of the items; no item matches nothing at all."""

    items: tuple[Node, ...]


class Repeat(msgspec.Struct, frozen=True, tag=True):
    """The item, `least` to `most` times; `most` None is without end."""

    item: Node
    least: int
    most: int | None


class State(msgspec.Struct, frozen=True, tag=True):
    """A state of an automaton: edges (lo, hi, target) over disjoint ranges of code points."""

    edges: tuple[tuple[int, int, int], ...]
    accepting: bool


class Automaton(msgspec.Struct, frozen=True, tag=True):
    """A deterministic automaton over code points that starts in state 0.

    For what is regular but clumsy to write down: number bounds, multiples, a pattern together with a length.
    """

    states: tuple[State, ...]


Node = Text | Chars | Tokens | Ref | Seq | Alt | Repeat | Automaton


class Rule(msgspec.Struct, frozen=True, tag=True):
    """A named rule; `where` it was written, for messages: line:column, or a JSON pointer."""

    name: str
    body: Node
    where: str


class Grammar(msgspec.Struct, frozen=True, tag=True):
    """Rules, and the index of the one to start from."""

    rules: tuple[Rule, ...]
    root: int
