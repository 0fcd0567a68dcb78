"""Where each value of a graph lies while it lives: lifetimes to offsets in one arena.

A value lives from the node that makes it to the last node that reads it; outputs live to the end. Values whose
lives do not overlap may share memory. `reshape` gives its input another shape, so it takes none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from llamakit.graph.ops import Op
from llamakit.passes.intervals import Lifetime, pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamakit.graph.graph import Graph, Value


class MemoryPlan(msgspec.Struct, frozen=True):
    """Offsets by value id, those of workspaces by step, and the size of the arena, in elements."""

    offsets: dict[int, int]
    total: int
    workspaces: dict[int, int] = {}


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


def plan(
    graph: Graph,
    alignment: int = 16,
    position: Sequence[int] | None = None,
    workspaces: Mapping[int, int] | None = None,
) -> MemoryPlan:
    """Give each value a place that is free for all of its life.

    `alignment` in elements. `position` gives nodes that run as one step the same number. `workspaces`: elements that
    a step needs for itself while it runs, by its number.
    """
    lives, spaces = lifetimes(graph, position), workspaces or {}
    packed = pack([*lives.values(), *(Lifetime(step, step, n) for step, n in spaces.items())], alignment)
    offsets = dict(zip(lives, packed.offsets, strict=False))  # those of the workspaces follow
    return MemoryPlan(
        {value: offsets[home] for value, home in alias(graph).items()},
        packed.total,
        dict(zip(spaces, packed.offsets[len(lives) :], strict=True)),
    )
