"""Numbers within bounds, as decimal texts."""

from __future__ import annotations

from decimal import Decimal
from functools import partial

from llamakit.plugins.samplers.grammar.automata import DFA, determinize, product
from llamakit.plugins.samplers.grammar.build import EMPTY, NOTHING, alt, chars, optional, repeat, seq, text
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import Node

MOST_DIGITS = 18  # of an integer without bounds, and of a fraction: what programs read back exactly
FLOAT_DIGITS = 15  # decimal digits that a float64 always tells apart
LARGEST = 10**MOST_DIGITS - 1
MOST_MULTIPLE = 1000
DIGIT = chars([(0x30, 0x39)])
NOT_ZERO = chars([(0x31, 0x39)])
NATURAL = alt([text("0"), seq([NOT_ZERO, repeat(DIGIT, 0, MOST_DIGITS - 1)])])
INTEGER = seq([optional(text("-")), NATURAL])
FRACTION = seq([text("."), repeat(DIGIT, 1, MOST_DIGITS)])
EXPONENT = seq(
    [chars([(0x45, 0x45), (0x65, 0x65)]), optional(chars([(0x2B, 0x2B), (0x2D, 0x2D)])), repeat(DIGIT, 1, 2)]
)
NUMBER = seq([INTEGER, optional(FRACTION), optional(EXPONENT)])


def digits(lo: int, hi: int) -> Node:
    """One digit from lo to hi."""
    return chars([(0x30 + lo, 0x30 + hi)]) if lo <= hi else NOTHING


def natural(lo: int, hi: int) -> Node:
    """The integers from lo to hi, both at least 0, without leading zeros."""
    if lo > hi:
        return NOTHING
    ways = []
    while lo <= hi:
        top = min(hi, 10 ** len(str(lo)) - 1)
        ways.append(_same_length(str(lo), str(top)))
        lo = top + 1
    return alt(ways)


def _same_length(lo: str, hi: str) -> Node:
    """Digits from lo to hi, which are equally long."""
    if lo == hi:
        return text(lo)
    if len(lo) == 1:
        return digits(int(lo), int(hi))
    if lo[0] == hi[0]:
        return seq([text(lo[0]), _same_length(lo[1:], hi[1:])])
    zeros, nines = "0" * (len(lo) - 1), "9" * (len(lo) - 1)
    ways, first, last = [], int(lo[0]), int(hi[0])
    if lo[1:] != zeros:
        ways.append(seq([text(lo[0]), _same_length(lo[1:], nines)]))
        first += 1
    if hi[1:] != nines:
        last -= 1
    if first <= last:
        ways.append(seq([digits(first, last), repeat(DIGIT, len(zeros), len(zeros))]))
    if hi[1:] != nines:
        ways.append(seq([text(hi[0]), _same_length(zeros, hi[1:])]))
    return alt(ways)


def integer(lo: int | None, hi: int | None, multiple: int = 1) -> Node:
    """The integers within bounds (None: as far as `MOST_DIGITS` digits go) that are multiples of a number."""
    low = min(-LARGEST, int(_beyond(None if hi is None else Decimal(hi), -1))) if lo is None else lo
    high = max(LARGEST, int(_beyond(None if lo is None else Decimal(lo), 1))) if hi is None else hi
    if low > high:
        return NOTHING
    if (lo, hi) == (None, None):
        found = INTEGER
    else:
        below = seq([text("-"), natural(max(1, -high), -low)]) if low < 0 else NOTHING
        found = alt([below, natural(max(low, 0), high) if high >= 0 else NOTHING])
    if multiple == 1:
        return found
    if multiple > MOST_MULTIPLE:
        raise GrammarError(f"multiples of more than {MOST_MULTIPLE:,} are not possible")
    return _accepted(product(determinize(found), _multiples(multiple)))


def _accepted(dfa: DFA) -> Node:
    return dfa.node() if any(dfa.accepting) else NOTHING


def _multiples(n: int, places: int = 0) -> DFA:
    """Decimals of at most `places` places that are multiples of n units of the last place.

    A state is a remainder and how many places were read (-1: no point yet), the first one perhaps behind a minus sign.
    """
    dfa = DFA()
    dfa.add(False)
    numbers = {}
    for place in range(-1, places + 1):
        for remainder in range(n):
            missing = places - max(place, 0)
            numbers[remainder, place] = dfa.add(place != 0 and remainder * 10**missing % n == 0)
    for (remainder, place), number in numbers.items():
        after = place + 1 if place >= 0 else place
        edges = dfa.edges[number]
        if place < 0 and places:
            edges.append((0x2E, 0x2E, numbers[remainder, 0]))
        if after <= places:
            edges += [(0x30 + d, 0x30 + d, numbers[(remainder * 10 + d) % n, after]) for d in range(10)]
    dfa.edges[0] = [(0x2D, 0x2D, 0), *[edge for edge in dfa.edges[numbers[0, -1]] if edge[0] != 0x2E]]
    return dfa


