"""The step of a mixture of experts: rows choose, pairs of a row and an expert run as rows of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llamakit.gpu.lower import ALIGNMENT, count
from llamakit.gpu.packings import STEP
from llamakit.gpu.steps.linear import TILES, direct, most_tile, sorted_pairs
from llamakit.gpu.steps.values import gate
from llamakit.graph.attrs import ACTIVATIONS
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.gpu.driver import At
    from llamakit.gpu.lower import Lowering, Operand, Sizes, Step, Types
    from llamakit.graph.graph import Node


FEW_PAIRS = 16  # of a row and an expert that run each for itself


class Space(NamedTuple):
    """Elements of what a step has meanwhile, in order: of each pair the choice, the share, and what it makes; pairs by
    expert, tile after tile, and how many each expert has."""

    chosen: int
    shares: int
    gate: int
    up: int
    hidden: int
    out: int
    order: int
    counts: int


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
    n_expert, n_ff, _ = gate_weight.shape
    order = max(tiles(pairs, n_expert, tile) * (tile + 1) for tile in TILES[1:])
    return Space(pairs, pairs, pairs * n_ff, pairs * n_ff, pairs * n_ff, pairs * down.shape[1], order, n_expert)


def tiles(n_pair: int, n_expert: int, tile: int) -> int:
    """Tiles of `tile` pairs at most: each expert may have one that is not full."""
    return n_pair // tile + min(n_expert, n_pair)


def _experts(b: Lowering, node: Node, number: int) -> Step:
    base, n_used = b.workspace(number), node.attrs.n_used
    chosen, shares, gated, up, hidden, out, order, counts = (base.plus(4 * n) for n in offsets(space(node))[:-1])
    gates, ups, downs = (b.operand(tensor) for tensor in node.tensors)
    x, scores, y = b.at(node.inputs[0]), b.at(node.inputs[1]), b.at(node.output)
    rows, n_expert, n_ff, n_out = count(node.output, 1), gates.shape[0], gates.shape[1], downs.shape[1]
    choose, combine = b.kernels.get("choose", "mixture"), b.kernels.get("combine", "mixture")
    activate = gate(b, (gated, up, hidden), rows.times(n_used * n_ff), node.attrs.activation)
    normalise, tile = int(node.attrs.normalise), most_tile(b.kernels)
    count_pairs, place_pairs = b.kernels.get("count_pairs", "mixture"), b.kernels.get("place_pairs", "mixture")

    def together(m: int) -> None:
        """Pairs of one expert meet its weights in tiles."""
        n_tile = tiles(m, n_expert, tile)
        b.kernels.items(count_pairs, n_expert, chosen, counts, m, n_expert)
        owners = order.plus(4 * n_tile * tile)
        b.kernels.items(place_pairs, n_expert + 1, chosen, counts, order, owners, m, n_expert, tile, n_tile)

    def times(weight: Operand, given: At, to: At, m: int, share: int) -> None:
        if m > FEW_PAIRS:
            sorted_pairs(b, weight, given, to, tiles(m, n_expert, tile), order, share)
        else:
            direct(b, weight, given, to, m, pairs=(chosen, share))

    def step(sizes: Sizes) -> None:
        n, m = rows.of(sizes), rows.of(sizes) * n_used
        b.kernels.items(choose, n, scores, chosen, shares, n, n_expert, n_used, normalise)
        if m > FEW_PAIRS:
            together(m)
        times(gates, x, gated, m, n_used)
        times(ups, x, up, m, n_used)
        activate(sizes)
        times(downs, hidden, out, m, 1)
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
    name, file = ("panel_expert_back", "panel_rows") if weight.packed else ("expert_back", "rows")
    kernel = b.kernels.get(name, file, weight.type, packed=weight.packed)
    for part in weight.parts:
        items = n * (4 * -(-n_in // STEP) if weight.packed else -(-n_in // 32))
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
