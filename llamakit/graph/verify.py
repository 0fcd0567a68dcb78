"""What a legal graph is; `verify` names the first node that breaks a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.graph.graph import DType, Shape, Value
from llamakit.graph.ops import SPECS, GraphError, Op

if TYPE_CHECKING:
    from llamakit.graph.graph import Graph, Node


def verify(graph: Graph) -> Graph:
    """Check every node in order and give the graph back; a `GraphError` names the node that is at fault."""
    known: dict[int, Value] = {value.id: value for value in graph.inputs.values()}
    for node in graph.nodes:
        try:
            _check_names(graph, node)
            _check_inputs(node, known)
            _check_shape(graph, node)
        except GraphError as error:
            raise GraphError(f"graph {graph.name}, node {node.name} ({node.op}): {error}") from None
        if node.output.id in known:
            raise GraphError(f"graph {graph.name}, node {node.name}: its result is made twice")
        known[node.output.id] = node.output
    for name, value in graph.outputs.items():
        if known.get(value.id) != value:
            raise GraphError(f"graph {graph.name}: output {name!r} is made by no node")
    return graph


def _check_names(graph: Graph, node: Node) -> None:
    spec = SPECS.get(node.op)
    if spec is None:
        raise GraphError("there is no such op")
    if len(node.inputs) != len(spec.inputs) or len(node.weights) != len(spec.weights):
        raise GraphError(f"it needs inputs {spec.inputs} and weights {spec.weights}")
    if not isinstance(node.attrs, spec.attrs):
        raise GraphError(f"its attributes must be {spec.attrs.__name__}")
    for weight in node.weights:
        if weight is not None and weight not in graph.parameters:
            raise GraphError(f"tensor {weight!r} is not declared")
    if spec.has_state and node.state not in graph.states:
        raise GraphError(f"state {node.state!r} is not declared")


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
        if value.dtype is not wanted and node.op is not Op.RESHAPE:
            raise GraphError(f"input {name!r} ({value.name}) is {value.dtype}, must be {wanted}")


def _check_shape(graph: Graph, node: Node) -> None:
    spec = SPECS[node.op]
    if node.op is Op.READ_STATE:
        expected = graph.states[str(node.state)].shape
    else:
        weights: list[Shape] = [graph.parameters[w].shape for w in node.weights if w is not None]
        expected = spec.shape([v.shape for v in node.inputs if v is not None], weights, node.attrs)
    if node.output.shape != expected:
        raise GraphError(f"its result is declared as {node.output.shape}, its rule gives {expected}")
