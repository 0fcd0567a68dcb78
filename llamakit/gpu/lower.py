"""From the nodes of a graph to steps: functions that launch kernels for the sizes of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llamakit.errors import BackendError
from llamakit.gguf import GGMLType
from llamakit.gpu.driver import At
from llamakit.gpu.memory import Part
from llamakit.graph.graph import Dim, Source
from llamakit.graph.ops import Op
from llamakit.passes.memory import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamakit.backend import InputLayout
    from llamakit.gpu.adapters import GPUAdapters
    from llamakit.gpu.cells import GPUKV
    from llamakit.gpu.source import Kernels
    from llamakit.graph.graph import Graph, Node, Tensor, Value
    from llamakit.passes.memory import MemoryPlan

    Sizes = Mapping[str, int]
    Step = Callable[[Sizes], None]
    Types = Mapping[str, GGMLType]

ALIGNMENT = 64  # elements: 256 bytes
ALIASES = (Op.RESHAPE, Op.READ_STATE)


class Count(NamedTuple):
    """A number that may depend on a free size."""

    dim: str
    factor: int

    def of(self, sizes: Sizes) -> int:
        """The number at a run."""
        return self.factor * sizes[self.dim] if self.dim else self.factor

    def times(self, n: int) -> Count:
        """So many times that."""
        return Count(self.dim, self.factor * n)


def count(value: Value, n_size: int | None = None) -> Count:
    """Elements of a value, or the product of its first `n_size` sizes."""
    first, *rest = value.shape[:n_size]
    factor = math.prod(int(size) for size in rest)
    return Count(first.name, factor) if isinstance(first, Dim) else Count("", int(first) * factor)


def width(value: Value | None) -> int:
    """The last size."""
    assert value is not None
    return int(value.shape[-1])


class Operand(NamedTuple):
    """A tensor as kernels take it: its type, the parts in which its rows lie, and whether they lie in panels."""

    type: GGMLType
    shape: tuple[int, ...]
    parts: list[Part]
    packed: bool = False

    @property
    def place(self) -> At:
        """Of a tensor in one part."""
        return self.parts[0].place


@dataclass
class Lowering:
    """What steps are made of: the places of all that a graph reads and makes."""

    kernels: Kernels
    graph: Graph
    layout: InputLayout
    weights: Mapping[str, Any]
    states: Mapping[str, Any]
    kv: GPUKV | None
    adapters: GPUAdapters | None
    plan: MemoryPlan
    arena: At
    inputs: At
    constants: list[At] = field(default_factory=list)

    def at(self, value: Value | None) -> At:
        """Where a value lies; anywhere for one that is missing, which no kernel reads."""
        if value is None:
            return self.arena
        home = self.plan.elsewhere.get(value.id)
        if home is None:
            return self.arena.plus(4 * self.plan.offsets[value.id])
        if home in self.layout.offsets:
            return self.inputs.plus(4 * self.layout.offsets[home][0])
        place: At = self.states[home].place
        return place

    def operand(self, tensor: Tensor | None) -> Operand:
        """A tensor of a file, or a state as one of float32."""
        assert tensor is not None
        if tensor.source is Source.FILE:
            weight = self.weights[tensor.name]
            return Operand(weight.type, tensor.shape, weight.parts, weight.packed)
        n_row = math.prod(tensor.shape[:-1])
        return Operand(GGMLType.F32, tensor.shape, [Part(self.states[tensor.name].place, 0, n_row)])

    def vector(self, tensor: Tensor | None) -> At:
        """Where a vector lies; anywhere for one that is missing."""
        return self.arena if tensor is None else self.operand(tensor).place

    def workspace(self, step: int) -> At:
        """Memory of a step for itself."""
        return self.arena.plus(4 * self.plan.workspaces.get(step, 0))

    def constant(self, values: Any) -> At:
        """Numbers that never change."""
        data = np.ascontiguousarray(values)
        place = At(self.kernels.driver.allocate(max(data.nbytes, 4)))
        if data.size:
            self.kernels.driver.write(place, data)
        self.constants.append(place)
        return place


def spaces(graph: Graph, types: Types) -> dict[int, int]:
    """Elements that steps need for themselves, by number."""
    from llamakit.gpu.steps import WORKSPACES

    found = {}
    for i, node in enumerate(graph.nodes):
        if node.op in WORKSPACES and (n := WORKSPACES[node.op](node, types)):
            found[i] = n
    return found


def plan_of(graph: Graph, types: Types) -> MemoryPlan:
    """Where values and workspaces lie."""
    return plan(graph, ALIGNMENT, workspaces=spaces(graph, types))


def lower(lowering: Lowering) -> list[Step]:
    """The steps of all nodes, in order."""
    from llamakit.gpu.steps import STEPS

    found = []
    for i, node in enumerate(lowering.graph.nodes):
        if node.op in ALIASES:
            continue
        if node.op not in STEPS:
            raise BackendError(f"node {node.name}: there is no kernel for {node.op}", hint="--backend cpu")
        found.append(STEPS[node.op](lowering, node, i))
    return found


def supported(node: Node) -> bool:
    """Whether there are kernels for the node."""
    from llamakit.gpu.steps import STEPS

    return node.op in STEPS or node.op in ALIASES
