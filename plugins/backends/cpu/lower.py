"""From a graph to the steps that the native executor runs, and to the places of its values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llamakit.plugins.backends.cpu import _cpu
from llamakit.plugins.backends.cpu.fuse import Group, fuse

from llamakit.errors import BackendError
from llamakit.graph.graph import Dim
from llamakit.graph.ops import SPECS, Op
from llamakit.passes.memory import plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.backend import InputLayout
    from llamakit.graph.graph import Graph, Node, Value

PANEL_ROWS = 16
ROWS = {"rows": 1, "out_rows": 2}


class Lowering:
    """Makes the steps of one graph."""

    def __init__(
        self, graph: Graph, layout: InputLayout, weights: Mapping[str, Any], states: Mapping[str, Any]
    ) -> None:
        self.graph, self.layout, self.weights, self.states = graph, layout, weights, states
        self.fusion = fuse(graph, weights)
        self.plan = plan(graph, position=self.fusion.position)
        self.inputs = {value.id: name for name, value in graph.inputs.items()}
        self._tables: dict[Any, int] = {}

    def steps(self) -> list[Any]:
        """All steps in order."""
        return [self.group(unit) if isinstance(unit, Group) else self.step(unit) for unit in self.fusion.units]

    def group(self, group: Group) -> Any:
        """Linears that share their input."""
        first = group.linears[0]
        step = _cpu.Step()
        step.kind, step.name = "linears", first.name
        step.norm = None if group.norm is None else self.step(group.norm)
        step.inputs, step.ints = self.inputs_of(first)
        step.parts = [self.part(node) for node in group.linears]
        step.out = self.value(first.output)
        if group.gate is not None:
            step.gated, step.gelu = True, group.gate.attrs.activation == "gelu"
            step.out = self.value(group.gate.output)
        if group.add is not None:
            other = next(value for value in group.add.inputs if value is not first.output)
            step.inputs = [*step.inputs, self.value(other)]
            step.out = self.value(group.add.output)
        return step

    def part(self, node: Node) -> Any:
        """One of them."""
        weight, bias = node.weights
        native = None if bias is None else self.weights[bias].native
        return _cpu.LinearPart(self.weights[weight].native, native, weight, self.value(node.output))

    def inputs_of(self, node: Node) -> tuple[list[Any], list[int]]:
        """Places of the float inputs, and offsets of the integer ones."""
        pairs = [(key.rstrip("?"), value) for key, value in zip(SPECS[node.op].inputs, node.inputs, strict=True)]
        integers = SPECS[node.op].integers
        floats = [self.value(value) for key, value in pairs if key not in integers and value is not None]
        return floats, [self.offset(value) for key, value in pairs if key in integers]

    def step(self, node: Node) -> Any:
        """One node."""
        step = _cpu.Step()
        step.kind, step.name = str(node.op), node.name
        step.out = self.value(node.output)
        step.inputs, step.ints = self.inputs_of(node)
        if node.weights and node.weights[0] is not None:
            step.weight, step.target = self.weights[node.weights[0]].native, node.weights[0]
        if node.state is not None:
            step.state = self.states[node.state].native
        if node.op is Op.EXPERTS:
            self.check_experts(node)
            step.parts = [
                _cpu.LinearPart(self.weights[name].native, None, name, step.out) for name in map(str, node.weights)
            ]
        step.numbers = self.numbers(node)
        if node.op is Op.ROPE:
            step.rope = _cpu.Rope(list(node.attrs.inv_freq), node.attrs.pairs == "adjacent", node.attrs.magnitude)
            step.table = self._tables.setdefault((node.attrs, step.ints[0]), len(self._tables))
        return step

    def check_experts(self, node: Node) -> None:
        """Experts lie in panels of their own."""
        for name in map(str, node.weights):
            n_out = self.graph.parameters[name].shape[1]
            if int(n_out) % PANEL_ROWS:
                raise BackendError(
                    f"cpu: the experts of {name!r} have {n_out} outputs, which is no multiple of {PANEL_ROWS}",
                    hint="--backend reference",
                )

    def numbers(self, node: Node) -> list[float]:
        """The attributes that a step needs, in the order that the executor expects."""
        a = node.attrs
        if node.op is Op.RMS_NORM:
            return [a.epsilon]
        if node.op is Op.ATTENTION:
            return [a.scale, -1 if a.layer is None else a.layer, a.window or 0]
        if node.op is Op.SCALE:
            return [a.factor]
        if node.op is Op.EXPERTS:
            return [a.n_used, float(a.normalise), float(a.activation == "gelu")]
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
