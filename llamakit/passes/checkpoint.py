"""Gradient checkpointing: values of the way forth are computed again on the way back instead of being kept.

Griewank and Walther 2000; Chen et al. 2016, arXiv:1604.06174. The forward nodes are cut into segments. What crosses a
cut is kept; everything else that the way back needs is made again from there, in clones just before it is needed. Sums
come out the same to the bit. Where to cut is solved for values of unequal sizes: with n equal layers that each make u
bytes and pass v on, it comes to the square-root rule, a segment of sqrt(n v / u) layers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llamakit.graph.graph import GraphBuilder
from llamakit.graph.ops import Op
from llamakit.passes.memory import elements, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.graph.graph import Graph, Node, Value

MOST_CUTS = 256  # places that are considered
MOST_TRIES = 24  # sizes of the largest segment that are tried
PLANNED = 4  # of the best by estimate, plans are made


def checkpointed(graph: Graph, n_forward: int) -> Graph:
    """The graph with the cuts that take the least memory; as it is if none takes less.

    `n_forward`: how many of its first nodes are the way forth, the loss with them.
    """
    tries = [choose_cuts(graph, n_forward, size) for size in _segment_sizes(graph, n_forward)]
    distinct = {tuple(cuts): estimate for estimate, cuts in tries if cuts}
    best, least = graph, plan(graph).total
    for cuts in sorted(distinct, key=lambda cuts: (distinct[cuts], cuts))[:PLANNED]:
        made = recompute(graph, n_forward, cuts)
        total = plan(made).total
        if total < least:
            best, least = made, total
    return best


def choose_cuts(graph: Graph, n_forward: int, largest: int) -> tuple[int, list[int]]:
    """The cuts with which the least is kept while no segment makes more than `largest` elements, and the estimate.

    A cut is the number of a node: what is made up to it and read behind it is kept. No cuts if there is no way.
    """
    made, crossing = _sizes(graph, n_forward)
    places = [-1, *_candidates(crossing), n_forward - 1]
    kept = [0, *(crossing[place] for place in places[1:-1]), 0]
    least: list[tuple[float, int]] = [(0.0, -1)]  # kept up to a place if it is cut, and the place before
    for j in range(1, len(places)):
        options = [(least[i][0] + kept[j], i) for i in range(j) if made[places[j] + 1] - made[places[i] + 1] <= largest]
        least.append(min(options, default=(float("inf"), -1)))
    total = least[-1][0]
    if total == float("inf"):
        return 0, []
    cuts, at = [], len(places) - 1
    while (at := least[at][1]) > 0:
        cuts.append(places[at])
    return int(total) + largest, cuts[::-1]


def recompute(graph: Graph, n_forward: int, cuts: Sequence[int]) -> Graph:
    """The graph with clones for what the way back needs and no cut keeps."""
    forward, back = graph.nodes[:n_forward], graph.nodes[n_forward:]
    producer = {value.id: node for node in forward for value in node.outputs}
    kept = {value.id for cut in cuts for value in _crossing_values(forward, cut)}
    kept |= {value.id for node in forward if node.has_effect() or node.op is Op.HEAD_LOSS for value in node.outputs}
    builder = GraphBuilder.of(graph.with_nodes(forward))
    builder._next = max(value.id for node in graph.nodes for value in node.outputs) + 1
    clones: dict[int, Value] = {}
    for node in back:
        inputs = []
        for value in node.inputs:
            if value is not None and value.id in producer and value.id not in kept:
                _clone(builder, producer, kept, clones, value)
                value = clones[value.id]  # noqa: PLW2901
            inputs.append(value)
        builder.nodes.append(replace(node, inputs=tuple(inputs)))
    return replace(graph, nodes=tuple(builder.nodes))


def _clone(
    builder: GraphBuilder, producer: dict[int, Node], kept: set[int], clones: dict[int, Value], wanted: Value
) -> None:
    """Append clones of the nodes that make a value from what is kept, each once, without recursion."""
    stack = [wanted]
    while stack:
        value = stack[-1]
        if value.id in clones:
            stack.pop()
            continue
        node = producer[value.id]
        missing = [
            each
            for each in node.inputs
            if each is not None and each.id in producer and each.id not in kept and each.id not in clones
        ]
        if missing:
            stack.extend(missing)
            continue
        inputs = tuple(clones.get(each.id, each) if each is not None else None for each in node.inputs)
        outputs = tuple(builder.value(f"{each.name}.again", each.shape, each.dtype) for each in node.outputs)
        builder.nodes.append(replace(node, name=f"{node.name}.again", inputs=inputs, outputs=outputs))
        clones.update({old.id: new for old, new in zip(node.outputs, outputs, strict=True)})


def _sizes(graph: Graph, n_forward: int) -> tuple[list[int], list[int]]:
    """Elements made before each node (n_forward + 1 numbers), and elements that cross behind each node."""
    forward = graph.nodes[:n_forward]
    made, crossing = [0], [0] * n_forward
    last = {value.id: i for i, node in enumerate(forward) for value in node.inputs if value is not None}
    change = [0] * (n_forward + 1)
    for i, node in enumerate(forward):
        size = 0
        for value in node.outputs:
            if node.op not in (Op.RESHAPE, Op.READ_STATE):
                size += elements(value)
            change[i] += elements(value)
            change[max(last.get(value.id, i), i)] -= elements(value)
        made.append(made[-1] + size)
    live = 0
    for i in range(n_forward):
        live += change[i]
        crossing[i] = live
    return made, crossing


def _candidates(crossing: Sequence[int]) -> list[int]:
    """The places where the least crosses, evenly thinned: in a network, those between layers."""
    inner = [size for size in crossing[:-1] if size > 0]
    if not inner:
        return []
    least = min(inner)
    places = [i for i, size in enumerate(crossing[:-1]) if 0 < size <= 2 * least]
    step = -(-len(places) // MOST_CUTS)
    return places[::step]


def _crossing_values(forward: Sequence[Node], cut: int) -> list[Value]:
    """What is made up to node number `cut` and read behind it."""
    behind = {value.id for node in forward[cut + 1 :] for value in node.inputs if value is not None}
    return [value for node in forward[: cut + 1] for value in node.outputs if value.id in behind]


def _segment_sizes(graph: Graph, n_forward: int) -> list[int]:
    """Sizes of the largest segment to try: all the forward values, and ever smaller parts of them."""
    made, _ = _sizes(graph, n_forward)
    sizes = {int(made[-1] / 1.35**i) for i in range(1, MOST_TRIES)}
    return sorted(size for size in sizes if size > 0)
