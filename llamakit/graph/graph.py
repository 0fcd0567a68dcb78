"""Values, nodes and graphs, and the builder that makes them.

A `Graph` is a list of nodes in an order in which each node's inputs come first; every node has one result.
It is data: passes and backends read it, nobody changes it in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from llamakit.graph.ops import SPECS, GraphError, Op

if TYPE_CHECKING:
    from collections.abc import Iterable


class DType(StrEnum):
    """Types of values in a graph. What a backend stores is its own affair."""

    F32 = "f32"
    I32 = "i32"


@dataclass(frozen=True, slots=True)
class Dim:
    """A size known at each run only, never above `maximum`: rows, out_rows, seqs, blocks."""

    name: str
    maximum: int

    def __str__(self) -> str:
        return f"{self.name}<={self.maximum}"

    def __int__(self) -> int:
        return self.maximum


Size = int | Dim
Shape = tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """An edge of the graph: what a node makes, or an input of the graph."""

    id: int
    name: str
    shape: Shape
    dtype: DType = DType.F32


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of the model, by its GGUF name; shape in numpy order, (n_out, n_in) for a linear."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One op at work. `inputs` and `weights` follow the order in `SPECS[op]`; missing optional ones are None."""

    op: Op
    name: str
    inputs: tuple[Value | None, ...]
    weights: tuple[str | None, ...]
    attrs: Any
    output: Value
    state: str | None = None
    device: int = 0

    def input(self, name: str) -> Value | None:
        """The input called `name` in the op's specification, or None."""
        for key, value in zip(SPECS[self.op].inputs, self.inputs, strict=True):
            if key.rstrip("?") == name:
                return value
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole computation: inputs (int32, given at each run), weights and states by name, nodes, outputs."""

    name: str
    inputs: dict[str, Value]
    parameters: dict[str, Parameter]
    states: dict[str, Value]
    nodes: tuple[Node, ...]
    outputs: dict[str, Value]

    def uses(self) -> dict[str, frozenset[tuple[Op, str]]]:
        """For each parameter the (op, node name) pairs that read it: a backend packs a tensor for its uses."""
        found: dict[str, set[tuple[Op, str]]] = {name: set() for name in self.parameters}
        for node in self.nodes:
            for weight in node.weights:
                if weight is not None:
                    found[weight].add((node.op, node.name))
        return {name: frozenset(uses) for name, uses in found.items()}

    def with_nodes(self, nodes: Iterable[Node]) -> Graph:
        """The same graph with other nodes."""
        return replace(self, nodes=tuple(nodes))


@dataclass
class GraphBuilder:
    """Makes a graph node by node; shapes are inferred and checked as it goes."""

    name: str
    inputs: dict[str, Value] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    states: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, Value] = field(default_factory=dict)
    _next: int = 0

    def _value(self, name: str, shape: Shape, dtype: DType) -> Value:
        value = Value(self._next, name, shape, dtype)
        self._next += 1
        return value

    def input(self, name: str, shape: Shape, dtype: DType = DType.I32) -> Value:
        """An input, given at each run."""
        if name in self.inputs:
            raise GraphError(f"graph {self.name}: input {name!r} is declared twice")
        self.inputs[name] = self._value(name, shape, dtype)
        return self.inputs[name]

    def parameter(self, name: str, shape: tuple[int, ...]) -> str:
        """A tensor of the model; the same name may be used by several nodes, with one shape."""
        known = self.parameters.setdefault(name, Parameter(name, shape))
        if known.shape != shape:
            raise GraphError(f"graph {self.name}: tensor {name!r} is used as {known.shape} and as {shape}")
        return name

    def state(self, name: str, shape: Shape) -> Value:
        """Declare a state tensor (trainable weights, optimiser moments) and read it."""
        if name not in self.states:
            self.states[name] = self._value(name, shape, DType.F32)
        return self.add(Op.READ_STATE, f"{name}.read", (), state=name)

    def add(
        self,
        op: Op,
        name: str,
        inputs: tuple[Value | None, ...],
        *,
        weights: tuple[str | None, ...] = (),
        attrs: Any = None,
        state: str | None = None,
    ) -> Value:
        """Append a node and return its result."""
        spec = SPECS[op]
        attrs = spec.attrs() if attrs is None else attrs
        inputs += (None,) * (len(spec.inputs) - len(inputs))
        weights += (None,) * (len(spec.weights) - len(weights))
        weight_shapes: list[Shape] = [self.parameters[w].shape for w in weights if w is not None]
        try:
            shape = spec.shape([v.shape for v in inputs if v is not None], weight_shapes, attrs)
        except GraphError as error:
            raise GraphError(f"graph {self.name}, node {name} ({op}): {error}") from None
        if op is Op.READ_STATE:
            shape = self.states[str(state)].shape
        output = self._value(name, shape, DType.F32)
        self.nodes.append(Node(op, name, inputs, weights, attrs, output, state))
        return output

    def build(self, **outputs: Value) -> Graph:
        """The finished graph with these named outputs."""
        self.outputs.update(outputs)
        return Graph(
            self.name,
            dict(self.inputs),
            dict(self.parameters),
            dict(self.states),
            tuple(self.nodes),
            dict(self.outputs),
        )
