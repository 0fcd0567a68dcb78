"""Where each value of a graph lies while it lives: lifetimes to offsets in one arena.

A value lives from the node that makes it to the last node that reads it; outputs live to the end. Values whose
lives do not overlap may share memory. `reshape` gives its input another shape, and `read_state` a state's memory, so
they take none; nor do inputs, which lie in the packed block.
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
    """Offsets by value id, those of workspaces by step, and the size of the arena, in elements.

    `elsewhere`: for values that lie in other memory, the name of their state, or of the input.
    """

    offsets: dict[int, int]
    total: int
    workspaces: dict[int, int] = {}
    elsewhere: dict[int, str] = {}


Home = int | str


def alias(graph: Graph, position: Sequence[int] | None = None) -> dict[int, Home]:
    """Value id -> id of the value in whose memory it lies, or the name of the state or input."""
    home: dict[int, Home] = {value.id: name for name, value in graph.inputs.items()}
    for node in graph.nodes:
        for value in node.outputs:
            home[value.id] = value.id
        if node.op is Op.RESHAPE and node.inputs[0] is not None:
            home[node.output.id] = home[node.inputs[0].id]
        elif node.op is Op.READ_STATE and node.tensors[0] is not None:
            home[node.output.id] = node.tensors[0].name
    moved = _made_in_states(graph, home, position or range(len(graph.nodes)))
    return {value: moved.get(own, own) for value, own in home.items()}


def _made_in_states(graph: Graph, home: dict[int, Home], position: Sequence[int]) -> dict[Home, Home]:
    """Values that are written to a state and can be made there: nobody touches it from when they are made."""
    touched: dict[Home, list[int]] = {}  # when each state is read or changed
    made = {home[value.id]: i for i, node in zip(position, graph.nodes, strict=True) for value in node.outputs}
    for i, node in zip(position, graph.nodes, strict=True):
        names = {tensor.name for tensor in node.tensors if tensor is not None}
        for name in names | {home[value.id] for value in node.inputs if value is not None}:
            touched.setdefault(name, []).append(i)
    outputs = {home[value.id] for value in graph.outputs.values()}
    moved: dict[Home, Home] = {}
    for node in graph.nodes:
        value, state = node.inputs[0] if node.inputs else None, node.tensors[0] if node.tensors else None
        if node.op is not Op.WRITE_STATE or value is None or state is None or home[value.id] in outputs:
            continue
        own = home[value.id]
        later = [i for i in touched[state.name] if i >= made.get(own, -1)]
        if isinstance(own, int) and len(later) == 1 and own not in moved:
            moved[own] = state.name
    return moved


def lifetimes(graph: Graph, position: Sequence[int] | None = None) -> dict[int, Lifetime]:
    """The lifetime of every value that needs memory of its own; `position`: when each node runs, else one by one."""
    home = alias(graph, position)
    first: dict[Home, int] = {}
    last: dict[Home, int] = {}
    size: dict[Home, int] = {}
    for i, node in zip(position or range(len(graph.nodes)), graph.nodes, strict=True):
        for value in node.outputs:
            first.setdefault(home[value.id], i)
            size.setdefault(home[value.id], elements(value))
            last[home[value.id]] = i
        for read in node.inputs:
            if read is not None:
                last[home[read.id]] = i
    for value in graph.outputs.values():
        last[home[value.id]] = len(graph.nodes)
    return {own: Lifetime(first[own], last[own], size[own]) for own in first if isinstance(own, int)}


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
    home = alias(graph, position)
    return MemoryPlan(
        {value: offsets[own] for value, own in home.items() if isinstance(own, int)},
        packed.total,
        dict(zip(spaces, packed.offsets[len(lives) :], strict=True)),
        {value: own for value, own in home.items() if isinstance(own, str)},
    )
