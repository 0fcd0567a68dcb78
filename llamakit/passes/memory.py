"""Where each value of a graph lies while it lives: lifetimes to offsets in one arena.

A value lives from the node that makes it to the last node that reads it; outputs live to the end. Values whose
lives do not overlap may share memory. `reshape` gives its input another shape, so it takes none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.graph.graph import Graph, Value


class Lifetime(msgspec.Struct, frozen=True):
    """From the first to the last node (their numbers) that need the value; `n` elements at most."""

    first: int
    last: int
    n: int


class MemoryPlan(msgspec.Struct, frozen=True):
    """Offsets by value id, and the size of the arena, in elements."""

    offsets: dict[int, int]
    total: int


def alias(graph: Graph) -> dict[int, int]:
    """Value id -> id of the value in whose memory it lies."""
    same: dict[int, int] = {}
    for node in graph.nodes:
        source = node.inputs[0] if node.op is Op.RESHAPE else None
        same[node.output.id] = node.output.id if source is None else same[source.id]
    return same


def lifetimes(graph: Graph, position: Sequence[int] | None = None) -> dict[int, Lifetime]:
    """The lifetime of every value that needs memory of its own; `position`: when each node runs, else one by one."""
    same = alias(graph)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    size: dict[int, int] = {}
    for i, node in zip(position or range(len(graph.nodes)), graph.nodes, strict=True):
        home = same[node.output.id]
        first.setdefault(home, i)
        size.setdefault(home, elements(node.output))
        last[home] = i
        for value in node.inputs:
            if value is not None and value.id in same:
                last[same[value.id]] = i
    for value in graph.outputs.values():
        last[same[value.id]] = len(graph.nodes)
    return {home: Lifetime(first[home], last[home], size[home]) for home in first}


def elements(value: Value) -> int:
    """How many elements a value has at most."""
    return math.prod(int(size) for size in value.shape)


def plan(graph: Graph, alignment: int = 16, position: Sequence[int] | None = None) -> MemoryPlan:
    """Give each value the lowest place that is free for all of its life, the largest values first.

    `alignment` in elements. `position` gives nodes that run as one step the same number.
    First fit by falling size is within a few percent of the least possible for networks.
    """
    lives = lifetimes(graph, position)
    placed: list[tuple[int, int, Lifetime]] = []  # offset, end, lifetime
    offsets: dict[int, int] = {}
    for home, life in sorted(lives.items(), key=lambda item: (-item[1].n, item[0])):
        n = -(-max(life.n, 1) // alignment) * alignment
        offset = 0
        busy = sorted(
            (start, end) for start, end, other in placed if other.first <= life.last and life.first <= other.last
        )
        for start, end in busy:
            if start - offset >= n:
                break
            offset = max(offset, end)
        placed.append((offset, offset + n, life))
        offsets[home] = offset
    same = alias(graph)
    return MemoryPlan({value: offsets[home] for value, home in same.items()}, max((e for _, e, _ in placed), default=0))
