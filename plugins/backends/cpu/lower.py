"""From a graph to the steps that the native executor runs, and to the places of its values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llamakit.plugins.backends.cpu import _cpu

from llamakit.errors import BackendError
from llamakit.graph.graph import Dim
from llamakit.graph.ops import SPECS, Op
from llamakit.passes.memory import plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.backend import InputLayout
    from llamakit.graph.graph import Graph, Node, Value

ROWS = {"rows": 1, "out_rows": 2}


class Lowering:
    """Makes the steps of one graph."""

    def __init__(
        self, graph: Graph, layout: InputLayout, weights: Mapping[str, Any], states: Mapping[str, Any]
    ) -> None:
        self.graph, self.layout, self.weights, self.states = graph, layout, weights, states
        self.plan = plan(graph)
        self.inputs = {value.id: name for name, value in graph.inputs.items()}
        self._tables: dict[Any, int] = {}

    def steps(self) -> list[Any]:
        """All steps in order; a reshape needs none."""
        return [self.step(node) for node in self.graph.nodes if node.op is not Op.RESHAPE]

    def step(self, node: Node) -> Any:
        """One node."""
        step = _cpu.Step()
        step.kind, step.name = str(node.op), node.name
        step.out = self.value(node.output)
        spec = SPECS[node.op]
        pairs = [(key.rstrip("?"), value) for key, value in zip(spec.inputs, node.inputs, strict=True)]
        step.inputs = [self.value(v) for key, v in pairs if key not in spec.integers and v is not None]
        step.ints = [self.offset(v) for key, v in pairs if key in spec.integers]
        if node.weights and node.weights[0] is not None:
            step.weight, step.target = self.weights[node.weights[0]].native, node.weights[0]
        if len(node.weights) > 1 and node.weights[1] is not None:
            step.bias = self.weights[node.weights[1]].native
        if node.state is not None:
            step.state = self.states[node.state].native
        step.numbers = self.numbers(node)
        if node.op is Op.ROPE:
            step.rope = _cpu.Rope(list(node.attrs.inv_freq), node.attrs.pairs == "adjacent", node.attrs.magnitude)
            step.table = self._tables.setdefault((node.attrs, step.ints[0]), len(self._tables))
        return step

    def numbers(self, node: Node) -> list[float]:
        """The attributes that a step needs, in the order that the executor expects."""
        a = node.attrs
        if node.op is Op.RMS_NORM:
            return [a.epsilon]
        if node.op is Op.ATTENTION:
            return [a.scale, -1 if a.layer is None else a.layer, a.window or 0]
        if node.op is Op.SCALE:
            return [a.factor]
        if node.op is Op.GATED:
            return [float(a.activation == "gelu")]
        return [float(a.transpose_a), float(a.transpose_b)] if node.op is Op.MATMUL else []

    def offset(self, value: Value | None) -> int:
        """Where an integer input lies in the packed block; -1: missing."""
        return -1 if value is None else self.layout.offsets[self.inputs[value.id]][0]

    def value(self, value: Value) -> Any:
        """Where a value lies, and its rows."""
        if value.id in self.inputs:
            raise BackendError(f"input {value.name!r} is used as float32; the cpu backend takes int32 inputs only")
        first = value.shape[0] if value.shape else 1
        kind = ROWS.get(first.name, 0) if isinstance(first, Dim) else 0
        width = math.prod(int(size) for size in value.shape[1:])
        n_head = int(value.shape[1]) if len(value.shape) == 3 else 1
        return _cpu.Value(self.plan.offsets[value.id], kind, int(first), width, n_head)

    def maximum(self, dim: str) -> int:
        """The compiled maximum of a free size."""
        sizes = [s for v in self.graph.inputs.values() for s in v.shape if isinstance(s, Dim) and s.name == dim]
        return max((int(s) for s in sizes), default=0)
