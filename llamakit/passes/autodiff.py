"""From a graph that computes a loss to one that also computes gradients, by going back through its nodes.

    graph = differentiate(graph, trainable={"blk.0.attn_q.weight.lora_a", ...})

The loss is what `head_loss` nodes make: the sum over rows of weight * loss. The gradient of a trainable state NAME is
added to a state NAME.grad by every run, so it accumulates until it is set to zero. Only what the trainable
states need is computed: gradients stop where nothing before depends on one. Each op's rule is in `gradients.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llamakit.graph.graph import GraphBuilder, Source, Tensor
from llamakit.graph.ops import GraphError, Op
from llamakit.passes.gradients import RULES, WRITES_GRADIENTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from llamakit.graph.graph import Graph, Node, Value

GRADIENT = ".grad"


def differentiate(graph: Graph, trainable: Set[str], seeds: Mapping[int, Value] | None = None) -> Graph:
    """The graph with the nodes of its gradients behind its own.

    `seeds`: for values by id, gradients that come from elsewhere, as inputs of the graph or values of it. GraphError
    names an op that has no rule, a trainable tensor that is not a state, and one that the loss does not depend on.
    """
    for name in sorted(trainable):
        if name not in graph.states:
            raise GraphError(f"graph {graph.name}: {name!r} cannot be trained, it is not a state of the graph")
    back = Backward(graph, trainable, dict(seeds or {}))
    for node in reversed(list(back.builder.nodes)):
        back.visit(node)
    unreached = sorted(trainable - back.reached)
    if unreached:
        raise GraphError(f"graph {graph.name}: the loss does not depend on {', '.join(map(repr, unreached))}")
    return back.builder.build()


class Backward:
    """The way back: gradients by value, and the builder that their nodes are added to."""

    def __init__(self, graph: Graph, trainable: Set[str], gradients: dict[int, Value]) -> None:
        self.trainable, self.gradients = trainable, gradients
        self.reached: set[str] = set()
        self.needed = _depending(graph, trainable)
        self.builder = GraphBuilder.of(graph)
        self.builder.nodes = [self._with_gradients(self._root(node)) for node in graph.nodes]

    def visit(self, node: Node) -> None:
        """Pass the gradients of a node's results on to its inputs and trainable tensors."""
        known = [self.gradients.get(value.id) for value in node.outputs]
        root = node.op is Op.HEAD_LOSS  # it makes the gradients of its inputs itself
        if not any(value.id in self.needed for value in node.outputs) or (not root and not any(known)):
            return
        rule = RULES.get(node.op)
        if rule is None:
            raise GraphError(f"node {node.name}: {node.op} cannot be trained through: it has no gradient yet")
        for value, gradient in rule(self, node, *known):
            if value is None or gradient is None or value.id not in self.needed:
                continue
            old = self.gradients.get(value.id)
            if old is not None:
                gradient = self.builder.add(Op.ADD, f"d_{value.name}.sum", (old, gradient))  # noqa: PLW2901
            self.gradients[value.id] = gradient

    def wants(self, value: Value | None) -> bool:
        """Whether the gradient of a value is needed."""
        return value is not None and value.id in self.needed

    def gradient_of(self, tensor: Tensor | None) -> Tensor | None:
        """The state that takes a tensor's gradient, if it is trained."""
        if tensor is None or tensor.name not in self.trainable:
            return None
        self.reached.add(tensor.name)
        return self.builder.state(tensor.name + GRADIENT, tensor.shape)

    def _root(self, node: Node) -> Node:
        """A loss also makes the gradients of its inputs x and h."""
        if node.op is not Op.HEAD_LOSS or node.attrs.gradients:
            return node
        inputs = [node.inputs[i] for i in (0, 3)]
        made = [self.builder.value(f"d_{value.name}", value.shape) for value in inputs if value is not None]
        return replace(node, attrs=replace(node.attrs, gradients=True), outputs=(*node.outputs, *made))

    def _with_gradients(self, node: Node) -> Node:
        """A node that adds to its tensors' gradients itself gets the states for it."""
        places = WRITES_GRADIENTS.get(node.op)
        if places is None:
            return node
        tensors = list(node.tensors)
        for tensor, gradient in places:
            tensors[gradient] = self.gradient_of(node.tensors[tensor])
        return replace(node, tensors=tuple(tensors))


def _depending(graph: Graph, trainable: Set[str]) -> set[int]:
    """The ids of all values that depend on a trainable tensor."""
    found: set[int] = set()
    for node in graph.nodes:
        own = any(t is not None and t.source is Source.STATE and t.name in trainable for t in node.tensors)
        if own or any(value is not None and value.id in found for value in node.inputs):
            found.update(value.id for value in node.outputs)
    return found
