"""Which parameter lies where in the flat moments of a 2023 checkpoint.

Adam's moments are one array, parameter after parameter in the order in which the forward graph is built when it is
walked from the loss: depth first, parents before a node, each node once. Two things change that order: whether the
parents of a node are visited from the left or from the right (chosen at each start by what takes less memory), and
flash attention. The file says neither, so a checkpoint that is continued under another order mixes up its moments.
Here the order is found from the values (`find_order`), and moments are kept by name from then on.

Source: `ggml_build_forward_expand`, `llama_build_lora_finetune_graphs` and `llama_build_train_graphs` of llama.cpp at
0e76a8992c.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llamakit.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from numpy.typing import NDArray


class Order(NamedTuple):
    """How the graph was walked. `right_to_left`: parents from the last to the first; `flash`: --use-flash."""

    right_to_left: bool = False
    flash: bool = True

    def __str__(self) -> str:
        side = "right to left" if self.right_to_left else "left to right"
        return f"{side}, {'flash attention' if self.flash else 'no flash attention'}"


ORDERS = [Order(side, flash) for flash in (True, False) for side in (False, True)]


class Node:
    """A value of the graph: a parameter with a name, or something made from `parents`."""

    __slots__ = ("name", "parents")

    def __init__(self, *parents: Node, name: str = "") -> None:
        self.parents, self.name = parents, name


def parameter_order(n_layer: int, lora: bool, order: Order, known: Container[str] | None = None) -> list[str]:
    """Names of all parameters as they lie in the moments: tensors, or with `lora` their lora_a and lora_b.

    Those that are not `known` are left out: kinds of tensors without an adapter, which 2023 did not have.
    """
    nodes = _walk(_loss(n_layer, lora, order.flash), order.right_to_left)
    return [node.name for node in nodes if node.name and (known is None or node.name in known)]


def _walk(root: Node, right_to_left: bool) -> list[Node]:
    """All nodes, parents first."""
    seen: set[int] = set()
    found: list[Node] = []
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            # The last that is pushed is visited first.
            parents = node.parents if right_to_left else reversed(node.parents)
            stack.extend((parent, False) for parent in parents)
    return found


def _loss(n_layer: int, lora: bool, flash: bool) -> Node:
    """The forward graph, as far as it decides about the order."""

    def weight(name: str) -> Node:
        if not lora:
            return Node(name=f"{name}.weight")
        parts = (Node(name=f"{name}.weight.{part}") for part in ("lora_a", "lora_b"))
        return Node(Node(), Node(*parts))  # W + A B

    def norm(x: Node, scale: Node) -> Node:
        normed = Node(x)
        return Node(Node(scale, normed), normed)  # repeat(scale) * normed

    embedding, last_norm, output = weight("token_embd"), weight("output_norm"), weight("output")
    x = Node(embedding, Node())
    for i in range(n_layer):
        stems = ("attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up")
        w = {stem: weight(f"blk.{i}.{stem}") for stem in stems}
        n = norm(x, w["attn_norm"])
        q, k, v = Node(w["attn_q"], n), Node(w["attn_k"], n), Node(n, w["attn_v"])
        attention = Node(q, k, v) if flash else Node(v, Node(k, q))
        x = Node(Node(w["attn_output"], attention), x)
        n = norm(x, w["ffn_norm"])
        up, gate = Node(w["ffn_up"], n), Node(w["ffn_gate"], n)
        x = Node(Node(w["ffn_down"], Node(gate, up)), x)
    return Node(Node(output, norm(x, last_norm)), Node())


def split_moments(
    flat: NDArray[np.float32], shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """The flat array by name, each in the shape of its parameter."""
    _check(flat, shapes, names)
    found, at = {}, 0
    for name in names:
        size = math.prod(shapes[name])
        found[name] = flat[at : at + size].reshape(shapes[name])
        at += size
    return found


def join_moments(moments: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> NDArray[np.float32]:
    """One flat array again, in the order of `names`."""
    return np.concatenate([np.ascontiguousarray(moments[name], np.float32).ravel() for name in names])


def _check(flat: NDArray[np.float32], shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> None:
    if set(names) != set(shapes):
        odd = sorted(set(names) ^ set(shapes))
        raise ModelFileError(f"the checkpoint's parameters are not those of its model: {', '.join(odd[:4])}")
    total = sum(math.prod(shape) for shape in shapes.values())
    if flat.shape != (total,):
        raise ModelFileError(f"the checkpoint's moments are {flat.shape}, its parameters have {total} values")


def find_order(second: NDArray[np.float32], shapes: Mapping[str, tuple[int, ...]], n_layer: int, lora: bool) -> Order:
    """The order under which the second moments make most sense.

    Moments of one parameter are of one size, and those of different parameters are not; a row of an embedding is
    zero as a whole, for a token that has not occurred, or not at all. Both show where one parameter ends.
    """
    if not second.any():
        return ORDERS[0]  # nothing was updated yet: all orders are the same
    costs = {}
    for order in ORDERS:
        parts = split_moments(second, shapes, parameter_order(n_layer, lora, order, shapes))
        costs[order] = sum(_cost(part) for part in parts.values())
    return min(costs, key=lambda order: costs[order])


def _cost(part: NDArray[np.float32]) -> float:
    """How badly values fit together, in nats: of the spread of their logarithms, and of rows that are zero in part."""
    values = part.astype(np.float64).ravel()
    logs = np.log(values[values > 0])
    cost = len(logs) * math.log(float(logs.std()) + 1e-3) if len(logs) > 1 else 0.0
    if part.ndim == 2 and len(logs) < values.size:
        zeros = np.count_nonzero(part == 0, axis=1)
        broken = int(((zeros > 0) & (zeros < part.shape[1])).sum())
        cost += 10.0 * broken * part.shape[1]
    return cost


def named_order(text: str) -> Order | None:
    """An order from an option: auto (None), or ltr or rtl, with no-flash behind it if need be."""
    table = {"auto": None, "ltr": Order(False), "rtl": Order(True), "ltr-no-flash": Order(False, False)}
    table["rtl-no-flash"] = Order(True, False)
    if text not in table:
        raise UsageError(f"no order {text!r}", hint=f"one of {', '.join(table)}", param="order")
    return table[text]
