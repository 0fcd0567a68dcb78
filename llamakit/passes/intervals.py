"""Placing intervals of time in one stretch of memory, so that none that live together overlap.

Each is put at the lowest place that is free for all of its life (first fit); what differs is the order in which
they are taken. The search is near-linear: a tree over time holds, for each of its nodes, which addresses are in
use, as a few merged ranges, however many intervals these come from.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FAN = 8  # children of a node of the tree
ENOUGH = 1.005  # times the least possible: no other order is tried then
MOST_TRIED = 10_000  # intervals; of more, one order is all there is time for
Ranges = list[int]  # start, end, start, end, ...: rising, none touching the next


class Lifetime(msgspec.Struct, frozen=True):
    """From the first to the last moment (both included) at which `n` elements are needed."""

    first: int
    last: int
    n: int


class Packing(msgspec.Struct, frozen=True):
    """An offset for each interval, and the end of the highest, in elements."""

    offsets: list[int]
    total: int


def pack(lives: Sequence[Lifetime], alignment: int = 1) -> Packing:
    """Place all; offsets are multiples of `alignment`. The best of several orders, falling sizes first."""
    aligned = [Lifetime(life.first, life.last, -(-max(life.n, 1) // alignment) * alignment) for life in lives]
    enough = least(aligned) * ENOUGH
    best = Packing([], 0)
    for i, key in enumerate(ORDERS if len(lives) <= MOST_TRIED else ORDERS[:1]):
        keys = [key(life) for life in aligned]
        found = first_fit(aligned, sorted(range(len(keys)), key=keys.__getitem__))
        if i == 0 or found.total < best.total:
            best = found
        if best.total <= enough:
            break
    return best


ORDERS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda life: (-life.n,),
    lambda life: (-life.n, life.first - life.last),
    lambda life: (life.first - life.last, -life.n),
    lambda life: (life.n * (life.first - life.last - 1),),
)


def least(lives: Sequence[Lifetime]) -> int:
    """What lives at once at the fullest moment: no packing takes less."""
    changes: dict[int, int] = {}
    for life in lives:
        changes[life.first] = changes.get(life.first, 0) + life.n
        changes[life.last + 1] = changes.get(life.last + 1, 0) - life.n
    return max(accumulate(changes[at] for at in sorted(changes)), default=0)


def first_fit(lives: Sequence[Lifetime], order: Sequence[int]) -> Packing:
    """Each interval, in this order, at the lowest place that is free for all of its life."""
    moments = sorted({life.first for life in lives})  # two that overlap do so where one of them begins
    timetable = Timetable(len(moments))
    offsets, total = [0] * len(lives), 0
    for i in order:
        life = lives[i]
        first, last = bisect_left(moments, life.first), bisect_right(moments, life.last) - 1
        offsets[i] = timetable.place(first, last, life.n)
        total = max(total, offsets[i] + life.n)
    return Packing(offsets, total)


class Timetable:
    """Which addresses are taken when. A node of level l stands for FAN**l moments.

    By node, level after level: `taken`: at any of its moments; `throughout`: at all of them, and noted at no child.
    """

    def __init__(self, n_moment: int) -> None:
        sizes = [max(n_moment, 1)]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // FAN))
        self.begin = [0, *accumulate(sizes)][:-1]  # number of the first node of each level
        self.taken: list[Ranges] = [[] for _ in range(sum(sizes))]
        self.throughout: list[Ranges] = [[] for _ in range(sum(sizes))]

    def place(self, first: int, last: int, n: int) -> int:
        """Take `n` addresses for the moments `first` to `last`, the lowest that are free; returns the first of them."""
        taken, throughout = self.taken, self.throughout
        inside, above = self._inside(first, last + 1), self._above(first, last)
        lists = [taken[node] for node in inside if taken[node]]
        lists += [throughout[node] for node in above if throughout[node]]
        offset = lowest_gap(lists, n)
        for node in inside:
            insert(taken[node], offset, offset + n)
            insert(throughout[node], offset, offset + n)
        for node in above:
            insert(taken[node], offset, offset + n)
        return offset

    def _inside(self, first: int, end: int) -> list[int]:
        """The fewest nodes that together are the moments first..end - 1."""
        found: list[int] = []
        for begin in self.begin:
            while first < end and first % FAN:
                found.append(begin + first)
                first += 1
            while first < end and end % FAN:
                end -= 1
                found.append(begin + end)
            if first >= end:
                break
            first, end = first // FAN, end // FAN
        return found

    def _above(self, first: int, last: int) -> list[int]:
        """The first and the last moment, and all nodes above them."""
        found: list[int] = []
        for begin in self.begin:
            found.append(begin + first)
            if first != last:
                found.append(begin + last)
            first, last = first // FAN, last // FAN
        return found


def lowest_gap(lists: Sequence[Ranges], n: int) -> int:
    """The lowest address from which `n` are in no range of any list; the lists are not empty."""
    offset = max([0, *(ranges[1] for ranges in lists if ranges[0] == 0)])
    i, agreed = 0, 0  # how many lists in a row had nothing against `offset`
    while agreed < len(lists):
        ranges = lists[i]
        at = bisect_right(ranges, offset)
        if at % 2:  # within a range
            offset, at, agreed = ranges[at], at + 1, 0
        while at < len(ranges) and ranges[at] < offset + n:  # the next one begins too soon
            offset, at, agreed = ranges[at + 1], at + 2, 0
        agreed += 1
        i = (i + 1) % len(lists)
    return offset


def insert(ranges: Ranges, start: int, end: int) -> None:
    """Add start..end - 1, joined with what it touches."""
    i = bisect_left(ranges, start)
    j = bisect_right(ranges, end, i)
    if i % 2:  # start lies in a range, or touches its end
        ranges[i:j] = () if j % 2 else (end,)
    else:
        ranges[i:j] = (start,) if j % 2 else (start, end)
