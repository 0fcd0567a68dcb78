"""The grammar of JSON strings: characters with their escapes, and conditions on what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.automata import DFA, determinize, of_length, product, spelled
from llamakit.plugins.samplers.grammar.build import NOTHING, alt, chars, repeat, seq, text
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import Alt, Automaton, Chars, Node, Repeat, Seq, Text

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTROL = ((0, 0x1F),)
MUST_ESCAPE = charset.normal([*CONTROL, (0x22, 0x22), (0x5C, 0x5C)])
PLAIN = charset.negate(MUST_ESCAPE)
SHORT = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x0C: "f", 0x0A: "n", 0x0D: "r", 0x09: "t"}
MOST_PRODUCT = 40_000  # states of a condition, times characters
HEX = chars([(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)])
D = chars([(0x44, 0x44), (0x64, 0x64)])
# \uXXXX of one character: of surrogates both halves of a pair.
UNICODE = seq([
    text("u"),
    alt([
        seq([chars([(0x30, 0x39), (0x41, 0x43), (0x61, 0x63), (0x45, 0x46), (0x65, 0x66)]), repeat(HEX, 3, 3)]),
        seq([D, chars([(0x30, 0x37)]), repeat(HEX, 2, 2)]),
        seq([
            D, chars([(0x38, 0x39), (0x41, 0x42), (0x61, 0x62)]), repeat(HEX, 2, 2), text("\\u"),
            D, chars([(0x43, 0x46), (0x63, 0x66)]), repeat(HEX, 2, 2),
        ]),
    ]),
])  # fmt: skip
CHARACTER = alt([chars(PLAIN), seq([text("\\"), alt([chars((ord(c), ord(c)) for c in '"\\/bfnrt'), UNICODE])])])


def quoted(inside: Node) -> Node:
    """In quotation marks."""
    return seq([text('"'), inside, text('"')])


def any_string(least: int = 0, most: int | None = None) -> Node:
    """A string of so many characters."""
    return quoted(repeat(CHARACTER, least, most))


def written(code: int) -> str:
    """How a character is written within a string."""
    if code in SHORT:
        return "\\" + SHORT[code]
    return f"\\u{code:04x}" if code < 0x20 else chr(code)


SPELLINGS = [(code, written(code)) for lo, hi in MUST_ESCAPE for code in range(lo, hi + 1)]


def literal(value: str) -> Text:
    """Exactly this string, quotation marks included; half a surrogate pair cannot be written."""
    return Text(('"' + "".join(written(ord(c)) for c in value) + '"').encode("utf-8", "replace"))


def encoded(node: Node) -> Node:
    """A node over what a string says, as one over how it is written. Trees are at most `ir.MAX_DEPTH` deep."""
    if isinstance(node, Text):
        return Text("".join(written(ord(c)) for c in node.data.decode()).encode())
    if isinstance(node, Chars):
        special = charset.intersect(node.ranges, MUST_ESCAPE)
        plain = charset.intersect(node.ranges, PLAIN)
        ways: list[Node] = [Chars(plain)] if plain else []
        ways += [text(written(code)) for lo, hi in special for code in range(lo, hi + 1)]
        return alt(ways)
    if isinstance(node, Seq):
        return seq(encoded(item) for item in node.items)
    if isinstance(node, Alt):
        return alt(encoded(item) for item in node.items)
    if isinstance(node, Repeat):
        return repeat(encoded(node.item), node.least, node.most)
    assert isinstance(node, Automaton)  # the only other kind that expressions are made of
    return encoded_automaton(node)


def encoded_automaton(node: Automaton) -> Automaton:
    """The same for an automaton: what must be escaped goes through states of its own."""
    return spelled(determinize(node), SPELLINGS).node()


def conditioned(condition: Node, least: int, most: int | None) -> Node:
    """A string that says what `condition` describes, with so many characters.

    Where that takes too many states, repetitions are kept so short that no text can be too long.
    """
    if least == 0 and most is None:
        return quoted(encoded(condition))
    low, high = lengths(condition)
    if low >= least and (most is None or (high is not None and high <= most)):
        return quoted(encoded(condition))
    try:
        dfa = determinize(condition)
        if len(dfa.edges) * (most or least) > MOST_PRODUCT:
            raise GrammarError(f"a condition on a text takes {len(dfa.edges):,} states for each of its characters")
        return of_automaton(product(dfa, of_length(least, most)))
    except GrammarError:
        if low < least or most is None or most < low:
            raise
        turns = next(n for n in (*_TURNS, 0) if _fits(shortened(condition, n), most))
        return quoted(encoded(shortened(condition, turns)))


_TURNS = (1000, 500, 250, 120, 60, 30, 15, 8, 4, 2, 1)


def _fits(node: Node, most: int) -> bool:
    high = lengths(node)[1]
    return high is not None and high <= most


def lengths(node: Node) -> tuple[int, int | None]:
    """The fewest and the most characters of what an expression describes; None is without end."""
    if isinstance(node, Text):
        return len(node.data.decode()), len(node.data.decode())
    if isinstance(node, Repeat):
        low, high = lengths(node.item)
        most = 0 if high == 0 else None if high is None or node.most is None else high * node.most
        return low * node.least, most
    if isinstance(node, Seq | Alt):
        lows, highs = zip(*[lengths(item) for item in node.items], strict=True)
        known = [high for high in highs if high is not None]
        joined = (sum(lows), sum(known)) if isinstance(node, Seq) else (min(lows), max(known, default=0))
        return joined[0], joined[1] if len(known) == len(highs) else None
    return (1, 1) if isinstance(node, Chars) else (0, None)


def shortened(node: Node, turns: int) -> Node:
    """The same with at most so many turns of a repetition, but for those that must be there."""
    if isinstance(node, Seq | Alt):
        return (seq if isinstance(node, Seq) else alt)(shortened(item, turns) for item in node.items)
    if isinstance(node, Repeat):
        most = max(turns, node.least) if node.most is None else min(node.most, max(turns, node.least))
        return repeat(shortened(node.item, turns), node.least, most)
    return node


def of_automaton(dfa: DFA) -> Node:
    """A string that an automaton accepts."""
    return quoted(encoded_automaton(dfa.node())) if any(dfa.accepting) else NOTHING


def both(conditions: Iterable[Node], least: int = 0, most: int | None = None) -> DFA:
    """What several conditions, and the length, allow together."""
    found = of_length(least, most)
    for condition in conditions:
        made = determinize(condition)
        found = made if (least, most) == (0, None) and found.edges == _ANY.edges else product(found, made)
    return found


_ANY = of_length(0, None)
