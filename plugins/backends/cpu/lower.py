"""From a graph to the steps that the native executor runs, and to the places of its values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llamakit.plugins.backends.cpu import _cpu
from llamakit.plugins.backends.cpu.fuse import Group, fuse

from llamakit.errors import BackendError
from llamakit.gguf import GGMLType
from llamakit.graph.expression import instructions
from llamakit.graph.graph import Dim, Source
from llamakit.graph.ops import SPECS, Op
from llamakit.passes.memory import plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.backend import InputLayout
    from llamakit.graph.graph import Graph, Node, Tensor, Value

PANEL_ROWS = 16
EXACT = (GGMLType.F32, GGMLType.F16)  # weights whose products are of float32 anyway
UNITS = {op for op in Op if str(op) in _cpu.StepKind.__members__} | {Op.LINEAR, Op.RESHAPE, Op.READ_STATE}


def supported(node: Node) -> bool:
    """Whether there is a kernel. Attention without a cache is what training runs: it has no soft caps and the like."""
    plain = node.op is not Op.ATTENTION or node.attrs.layer is not None
    return node.op in UNITS and (plain or not (node.attrs.soft_cap or node.attrs.slopes or node.tensors[0]))


class Lowering:
    """Makes the steps of one graph."""

    def __init__(
        self, graph: Graph, layout: InputLayout, weights: Mapping[str, Any], states: Mapping[str, Any]
    ) -> None:
        self.graph, self.layout, self.weights, self.states = graph, layout, weights, states
        self.fusion = fuse(graph, weights)
        self.plan = plan(graph, position=self.fusion.position)
        self.inputs = {value.id: name for name, value in graph.inputs.items()}
        # Of several free sizes the first says how many threads a step gets.
        self.dims = dict(sorted(graph.dims().items(), key=lambda dim: dim[0] != "rows"))
        self._tables: dict[Any, int] = {}

    def steps(self) -> list[Any]:
        """All steps in order."""
        return [self.group(unit) if isinstance(unit, Group) else self.step(unit) for unit in self.fusion.units]

    def group(self, group: Group) -> Any:
        """Linears that share their input."""
        first = group.linears[0]
        step = _cpu.Step(_cpu.StepKind.linears, first.name)
        step.norm = None if group.norm is None else self.step(group.norm)
        step.inputs, step.ints = self.inputs_of(first)
        step.parts = [self.part(node) for node in group.linears]
        step.plain = any(self.is_plain(node) for node in group.linears)
        step.outs = [self.value(first.output)]
        if group.gate is not None:
            step.gated, step.gelu = True, group.gate.attrs.activation == "gelu"
            step.outs = [self.value(group.gate.output)]
        if group.add is not None:
            other = next(value for value in group.add.inputs if value is not first.output)
            step.inputs = [*step.inputs, self.value(other)]
            step.outs = [self.value(group.add.output)]
        return step

    def part(self, node: Node) -> Any:
        """One of them."""
        weight, bias = (self.tensor(tensor) for tensor in node.tensors)
        return _cpu.LinearPart(weight, bias, self.target(node), self.value(node.output))

    def is_plain(self, node: Node) -> bool:
        """Whether a weight is multiplied as its float32 values: where that is asked for, and states."""
        weight = node.tensors[0]
        if weight is None or weight.source is not Source.FILE:
            return True
        return node.attrs.activations == "f32" and self.weights[weight.name].type not in EXACT

    def target(self, node: Node) -> str:
        """The name of the node's weight, by which adapters find it."""
        return str(node.tensors[0] and node.tensors[0].name)

    def tensor(self, tensor: Tensor | None) -> Any:
        """A weight of the device, or a state in the place of one."""
        if tensor is None:
            return None
        if tensor.source is Source.FILE:
            return self.weights[tensor.name].native
        *outer, inner = tensor.shape
        return self.states[tensor.name].native.weight(math.prod(outer), inner, len(tensor.shape) == 1)

    def inputs_of(self, node: Node) -> tuple[list[Any], list[int]]:
        """Places of the float inputs, and offsets of the integer ones."""
        integers = SPECS[node.op].integers
        pairs = list(node.named_inputs())
        floats = [self.value(value) for key, value in pairs if key not in integers and value is not None]
        return floats, [self.offset(value) for key, value in pairs if key in integers]

    def step(self, node: Node) -> Any:
        """One node."""
        if not supported(node):
            raise BackendError(f"cpu: node {node.name}: there is no kernel for {node.op}", hint="--backend reference")
        step = _cpu.Step(_cpu.StepKind.__members__[str(node.op)], node.name)
        step.outs = [self.value(value) for value in node.outputs]
        step.inputs, step.ints = self.inputs_of(node)
        changed = {"state"} if node.op is Op.REDUCE else SPECS[node.op].writes
        named = list(node.named_tensors())
        step.states = [tensor and self.states[tensor.name].native for name, tensor in named if name in changed]
        if node.op in (Op.EXPERTS, Op.EXPERTS_BACK):
            self.check_experts(node)
            step.parts = [_cpu.LinearPart(self.tensor(tensor), None, name, step.outs[0]) for name, tensor in named]
        elif named and named[0][0] == "weight":
            step.weight, step.target = self.tensor(named[0][1]), self.target(node)
        self.set_attributes(step, node)
        return step

    def set_attributes(self, step: Any, node: Node) -> None:
        """Those that the executor reads; the others have said already what they mean."""
        a = node.attrs
        if node.op in (Op.RMS_NORM, Op.RMS_NORM_BACK, Op.LAYER_NORM, Op.LAYER_NORM_BACK):
            step.epsilon = a.epsilon
            step.other = self.tensor(node.tensor("bias")) if node.op is Op.LAYER_NORM else None
        elif node.op in (Op.ATTENTION, Op.ATTENTION_BACK):
            step.factor, step.layer, step.window = a.scale, -1 if a.layer is None else a.layer, a.window or 0
            step.cap, step.slopes = a.soft_cap, list(a.slopes)
            step.weight = self.tensor(node.tensor("sinks")) if node.op is Op.ATTENTION else None
        elif node.op is Op.ACTIVATION:
            step.activation, step.slope = _cpu.Activation.__members__[a.kind], a.slope
        elif node.op is Op.SOFT_CAP:
            step.activation, step.cap = _cpu.Activation.soft_cap, a.cap
        elif node.op is Op.SCALE:
            step.factor = a.factor
        elif node.op in (Op.EXPERTS, Op.EXPERTS_BACK):
            step.n_used, step.normalise, step.gelu = a.n_used, a.normalise, a.activation == "gelu"
        elif node.op in (Op.GATED, Op.GATED_BACK):
            step.gelu = a.activation == "gelu"
        elif node.op is Op.MATMUL:
            step.transpose_a, step.transpose_b = a.transpose_a, a.transpose_b
        elif node.op is Op.ROPE:
            step.rope = _cpu.Rope(list(a.inv_freq), a.pairs == "adjacent", a.magnitude, a.inverse)
            step.table = self._tables.setdefault((a, step.ints[0]), len(self._tables))
        elif node.op is Op.HEAD_LOSS:
            step.chunk, step.other, step.plain = a.chunk, self.tensor(node.tensors[1]), self.is_plain(node)
        elif node.op is Op.MAP:
            step.map = self.map(node)
        elif node.op is Op.REDUCE:
            step.reduction = _cpu.ReduceKind.__members__[a.kind]

    def map(self, node: Node) -> Any:
        """The program of an elementwise assignment."""
        program, results = instructions(expression for _, expression in node.attrs.assignments)
        listed = [(each.op, each.a, each.b, each.value) for each in program]
        numbers = [number for number, _ in node.attrs.assignments]
        return _cpu.Map(len(node.tensors), listed, list(zip(numbers, results, strict=True)))

    def check_experts(self, node: Node) -> None:
        """Experts lie in panels of their own."""
        for tensor in node.tensors:
            if tensor is not None and tensor.shape[1] % PANEL_ROWS:
                raise BackendError(
                    f"cpu: the experts of {tensor.name!r} have {tensor.shape[1]} outputs, which is not a multiple of"
                    f" {PANEL_ROWS}",
                    hint="--backend reference",
                )

    def offset(self, value: Value | None) -> int:
        """Where an integer input lies in the packed block; -1: missing."""
        return -1 if value is None else self.layout.offsets[self.inputs[value.id]][0]

    def value(self, value: Value) -> Any:
        """Where a value lies, and its rows."""
        first = value.shape[0] if value.shape else 1
        dim = list(self.dims).index(first.name) if isinstance(first, Dim) else -1
        width = math.prod(int(size) for size in value.shape[1:])
        n_head = int(value.shape[1]) if len(value.shape) == 3 else 1
        shape = (dim, int(first), width, n_head)
        home = self.plan.elsewhere.get(value.id)
        if home is None:
            return _cpu.Value(self.plan.offsets[value.id], *shape)
        if home in self.layout.offsets:
            return _cpu.Value(self.layout.offsets[home][0], *shape, input=True)
        return _cpu.Value(0, *shape, state=self.states[home].native)
