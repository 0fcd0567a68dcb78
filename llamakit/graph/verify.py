"""What a legal graph is; `verify` names the first node that breaks a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.graph.graph import DType, Source, Value, result_shapes
from llamakit.graph.ops import SPECS, GraphError, Op

if TYPE_CHECKING:
    from llamakit.graph.graph import Graph, Node


def verify(graph: Graph) -> Graph:
    """Check every node in order and give the graph back; a `GraphError` names the node that is at fault."""
    known: dict[int, Value] = {value.id: value for value in graph.inputs.values()}
    for name in graph.inputs.keys() & graph.tensors.keys():
        raise GraphError(f"graph {graph.name}: {name!r} is an input and a tensor")
    memory = StateReads()
    for node in graph.nodes:
        try:
            _check_names(graph, node)
            _check_inputs(node, known)
            _check_shapes(node)
            memory.check(node)
        except GraphError as error:
            raise GraphError(f"graph {graph.name}, node {node.name} ({node.op}): {error}") from None
        for value in node.outputs:
            if value.id in known:
                raise GraphError(f"graph {graph.name}, node {node.name}: its result {value.name} is made twice")
            known[value.id] = value
    for name, value in graph.outputs.items():
        if known.get(value.id) != value:
            raise GraphError(f"graph {graph.name}: output {name!r} is made by no node")
        if memory.is_stale(value):
            raise GraphError(f"graph {graph.name}: output {name!r} is a state that is changed after it was read")
    return graph


class StateReads:
    """Values that are the memory of a state: they must not be read when the state has changed."""

    def __init__(self) -> None:
        self.state_of: dict[int, str] = {}  # value id -> name of the state
        self.stale: dict[str, set[int]] = {}

    def check(self, node: Node) -> None:
        """GraphError if the node reads such a value, or changes a state that it reads other than element by element."""
        changed = {tensor.name for tensor in node.writes()}
        by_element = node.op in (Op.WRITE_STATE, Op.ADD_STATE, Op.MAP)
        for value in node.inputs:
            if value is None or value.id not in self.state_of:
                continue
            name = self.state_of[value.id]
            if self.is_stale(value):
                raise GraphError(f"it reads {value.name}, but state {name!r} has changed since")
            if name in changed and not by_element:
                raise GraphError(f"it changes state {name!r} while it reads it")
        for name in changed:
            self.stale[name] = {value for value, state in self.state_of.items() if state == name}
        if node.op is Op.READ_STATE:
            self.state_of[node.output.id] = str(node.tensors[0] and node.tensors[0].name)
        elif node.op is Op.RESHAPE and node.inputs[0] is not None and node.inputs[0].id in self.state_of:
            self.state_of[node.output.id] = self.state_of[node.inputs[0].id]

    def is_stale(self, value: Value) -> bool:
        """Whether the value was read before its state changed."""
        return value.id in self.stale.get(self.state_of.get(value.id, ""), ())


def _check_names(graph: Graph, node: Node) -> None:
    spec = SPECS.get(node.op)
    if spec is None:
        raise GraphError("there is no such op")
    many = spec.tensors[-1:] and spec.tensors[-1].endswith("*")
    n_tensor = len(node.tensors) >= len(spec.tensors) if many else len(node.tensors) == len(spec.tensors)
    if len(node.inputs) != len(spec.inputs) or not n_tensor:
        raise GraphError(f"it needs inputs {spec.inputs} and tensors {spec.tensors}")
    if not isinstance(node.attrs, spec.attrs):
        raise GraphError(f"its attributes must be {spec.attrs.__name__}")
    for key, tensor in zip(spec.tensors, node.tensors, strict=False):
        if tensor is None and not key.endswith("?"):
            raise GraphError(f"tensor {key!r} is missing")
    for tensor in node.tensors:
        if tensor is not None and graph.tensors.get(tensor.name) != tensor:
            raise GraphError(f"tensor {tensor.name!r} is not declared as it is used")
        if tensor is not None and tensor.dtype is not DType.F32 and not spec.any_dtype:
            raise GraphError(f"state {tensor.name!r} is {tensor.dtype}, must be f32")
    reads_state = node.op in (Op.READ_STATE, Op.REDUCE, Op.MAP)
    for tensor in (*node.writes(), *(node.tensors if reads_state else ())):
        if tensor is not None and tensor.source is not Source.STATE:
            raise GraphError(f"tensor {tensor.name!r} is not a state")


def _check_inputs(node: Node, known: dict[int, Value]) -> None:
    spec = SPECS[node.op]
    for key, value in zip(spec.inputs, node.inputs, strict=True):
        name = key.rstrip("?")
        if value is None:
            if not key.endswith("?"):
                raise GraphError(f"input {name!r} is missing")
            continue
        if known.get(value.id) != value:
            raise GraphError(f"input {name!r} ({value.name}) is made later, or by no node")
        wanted = DType.I32 if name in spec.integers else DType.F32
        if value.dtype is not wanted:
            raise GraphError(f"input {name!r} ({value.name}) is {value.dtype}, must be {wanted}")


def _check_shapes(node: Node) -> None:
    expected = tuple(result_shapes(node.op, node.inputs, node.tensors, node.attrs))
    found = tuple(value.shape for value in node.outputs)
    if found != expected:
        raise GraphError(f"its results are declared as {found}, its rule gives {expected}")
