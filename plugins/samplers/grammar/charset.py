"""Sets of code points as sorted, disjoint ranges (lo, hi), both ends in them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar.ir import MAX_CODEPOINT, SURROGATES

if TYPE_CHECKING:
    from collections.abc import Iterable

Ranges = tuple[tuple[int, int], ...]

EVERYTHING: Ranges = ((0, SURROGATES[0] - 1), (SURROGATES[1] + 1, MAX_CODEPOINT))
DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Ranges = (  # what ECMAScript calls white space or a line terminator
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
LAST_WITH_CASE = 0x1FFFF  # no letter beyond has a case
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, joined, without surrogates; empty ranges (lo > hi) are left out."""
    joined: list[tuple[int, int]] = []
    for lo, hi in sorted(ranges):
        if lo > hi:
            continue
        if joined and lo <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], hi))
        else:
            joined.append((lo, hi))
    return intersect(tuple(joined), EVERYTHING)


def intersect(a: Ranges, b: Ranges) -> Ranges:
    """What is in both."""
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        lo, hi = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if lo <= hi:
            found.append((lo, hi))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def negate(ranges: Ranges) -> Ranges:
    """All code points but these (and but surrogates)."""
    gaps, start = [], 0
    for lo, hi in ranges:
        if start < lo:
            gaps.append((start, lo - 1))
        start = hi + 1
    if start <= MAX_CODEPOINT:
        gaps.append((start, MAX_CODEPOINT))
    return intersect(tuple(gaps), EVERYTHING)


def union(*sets: Ranges) -> Ranges:
    """What is in any of them."""
    return normal(pair for ranges in sets for pair in ranges)


def either_case(ranges: Ranges) -> Ranges:
    """With the other cases of each letter, where those are one character."""
    cases = _cases()
    if size(ranges) < len(cases):
        codes = [code for lo, hi in ranges for code in range(lo, hi + 1) if code in cases]
    else:
        codes = [code for code in cases if contains(ranges, code)]
    return normal([*ranges, *((other, other) for code in codes for other in cases[code])])


@lru_cache(maxsize=1)
def _cases() -> dict[int, set[int]]:
    """Letters and all that differ from them in case alone: one pass, once in a process."""
    found: dict[int, set[int]] = {}
    for code in range(LAST_WITH_CASE + 1):
        c = chr(code)
        group = {ord(form) for form in (c, c.lower(), c.upper()) if len(form) == 1}
        if len(group) > 1:
            for member in list(group):
                group |= found.get(member, set())
            for member in group:
                found[member] = group
    return found


def size(ranges: Ranges) -> int:
    """How many code points."""
    return sum(hi - lo + 1 for lo, hi in ranges)


def contains(ranges: Ranges, code: int) -> bool:
    """Whether a code point is in the set."""
    return any(lo <= code <= hi for lo, hi in ranges)


ASSIGNED = ((0, 0x3FFFF), (0xE0000, 0xE0FFF), (0xFFFFE, 0xFFFFF), (0x10FFFE, MAX_CODEPOINT))
UNIFORM = ((0x40000, 0xDFFFF), (0xE1000, 0xEFFFF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))  # of one category each


@lru_cache(maxsize=64)
def category(name: str) -> Ranges | None:
    """The code points of a Unicode general category such as L or Lu; None if there is none of that name."""
    found = [pair for key, pairs in _categories().items() if key.startswith(name) for pair in pairs]
    return normal(found) if found else None


@lru_cache(maxsize=1)
def _categories() -> dict[str, list[tuple[int, int]]]:
    """Every category's ranges: one pass over all that may differ from their neighbours, once in a process."""
    import unicodedata

    found: dict[str, list[tuple[int, int]]] = {}
    for first, last in ASSIGNED:
        names = list(map(unicodedata.category, map(chr, range(first, last + 1))))
        start = 0
        for place, name in enumerate(names):
            if name != names[start]:
                found.setdefault(names[start], []).append((first + start, first + place - 1))
                start = place
        found.setdefault(names[start], []).append((first + start, last))
    for first, last in UNIFORM:
        found.setdefault(unicodedata.category(chr(first)), []).append((first, last))
    return found
