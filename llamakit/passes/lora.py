"""Adapters as part of a graph: y = W x becomes y = W x + scale B (A x), with A and B as states that can be trained.

Hu et al. 2021, arXiv:2106.09685. Names of the states are those of adapter files: NAME.lora_a (r, n_in) and
NAME.lora_b (n_out, r). Of an embedding, which looks up rows, A is (r, n_embd) and B (n_vocab, r); of a norm, whose
weight is a vector, A is (r, n) and B (1, r). A norm's adapter also needs a state NAME.ones of ones, and an input
`zeros` of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamakit.graph.graph import GraphBuilder, Node
from llamakit.graph.ops import GraphError, NoAttrs, Op, ScaleAttrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.graph.graph import Graph, Tensor, Value

A, B, ONES = ".lora_a", ".lora_b", ".ones"


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """Rank of an adapter, and the factor of what it adds: alpha / rank, or alpha / sqrt(rank)."""

    rank: int
    scale: float


def add_adapters(graph: Graph, adapters: Mapping[str, AdapterShape]) -> Graph:
    """The graph with adapters for the tensors that `adapters` names.

    GraphError names a tensor that no node uses in a way that an adapter can change.
    """
    builder = GraphBuilder.of(graph)
    builder.nodes = []
    used: set[str] = set()
    for node in graph.nodes:
        name = node.tensors[0].name if node.tensors and node.tensors[0] is not None else ""
        if name in adapters and node.op in _ADD:
            used.add(name)
            _ADD[node.op](builder, node, adapters[name])
        else:
            builder.nodes.append(node)
    unused = sorted(adapters.keys() - used)
    if unused:
        raise GraphError(f"graph {graph.name}: no adapter can change {', '.join(map(repr, unused))}")
    return builder.build()


def _states(builder: GraphBuilder, node: Node, shape: AdapterShape) -> tuple[Tensor, Tensor]:
    weight = node.tensors[0]
    if weight is None or len(weight.shape) > 2:
        raise GraphError(f"node {node.name}: only matrices and vectors can have an adapter")
    n_out, n_in = weight.shape if len(weight.shape) == 2 else (1, weight.shape[0])  # of an embedding n_vocab, n_embd
    a = builder.state(weight.name + A, (shape.rank, n_in))
    return a, builder.state(weight.name + B, (n_out, shape.rank))


def _scaled(builder: GraphBuilder, node: Node, down: Value, shape: AdapterShape) -> Value:
    """(rows, r): the factor is applied where there is least to multiply."""
    return builder.add(Op.SCALE, f"{node.name}.lora_scale", (down,), attrs=ScaleAttrs(shape.scale))


def _base(builder: GraphBuilder, node: Node) -> Value:
    """Append the node itself, with a result of another name."""
    base = builder.value(f"{node.name}.base", node.output.shape)
    builder.nodes.append(replace(node, outputs=(base,)))
    return base


def _sum(builder: GraphBuilder, node: Node, base: Value, delta: Value) -> None:
    """What the node made before is now the sum."""
    builder.nodes.append(Node(Op.ADD, f"{node.name}.lora", (base, delta), (), NoAttrs(), node.outputs))


def _linear(builder: GraphBuilder, node: Node, shape: AdapterShape) -> None:
    a, b = _states(builder, node, shape)
    base = _base(builder, node)
    down = builder.add(Op.LINEAR, f"{node.name}.lora_a", (node.inputs[0],), tensors=(a,))
    delta = builder.add(Op.LINEAR, f"{node.name}.lora_b", (_scaled(builder, node, down, shape),), tensors=(b,))
    _sum(builder, node, base, delta)


def _embedding(builder: GraphBuilder, node: Node, shape: AdapterShape) -> None:
    a, b = _states(builder, node, shape)
    base = _base(builder, node)
    rows = builder.add(Op.EMBEDDING, f"{node.name}.lora_b", (node.inputs[0],), tensors=(b,))
    scaled = _scaled(builder, node, rows, shape)
    delta = builder.add(Op.MATMUL, f"{node.name}.lora_a", (scaled, builder.read(a)))
    _sum(builder, node, base, delta)


def _head_loss(builder: GraphBuilder, node: Node, shape: AdapterShape) -> None:
    """The head takes B and what A makes as they are, so that its logits need not exist at once."""
    a, b = _states(builder, node, shape)
    down = builder.add(Op.LINEAR, f"{node.name}.lora_a", (node.inputs[0],), tensors=(a,))
    h = _scaled(builder, node, down, shape)
    inputs, tensors = (*node.inputs[:3], h), (node.tensors[0], b, *node.tensors[2:])
    builder.nodes.append(replace(node, inputs=inputs, tensors=tensors))


def _norm(builder: GraphBuilder, node: Node, shape: AdapterShape) -> None:
    """norm(x; w + scale B A) = norm(x; w) + scale norm(x; 1) * (B A), with B A in every row."""
    a, b = _states(builder, node, shape)
    x, weight = node.inputs[0], node.tensors[0]
    if x is None or weight is None or len(x.shape) != 2:
        raise GraphError(f"node {node.name}: the norm of heads can have no adapter")
    base = _base(builder, node)
    ones = builder.state(weight.name + ONES, weight.shape)
    unit = builder.add(Op.RMS_NORM, f"{node.name}.unit", (x,), tensors=(ones,), attrs=node.attrs)
    zeros = builder.inputs.get("zeros") or builder.input("zeros", x.shape[:1])
    whole = builder.add(Op.MATMUL, f"{node.name}.lora_ab", (builder.read(b), builder.read(a)))
    rows = builder.add(Op.SELECT_ROWS, f"{node.name}.lora_rows", (_scaled(builder, node, whole, shape), zeros))
    _sum(builder, node, base, builder.add(Op.MUL, f"{node.name}.lora_delta", (unit, rows)))


_ADD = {Op.LINEAR: _linear, Op.EMBEDDING: _embedding, Op.HEAD_LOSS: _head_loss, Op.RMS_NORM: _norm}