def multiples(lo: Decimal | None, hi: Decimal | None, step: Decimal, *, open_lo: bool, open_hi: bool) -> Node:
    """Decimals within bounds that are multiples of a step that is not an integer, with as many places as it has."""
    places = -int(step.normalize().as_tuple().exponent)
    unit = int(step.scaleb(places))
    if places > MOST_DIGITS or unit * (places + 2) > MOST_MULTIPLE:
        raise GrammarError(f"multiples of {step} take too many states")
    inside = number(lo, hi, open_lo=open_lo, open_hi=open_hi, places=places)
    if unit == 1 or inside == NOTHING:
        return inside
    return _accepted(product(determinize(inside), _multiples(unit, places)))


def number(
    lo: Decimal | None, hi: Decimal | None, *, open_lo: bool = False, open_hi: bool = False, places: int = -1
) -> Node:
    """Decimal numbers within bounds, open ones without the bound itself; `places`: of the fraction at most."""
    if lo is None and hi is None and places < 0:
        return NUMBER
    limit = Decimal(LARGEST)
    low, high = (min(-limit, _beyond(hi, -1)) if lo is None else lo), (max(limit, _beyond(lo, 1)) if hi is None else hi)
    most = min(_places(low, opened=open_lo), _places(high, opened=open_hi)) if places < 0 else places
    if low > high or (low == high and (open_lo or open_hi)):
        return NOTHING
    from_zero = partial(_positive, most=most)
    ways = []
    if high > 0 or (high == 0 and not open_hi):
        start, opened = (low, open_lo) if low > 0 or (low == 0 and open_lo) else (Decimal(0), False)
        ways.append(from_zero(start, high, opened, open_hi))
    if low < 0:
        end, opened = (-high, open_hi) if high < 0 else (Decimal(0), True)
        ways.append(seq([text("-"), from_zero(end, -low, opened, open_lo)]))
    return alt(ways)


def _beyond(bound: Decimal | None, sign: int) -> Decimal:
    """How far numbers go on the open side of a bound that is itself beyond `LARGEST`: to a digit more."""
    if bound is None or bound * sign <= 0:
        return Decimal(0)
    return Decimal(sign * (10 ** (len(str(int(abs(bound)))) + 1) - 1))


def _places(bound: Decimal, *, opened: bool) -> int:
    """Of a fraction beside a bound: no number may be so near to an open one that a float64 takes them for the same."""
    whole, part = _split(abs(bound))
    if not opened or bound == 0:
        return MOST_DIGITS
    return max(FLOAT_DIGITS - len(str(whole)), len(part))


def _positive(lo: Decimal, hi: Decimal, open_lo: bool, open_hi: bool, most: int) -> Node:
    """Decimals from lo to hi, both at least 0, with at most `most` places."""
    (low, low_part), (high, high_part) = _split(lo), _split(hi)
    free = optional(seq([text("."), repeat(DIGIT, 1, most)])) if most else EMPTY
    above, below = _fraction_from(low_part, open_lo, most), _fraction_to(high_part, open_hi, most)
    if low == high:
        both = product(determinize(above), determinize(below))
        return seq([text(str(low)), both.node()]) if any(both.accepting) else NOTHING
    return alt([
        seq([text(str(low)), above]), seq([natural(low + 1, high - 1), free]), seq([text(str(high)), below]),
    ])  # fmt: skip


def _split(x: Decimal) -> tuple[int, str]:
    """The integer part, and the digits of the fraction without zeros at the end."""
    whole, _, part = f"{x:f}".partition(".")
    return int(whole), part.rstrip("0")


def _fraction_from(part: str, opened: bool, most: int) -> Node:
    """Fractions, with their point or none at all, of at least 0.part."""
    if not part and not opened:
        return optional(seq([text("."), repeat(DIGIT, 1, most)])) if most else EMPTY
    ways = []
    for i, digit in enumerate(part[:most]):
        rest = repeat(DIGIT, 0, most - i - 1)
        ways.append(seq([text(part[:i]), digits(int(digit) + 1, 9), rest]))
    if len(part) <= most:
        after = most - len(part)
        zeros = repeat(text("0"), 0, max(after - 1, 0))
        more = seq([zeros, NOT_ZERO, repeat(DIGIT, 0, max(after - 1, 0))]) if after else NOTHING
        ways.append(seq([text(part), more if opened else repeat(DIGIT, 0, after)]))
    return seq([text("."), alt(ways)]) if most else NOTHING


def _fraction_to(part: str, opened: bool, most: int) -> Node:
    """Fractions, with their point or none at all, of at most 0.part."""
    zeros = seq([text("."), repeat(text("0"), 1, most)]) if most else NOTHING
    if not part:
        return NOTHING if opened else optional(zeros)
    ways: list[Node] = []
    for i, digit in enumerate(part[:most]):
        ways.append(seq([text(part[:i]), digits(0, int(digit) - 1), repeat(DIGIT, 0, most - i - 1)]))
        if i:
            ways.append(text(part[:i]))  # it ends early, which is less
    if len(part) <= most and not opened:
        ways.append(seq([text(part), repeat(text("0"), 0, most - len(part))]))
    return optional(seq([text("."), alt(ways)])) if most else EMPTY
