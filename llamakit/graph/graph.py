"""Values, tensors, nodes and graphs, and the builder that makes them.

A `Graph` is a list of nodes in an order in which each node's inputs come first. It is data: passes and backends read
it, nobody changes it in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from llamakit.graph.ops import SPECS, GraphError, Op

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class DType(StrEnum):
    """Types of values and tensors in a graph. How a backend packs tensors of a file is its own affair.

    I8 is for states only: int8 times a float32 scale for each 256 neighbouring values.
    """

    F32 = "f32"
    I32 = "i32"
    BF16 = "bf16"
    I8 = "i8"


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


class Source(StrEnum):
    """Where a tensor comes from: a file, read-only and packed; or the device's own memory, which nodes may change."""

    FILE = "file"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class Tensor:
    """What stands where an op takes a weight; shape in numpy order, (n_out, n_in) for a linear.

    Tensors of files have their GGUF names. A state is row-major, and may stand wherever a tensor of a file may.
    """

    name: str
    shape: tuple[int, ...]
    source: Source = Source.FILE
    dtype: DType = DType.F32  # of a state


@dataclass(frozen=True, slots=True)
class Node:
    """One op at work. `inputs` and `tensors` follow the order in `SPECS[op]`; missing optional ones are None."""

    op: Op
    name: str
    inputs: tuple[Value | None, ...]
    tensors: tuple[Tensor | None, ...]
    attrs: Any
    outputs: tuple[Value, ...]
    device: int = 0

    @property
    def output(self) -> Value:
        """The first result."""
        return self.outputs[0]

    def input(self, name: str) -> Value | None:
        """The input called `name` in the op's specification, or None."""
        return dict(self.named_inputs())[name]

    def tensor(self, name: str) -> Tensor | None:
        """The tensor called `name` in the op's specification, or None."""
        return dict(self.named_tensors())[name]

    def named_inputs(self) -> Iterator[tuple[str, Value | None]]:
        """Inputs with their names in the op's specification."""
        return zip((key.rstrip("?") for key in SPECS[self.op].inputs), self.inputs, strict=True)

    def named_tensors(self) -> Iterator[tuple[str, Tensor | None]]:
        """Tensors with their names in the op's specification."""
        names = [key.rstrip("?*") for key in SPECS[self.op].tensors]
        names += names[-1:] * (len(self.tensors) - len(names))
        return zip(names, self.tensors, strict=False)

    def writes(self) -> list[Tensor]:
        """The states that it changes."""
        changed = SPECS[self.op].writes
        found = [tensor for name, tensor in self.named_tensors() if name in changed and tensor is not None]
        if self.op is Op.MAP:
            found = [found[number] for number, _ in self.attrs.assignments]
        return found

    def has_effect(self) -> bool:
        """Whether it changes a state or the cache, and so may be neither dropped nor run twice."""
        return bool(self.writes()) or (SPECS[self.op].cached and self.attrs.layer is not None)


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole computation: inputs (given at each run), tensors by name, nodes, outputs."""

    name: str
    inputs: dict[str, Value]
    tensors: dict[str, Tensor]
    nodes: tuple[Node, ...]
    outputs: dict[str, Value]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The tensors that are loaded from a file."""
        return {name: tensor for name, tensor in self.tensors.items() if tensor.source is Source.FILE}

    @property
    def states(self) -> dict[str, Tensor]:
        """The tensors that are the device's own memory."""
        return {name: tensor for name, tensor in self.tensors.items() if tensor.source is Source.STATE}

    def uses(self) -> dict[str, frozenset[tuple[Op, str]]]:
        """For each tensor of a file the (op, node name) pairs that read it: a backend packs a tensor for its uses."""
        found: dict[str, set[tuple[Op, str]]] = {name: set() for name in self.parameters}
        for node in self.nodes:
            for tensor in node.tensors:
                if tensor is not None and tensor.source is Source.FILE:
                    found[tensor.name].add((node.op, node.name))
        return {name: frozenset(uses) for name, uses in found.items()}

    def dims(self) -> dict[str, int]:
        """The free sizes with their maxima, in order of appearance."""
        values = [*self.inputs.values(), *(value for node in self.nodes for value in node.outputs)]
        found: dict[str, int] = {}
        for value in values:
            for size in value.shape:
                if isinstance(size, Dim):
                    found.setdefault(size.name, size.maximum)
        return found

    def with_nodes(self, nodes: Iterable[Node]) -> Graph:
        """The same graph with other nodes."""
        return replace(self, nodes=tuple(nodes))


