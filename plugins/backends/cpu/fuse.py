"""Which nodes run as one step: linears of one input, with the norm before them, the gate or the sum after them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from llamakit.graph.graph import Graph, Node


@dataclass
class Group:
    """Linears with the same input and adapters; `norm` makes the input, `gate` or `add` takes what they make."""

    linears: list[Node]
    norm: Node | None = None
    gate: Node | None = None
    add: Node | None = None

    @property
    def nodes(self) -> list[Node]:
        """All nodes that the group stands for."""
        return [node for node in (self.norm, *self.linears, self.gate, self.add) if node is not None]


@dataclass
class Fusion:
    """The units of a graph in order, and for each node the number of the unit in which it runs."""

    units: list[Node | Group] = field(default_factory=list)
    position: list[int] = field(default_factory=list)


def fuse(graph: Graph, weights: Mapping[str, Any]) -> Fusion:
    """Group the nodes; `weights` are the loaded tensors by name. No bit of a result depends on the grouping."""
    n_use = Counter(value.id for node in graph.nodes for value in node.inputs if value is not None)
    n_use.update(value.id for value in graph.outputs.values())
    nodes = [node for node in graph.nodes if node.op not in (Op.RESHAPE, Op.READ_STATE)]
    fusion = Fusion()
    i = 0
    while i < len(nodes):
        group = _group(nodes, i, n_use, weights)
        fusion.units.append(nodes[i] if group is None else group)
        i += 1 if group is None else len(group.nodes)
    unit_of = {id(node): i for i, unit in enumerate(fusion.units) for node in _nodes(unit)}
    last = 0
    for node in graph.nodes:  # those that only name other memory take no time of their own
        last = unit_of.get(id(node), last)
        fusion.position.append(last)
    return fusion


def _nodes(unit: Node | Group) -> list[Node]:
    return unit.nodes if isinstance(unit, Group) else [unit]


def _group(nodes: list[Node], i: int, n_use: Mapping[int, int], weights: Mapping[str, Any]) -> Group | None:
    """The group that begins at node i, if one does."""
    norm = nodes[i] if nodes[i].op is Op.RMS_NORM and len(nodes[i].output.shape) == 2 else None
    first = i + (norm is not None)
    if first == len(nodes) or nodes[first].op is not Op.LINEAR:
        return None
    if norm is not None and nodes[first].inputs[0] is not norm.output:
        return None
    end = first
    while end < len(nodes) and _shares_input(nodes[first], nodes[end]):
        end += 1
    group = Group(nodes[first:end], norm)
    after = nodes[end] if end < len(nodes) else None
    made = [node.output for node in group.linears]
    if after is None or any(n_use[value.id] > 1 for value in made):
        return group
    if after.op is Op.GATED and list(after.inputs) == made and _same_kind(group.linears, weights):
        group.gate = after
    if after.op is Op.ADD and len(made) == 1 and made[0] in after.inputs and after.inputs[0] is not after.inputs[1]:
        group.add = after
    return group


def _shares_input(first: Node, other: Node) -> bool:
    """Whether two linears take the same input in the same form: states take it as it is."""
    if other.op is not Op.LINEAR or other.inputs != first.inputs or other.attrs != first.attrs:
        return False
    one, two = first.tensors[0], other.tensors[0]
    return one is not None and two is not None and one.source is two.source


def _same_kind(linears: list[Node], weights: Mapping[str, Any]) -> bool:
    """Whether two linears can be computed side by side, panel by panel."""
    left, right = (node.tensors[0] and weights.get(node.tensors[0].name) for node in linears)
    if left is None or right is None or any(node.tensors[1] is not None for node in linears):
        return False
    return bool(left.type == right.type and left.shape == right.shape)
