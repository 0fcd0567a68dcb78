"""Several devices: which node of a graph runs where, and the graph that each device gets.

Devices take stages of contiguous layers, in order. Values that cross from one to another are float inputs of the later
graph; the layers of the KV cache count from 0 on each device. Layers are told by GGUF's names, `blk.N.`, of nodes and
tensors; what comes before the first layer runs with it, what comes after the last one with that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from llamakit.graph.errors import GraphError
from llamakit.graph.graph import Graph, Source
from llamakit.graph.ops import SPECS
from llamakit.graph.verify import verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamakit.graph.graph import Node, Tensor, Value

_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Placement:
    """Devices by number: `layers` and `cache` of each layer of the model and of its KV cache, `nodes` by name.

    `tensors`: those that need a tensor of the file, by its name. `share`: the part of the tensors' bytes that each has.
    """

    layers: tuple[int, ...]
    cache: tuple[int, ...]
    nodes: dict[str, int]
    tensors: dict[str, frozenset[int]]
    share: tuple[float, ...]

    def cache_of(self, device: int) -> list[int]:
        """The layers of the whole KV cache that lie on a device."""
        return [layer for layer, where in enumerate(self.cache) if where == device]


@dataclass(frozen=True)
class Stage:
    """The graph of a device, and which of its inputs are what earlier stages make: by name, as they call it."""

    device: int
    graph: Graph
    received: tuple[str, ...]


def place(graph: Graph, shares: Sequence[float], n_bytes: Mapping[str, int], counts: Sequence[int] = ()) -> Placement:
    """Share the layers of a graph out, in order, by the bytes of their tensors; every device gets one at least.

    `shares`: how much each device is to have, in any unit. `n_bytes` of each tensor of the file, by name.
    `counts`: how many layers each has, in place of what its share comes to.
    """
    layer_of = _layers(graph)
    n_layer = max(layer_of.values(), default=-1) + 1
    if n_layer < len(shares):
        raise GraphError(f"{len(shares)} devices cannot share {n_layer} layers")
    if counts and (len(counts) != len(shares) or sum(counts) != n_layer):
        raise GraphError(f"{len(shares)} devices are to have {tuple(counts)} layers; the model has {n_layer}")
    exact = [device for device, n in enumerate(counts) for _ in range(n)]
    layers = exact or _share_out(layer_bytes(graph, n_bytes), shares)
    nodes = {name: layers[layer] for name, layer in layer_of.items()}
    cache = {node.attrs.layer: nodes[node.name] for node in graph.nodes if _is_cached(node)}
    tensors: dict[str, set[int]] = {}
    for node in graph.nodes:
        for tensor in _files(node):
            tensors.setdefault(tensor.name, set()).add(nodes[node.name])
    held = [sum(n_bytes[name] for name, on in tensors.items() if device in on) for device in range(len(shares))]
    return Placement(
        tuple(layers),
        tuple(cache[layer] for layer in sorted(cache)),
        nodes,
        {name: frozenset(on) for name, on in tensors.items()},
        tuple(max(each, 1) / max(sum(held), 1) for each in held),
    )


def layer_bytes(graph: Graph, n_bytes: Mapping[str, int]) -> list[int]:
    """Bytes of each layer's tensors, with those before the first and behind the last."""
    layer_of = _layers(graph)
    costs = [0] * (max(layer_of.values(), default=-1) + 1)
    for name, layer in {(t.name, layer_of[node.name]) for node in graph.nodes for t in _files(node)}:
        costs[layer] += n_bytes[name]
    return costs


def split(graph: Graph, placement: Placement) -> list[Stage]:
    """The stages of a graph of the same model, one for each device that has nodes in it, in order."""
    placed = [replace(node, device=_device(node, placement)) for node in graph.nodes]
    maker = {value.id: node.device for node in placed for value in node.outputs}
    crossing: dict[int, Value] = {}
    for node in placed:
        for value in node.inputs:
            if value is not None and maker.get(value.id, node.device) != node.device:
                if maker[value.id] > node.device:
                    raise GraphError(f"graph {graph.name}: node {node.name} runs before what makes {value.name}")
                crossing[value.id] = value
    return [
        _stage(graph, [node for node in placed if node.device == device], crossing, placement.cache_of(device))
        for device in sorted({node.device for node in placed})
    ]


def _stage(graph: Graph, nodes: list[Node], crossing: dict[int, Value], cache: list[int]) -> Stage:
    """The graph of the nodes of one device."""
    made = {value.id for node in nodes for value in node.outputs}
    read = {value.id: value for node in nodes for value in node.inputs if value is not None and value.id not in made}
    given = {name: value for name, value in graph.inputs.items() if value.id in read}
    received = {_name(value): value for value in read.values() if value.id in crossing}
    outputs = {name: value for name, value in graph.outputs.items() if value.id in made}
    outputs |= {_name(value): value for value in crossing.values() if value.id in made}
    names = {tensor.name for node in nodes for tensor in node.tensors if tensor is not None}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in names}
    part = Graph(
        f"{graph.name}.{nodes[0].device}",
        given | received,
        tensors,
        tuple(_renumbered(n, cache) for n in nodes),
        outputs,
    )
    return Stage(nodes[0].device, verify(part), tuple(received))


def _name(value: Value) -> str:
    """What a value is called that passes from one device to another; no input of a model is called so."""
    return f"{value.id}:{value.name}"


def _renumbered(node: Node, cache: list[int]) -> Node:
    if not _is_cached(node):
        return node
    return replace(node, attrs=replace(node.attrs, layer=cache.index(node.attrs.layer)))


def _is_cached(node: Node) -> bool:
    return SPECS[node.op].cached and node.attrs.layer is not None


def _files(node: Node) -> list[Tensor]:
    return [tensor for tensor in node.tensors if tensor is not None and tensor.source is Source.FILE]


def _device(node: Node, placement: Placement) -> int:
    if node.name not in placement.nodes:
        raise GraphError(f"node {node.name} is none of the model's that was shared out over devices")
    return placement.nodes[node.name]


def _layers(graph: Graph) -> dict[str, int]:
    """The layer of each node by its name, ascending in order."""
    found, layer = {}, 0
    for node in graph.nodes:
        names = [node.name, *(tensor.name for tensor in _files(node))]
        numbers = [int(match[1]) for match in map(_LAYER.match, names) if match]
        layer = max(layer, *numbers) if numbers else layer
        found[node.name] = layer
    return found


def _share_out(costs: Sequence[int], shares: Sequence[float]) -> list[int]:
    """The device of each layer: cuts where the sums of costs come nearest to those of shares."""
    total, sums = sum(shares), [0, *accumulate(costs)]
    cuts = [0]
    for i, wanted in enumerate(accumulate(shares[:-1])):
        least, most = cuts[-1] + 1, len(costs) - (len(shares) - 1 - i)
        cuts.append(min(range(least, most + 1), key=lambda n: abs(sums[n] / max(sums[-1], 1) - wanted / total)))
    cuts.append(len(costs))
    return [device for device in range(len(shares)) for _ in range(cuts[device + 1] - cuts[device])]
