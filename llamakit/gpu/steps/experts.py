"""The step of a mixture of experts: rows choose, pairs of a row and an expert run as rows of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llamakit.gpu.lower import ALIGNMENT, count
from llamakit.gpu.steps.linear import direct
from llamakit.gpu.steps.values import gate
from llamakit.graph.attrs import ACTIVATIONS
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.gpu.driver import At
    from llamakit.gpu.lower import Lowering, Operand, Sizes, Step, Types
    from llamakit.graph.graph import Node


class Space(NamedTuple):
    """Elements of what a step has meanwhile, in order: of each pair the choice, the share, and what it makes."""

    chosen: int
    shares: int
    gate: int
    up: int
    hidden: int
    out: int


def offsets(sizes: Space | BackSpace) -> list[int]:
    """Where each begins, and the end."""
    found = [0]
    for n in sizes:
        found.append(found[-1] + -(-n // ALIGNMENT) * ALIGNMENT)
    return found


def space(node: Node) -> Space:
    """For the largest number of rows."""
    gate_weight, down = node.tensors[0], node.tensors[2]
    assert gate_weight is not None
    assert down is not None
    pairs = int(node.output.shape[0]) * node.attrs.n_used
    n_ff, n_out = gate_weight.shape[1], down.shape[1]
    return Space(pairs, pairs, pairs * n_ff, pairs * n_ff, pairs * n_ff, pairs * n_out)


def _experts(b: Lowering, node: Node, number: int) -> Step:
    base, n_used = b.workspace(number), node.attrs.n_used
    chosen, shares, gated, up, hidden, out = (base.plus(4 * n) for n in offsets(space(node))[:-1])
    gates, ups, downs = (b.operand(tensor) for tensor in node.tensors)
    x, scores, y = b.at(node.inputs[0]), b.at(node.inputs[1]), b.at(node.output)
    rows, n_expert, n_ff, n_out = count(node.output, 1), gates.shape[0], gates.shape[1], downs.shape[1]
    choose, combine = b.kernels.get("choose", "mixture"), b.kernels.get("combine", "mixture")
    activate = gate(b, (gated, up, hidden), rows.times(n_used * n_ff), node.attrs.activation)
    normalise = int(node.attrs.normalise)

    def step(sizes: Sizes) -> None:
        n = rows.of(sizes)
        b.kernels.items(choose, n, scores, chosen, shares, n, n_expert, n_used, normalise)
        for weight, to in ((gates, gated), (ups, up)):
            direct(b, weight, x, to, n * n_used, pairs=(chosen, n_used))
        activate(sizes)
        direct(b, downs, hidden, out, n * n_used, pairs=(chosen, 1))
        b.kernels.items(combine, n * n_out, out, shares, y, n, n_used, n_out)

    return step


class BackSpace(NamedTuple):
    """The same for gradients: of each pair the gradients of share, hidden value, gate, up, x and result."""

    chosen: int
    shares: int
    gate: int
    up: int
    d_share: int
    d_hidden: int
    d_gate: int
    d_up: int
    dx: int
    dy: int


def back_space(node: Node) -> BackSpace:
    """For the largest number of rows."""
    weight, down = node.tensors[0], node.tensors[2]
    assert weight is not None
    assert down is not None
    pairs = int(node.output.shape[0]) * node.attrs.n_used
    wide = pairs * weight.shape[1]
    return BackSpace(pairs, pairs, wide, wide, pairs, wide, wide, wide, pairs * weight.shape[2], pairs * down.shape[1])


def _back(b: Lowering, weight: Operand, d: At, chosen: At, y: At, n: int) -> None:
    """y += d W of the expert of each pair."""
    *_, n_out, n_in = weight.shape
    kernel = b.kernels.get("expert_back", "rows", weight.type)
    for part in weight.parts:
        items = n * -(-n_in // 32)
        b.kernels.items(kernel, items, part.place, d, chosen, y, part.first, part.n_row, n, n_out, n_in)


def _experts_back(b: Lowering, node: Node, number: int) -> Step:
    base, n_used, kernels = b.workspace(number), node.attrs.n_used, b.kernels
    places = [base.plus(4 * n) for n in offsets(back_space(node))[:-1]]
    chosen, shares, gated, up, d_share, d_hidden, d_gate, d_up, d_pairs, spread_dy = places
    gates, ups, downs = (b.operand(tensor) for tensor in node.tensors)
    (x, scores, dy), (dx, d_scores) = (b.at(v) for v in node.inputs), (b.at(v) for v in node.outputs)
    rows, (n_expert, n_ff, n_in), n_out = count(node.output, 1), gates.shape, downs.shape[1]
    choose, spread = kernels.get("choose", "mixture"), kernels.get("repeat_rows", "mixture")
    pairs_back, choose_back = kernels.get("pairs_back", "training"), kernels.get("choose_back", "training")
    add_up = kernels.get("sum_pairs", "training")
    kind, normalise = ACTIVATIONS.index(node.attrs.activation), int(node.attrs.normalise)

    def step(sizes: Sizes) -> None:
        n, m = rows.of(sizes), rows.of(sizes) * n_used
        kernels.items(choose, n, scores, chosen, shares, n, n_expert, n_used, normalise)
        for weight, to in ((gates, gated), (ups, up)):
            direct(b, weight, x, to, m, pairs=(chosen, n_used))
        kernels.driver.zero(d_hidden, 4 * m * n_ff)
        kernels.driver.zero(d_pairs, 4 * m * n_in)
        kernels.items(spread, m * n_out, dy, spread_dy, m, n_used, n_out)
        _back(b, downs, spread_dy, chosen, d_hidden, m)
        kernels.items(pairs_back, m, gated, up, d_hidden, shares, d_share, d_gate, d_up, m, n_ff, kind)
        _back(b, gates, d_gate, chosen, d_pairs, m)
        _back(b, ups, d_up, chosen, d_pairs, m)
        kernels.items(add_up, n * n_in, d_pairs, dx, n, n_used, n_in)
        kernels.items(choose_back, n, scores, chosen, shares, d_share, d_scores, n, n_expert, n_used, normalise)

    return step


STEPS = {Op.EXPERTS: _experts, Op.EXPERTS_BACK: _experts_back}
WORKSPACES: dict[Op, Callable[[Node, Types], int]] = {
    Op.EXPERTS: lambda node, types: offsets(space(node))[-1],
    Op.EXPERTS_BACK: lambda node, types: offsets(back_space(node))[-1],
}
