"""A graph as text, one node a line, for reading and for comparing in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamakit.graph.graph import Graph, Node, Shape, Value


def dump(graph: Graph) -> str:
    """The whole graph:

    graph llama
      in  tokens (rows<=512) i32
      token_embd = embedding(tokens; token_embd.weight) (rows<=512, 64)
      out logits = output
    """
    lines = [f"graph {graph.name}"]
    lines += [f"  in  {name} {_shape(value.shape)} {value.dtype}" for name, value in graph.inputs.items()]
    lines += [f"  state {name} {_shape(value.shape)}" for name, value in graph.states.items()]
    lines += [f"  {_node(node)}" for node in graph.nodes]
    lines += [f"  out {name} = {value.name}" for name, value in graph.outputs.items()]
    return "\n".join(lines) + "\n"


def _node(node: Node) -> str:
    parts = ", ".join(_name(value) for value in node.inputs)
    weights = ", ".join(weight or "-" for weight in node.weights)
    inside = "; ".join(part for part in (parts, weights, node.state or "") if part)
    return f"{node.output.name} = {node.op}({inside}) {_shape(node.output.shape)}"


def _name(value: Value | None) -> str:
    return "-" if value is None else value.name


def _shape(shape: Shape) -> str:
    return f"({', '.join(str(size) for size in shape)})"
