"""In which order nodes run: any that has inputs first is right, but some hold fewer values at a time.

Changes of one state keep their order, so that sums come out the same to the bit.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from llamakit.graph.graph import Source
from llamakit.passes.memory import elements, plan

if TYPE_CHECKING:
    from llamakit.graph.graph import Graph, Node


def best_order(graph: Graph) -> Graph:
    """The graph in the order that takes the least memory, of those that are tried."""
    return min((graph, eager(graph)), key=lambda each: plan(each).total)


def eager(graph: Graph) -> Graph:
    """Each time the node that frees most, or takes least, of those that can run; of equal ones the first."""
    nodes = graph.nodes
    waits, followers = _dependencies(graph)
    readers: dict[int, int] = {}
    for node in nodes:
        for read in {value.id for value in node.inputs if value is not None}:
            readers[read] = readers.get(read, 0) + 1
    for value in graph.outputs.values():
        readers[value.id] = readers.get(value.id, 0) + 1
    sizes = {value.id: elements(value) for node in nodes for value in node.outputs}

    def cost(node: Node) -> int:
        freed = sum(
            sizes.get(each, 0)
            for each in {value.id for value in node.inputs if value is not None}
            if readers[each] == 1
        )
        return sum(sizes[value.id] for value in node.outputs) - freed

    ready = [(cost(nodes[i]), i) for i, n in enumerate(waits) if n == 0]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        old, i = heapq.heappop(ready)
        now = cost(nodes[i])
        if now < old:  # what it reads has fewer readers since
            heapq.heappush(ready, (now, i))
            continue
        order.append(nodes[i])
        for read in {value.id for value in nodes[i].inputs if value is not None}:
            readers[read] -= 1
        for follower in followers[i]:
            waits[follower] -= 1
            if waits[follower] == 0:
                heapq.heappush(ready, (cost(nodes[follower]), follower))
    return graph.with_nodes(order)


def _dependencies(graph: Graph) -> tuple[list[int], list[list[int]]]:
    """For each node how many it waits for, and which wait for it."""
    waits, followers = [0] * len(graph.nodes), [[] for _ in graph.nodes]  # type: ignore[var-annotated]
    maker: dict[int, int] = {}
    touched: dict[str, int] = {}  # the last node that reads or changes a state which some node changes
    changed = {tensor.name for node in graph.nodes for tensor in node.writes()}
    for i, node in enumerate(graph.nodes):
        before = {maker[value.id] for value in node.inputs if value is not None and value.id in maker}
        for tensor in node.tensors:
            if tensor is not None and tensor.source is Source.STATE and tensor.name in changed:
                before |= {touched[tensor.name]} if tensor.name in touched else set()
                touched[tensor.name] = i
        before.discard(i)
        waits[i] = len(before)
        for each in before:
            followers[each].append(i)
        maker.update({value.id: i for value in node.outputs})
    return waits, followers
