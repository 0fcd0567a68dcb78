"""The order of the passes that every graph goes through before a backend gets it, verified between each.

A pass is a pure function, graph in, graph out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.graph.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llamakit.graph.graph import Graph


def drop_unused(graph: Graph) -> Graph:
    """Leave out nodes whose results nobody needs; those that write, to states or the cache, always stay."""
    needed = {value.id for value in graph.outputs.values()}
    kept = []
    for node in reversed(graph.nodes):
        if node.has_effect() or any(value.id in needed for value in node.outputs):
            kept.append(node)
            needed.update(value.id for value in node.inputs if value is not None)
    return graph.with_nodes(reversed(kept))


PASSES: tuple[Callable[[Graph], Graph], ...] = (drop_unused,)


def prepare(graph: Graph, passes: Iterable[Callable[[Graph], Graph]] = PASSES) -> Graph:
    """Run the passes in order."""
    verify(graph)
    for each in passes:
        graph = verify(each(graph))
    return graph