def padded(items: tuple[Any, ...], names: tuple[str, ...]) -> tuple[Any, ...]:
    """`items` with None for those of `names` that are missing at the end."""
    wanted = len(names) - bool(names and names[-1].endswith("*"))
    return items + (None,) * (wanted - len(items))


def result_shapes(op: Op, inputs: tuple[Value | None, ...], tensors: tuple[Tensor | None, ...], attrs: Any) -> Any:
    """The shapes of a node's results, by its rule."""
    x = [None if value is None else value.shape for value in inputs]
    return SPECS[op].shape(x, [None if tensor is None else tensor.shape for tensor in tensors], attrs)


@dataclass
class GraphBuilder:
    """Makes a graph node by node; shapes are inferred and checked as it goes."""

    name: str
    inputs: dict[str, Value] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, Value] = field(default_factory=dict)
    _next: int = 0

    @classmethod
    def of(cls, graph: Graph) -> GraphBuilder:
        """One that goes on where a graph ends."""
        ids = [value.id for value in graph.inputs.values()]
        ids += [value.id for node in graph.nodes for value in node.outputs]
        parts = (dict(graph.inputs), dict(graph.tensors), list(graph.nodes), dict(graph.outputs))
        return cls(graph.name, *parts, _next=max(ids, default=-1) + 1)

    def value(self, name: str, shape: Shape, dtype: DType = DType.F32) -> Value:
        """A new value, which no node makes yet."""
        value = Value(self._next, name, shape, dtype)
        self._next += 1
        return value

    def input(self, name: str, shape: Shape, dtype: DType = DType.I32) -> Value:
        """An input, given at each run: int32 or float32."""
        if name in self.inputs:
            raise GraphError(f"graph {self.name}: input {name!r} is declared twice")
        if dtype not in (DType.I32, DType.F32):
            raise GraphError(f"graph {self.name}: input {name!r} is {dtype}; inputs are int32 or float32")
        self.inputs[name] = self.value(name, shape, dtype)
        return self.inputs[name]

    def parameter(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of a file; several nodes may use it, with one shape."""
        return self.tensor(Tensor(name, shape))

    def state(self, name: str, shape: tuple[int, ...], dtype: DType = DType.F32) -> Tensor:
        """A tensor that is the device's own memory: trainable weights, their gradients, moments of an optimiser."""
        return self.tensor(Tensor(name, shape, Source.STATE, dtype))

    def tensor(self, tensor: Tensor) -> Tensor:
        """Declare a tensor; the same name must be the same tensor everywhere."""
        known = self.tensors.setdefault(tensor.name, tensor)
        if known != tensor:
            raise GraphError(
                f"graph {self.name}: tensor {tensor.name!r} is used as {known.source} {known.shape} {known.dtype}"
                f" and as {tensor.source} {tensor.shape} {tensor.dtype}"
            )
        return tensor

    def add_all(
        self,
        op: Op,
        name: str,
        inputs: tuple[Value | None, ...] = (),
        *,
        tensors: tuple[Tensor | None, ...] = (),
        attrs: Any = None,
    ) -> tuple[Value, ...]:
        """Append a node and return its results."""
        spec = SPECS[op]
        attrs = spec.attrs() if attrs is None else attrs
        inputs, tensors = padded(inputs, spec.inputs), padded(tensors, spec.tensors)
        try:
            shapes = result_shapes(op, inputs, tensors, attrs)
        except GraphError as error:
            raise GraphError(f"graph {self.name}, node {name} ({op}): {error}") from None
        names = [name, *(f"{name}.{i}" for i in range(1, len(shapes)))]
        outputs = tuple(self.value(each, shape) for each, shape in zip(names, shapes, strict=False))
        self.nodes.append(Node(op, name, inputs, tensors, attrs, outputs))
        return outputs

    def add(
        self,
        op: Op,
        name: str,
        inputs: tuple[Value | None, ...] = (),
        *,
        tensors: tuple[Tensor | None, ...] = (),
        attrs: Any = None,
    ) -> Value:
        """Append a node that has one result, and return that."""
        outputs = self.add_all(op, name, inputs, tensors=tensors, attrs=attrs)
        if len(outputs) != 1:
            raise GraphError(f"graph {self.name}, node {name} ({op}): it has {len(outputs)} results, not one")
        return outputs[0]

    def read(self, tensor: Tensor) -> Value:
        """A state as a value."""
        return self.add(Op.READ_STATE, f"{tensor.name}.read", tensors=(tensor,))

    def build(self, **outputs: Value) -> Graph:
        """The finished graph with these named outputs."""
        self.outputs.update(outputs)
        return Graph(self.name, dict(self.inputs), dict(self.tensors), tuple(self.nodes), dict(self.outputs))
