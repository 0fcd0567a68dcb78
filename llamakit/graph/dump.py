"""A graph as text, one node a line, for reading and for comparing in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.graph.graph import DType

if TYPE_CHECKING:
    from llamakit.graph.graph import Graph, Node, Shape, Tensor, Value


def dump(graph: Graph) -> str:
    """The whole graph:

    graph llama
      in  tokens (rows<=512) i32
      token_embd = embedding(tokens; token_embd.weight) (rows<=512, 64)
      out logits = output
    """
    lines = [f"graph {graph.name}"]
    lines += [f"  in  {name} {_shape(value.shape)} {value.dtype}" for name, value in graph.inputs.items()]
    lines += [f"  state {tensor.name} {_shape(tensor.shape)}{_dtype(tensor)}" for tensor in graph.states.values()]
    lines += [f"  {_node(node)}" for node in graph.nodes]
    lines += [f"  out {name} = {value.name}" for name, value in graph.outputs.items()]
    return "\n".join(lines) + "\n"


def _node(node: Node) -> str:
    parts = ", ".join(_name(value) for value in node.inputs)
    tensors = ", ".join(_name(tensor) for tensor in node.tensors)
    call = f"{node.op}({'; '.join(part for part in (parts, tensors) if part)})"
    if not node.outputs:
        return call
    shapes = ", ".join(_shape(value.shape) for value in node.outputs)
    return f"{', '.join(value.name for value in node.outputs)} = {call} {shapes}"


def _name(item: Value | Tensor | None) -> str:
    return "-" if item is None else item.name


def _dtype(tensor: Tensor) -> str:
    return "" if tensor.dtype is DType.F32 else f" {tensor.dtype}"


def _shape(shape: Shape) -> str:
    return f"({', '.join(str(size) for size in shape)})"
