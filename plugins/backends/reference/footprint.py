"""What a graph would take in numpy: weights as float32, every value to the end of a run, one node in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llamakit.backend import Footprint
from llamakit.graph.ops import Op
from llamakit.passes.memory import elements

if TYPE_CHECKING:
    from llamakit.graph.graph import Graph, Node

IN_PLACE = (Op.READ_STATE, Op.RESHAPE)
SCORES = 3  # copies of the scores that attention has at once


def footprint(graph: Graph, positions: int, kept: int) -> Footprint:
    """`positions`: the most of a sequence in the cache; `kept`: bytes of a value between nodes."""
    made = [value for node in graph.nodes if node.op not in IN_PLACE for value in node.outputs]
    values = kept * sum(elements(value) for value in [*graph.inputs.values(), *made])
    return Footprint(
        weights=sum(4 * math.prod(tensor.shape) for tensor in graph.parameters.values()),
        states=sum(kept * math.prod(tensor.shape) for tensor in graph.states.values()),
        program=values + 8 * max((_wide(node, positions) for node in graph.nodes), default=0),
    )


def _wide(node: Node, positions: int) -> int:
    """Elements that a node has in float64 at once."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    n = sum(elements(value) for value in values)
    if node.op is Op.ATTENTION and node.inputs[0] is not None and node.inputs[1] is not None:
        rows, n_head, dim = (int(size) for size in node.inputs[0].shape)
        seen = rows if node.attrs.layer is None else positions
        return n + SCORES * n_head * rows * seen + 2 * seen * n_head * dim
    if node.op is Op.EMBEDDING:  # reads the rows that it needs
        return n
    return n + sum(math.prod(tensor.shape) for tensor in node.tensors if tensor is not None)
