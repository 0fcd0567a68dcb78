"""The step of a mixture of experts: rows choose, pairs of a row and an expert run as rows of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llamakit.gpu.lower import ALIGNMENT, count
from llamakit.gpu.steps.linear import direct
from llamakit.gpu.steps.values import gate
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.gpu.lower import Lowering, Sizes, Step, Types
    from llamakit.graph.graph import Node


class Space(NamedTuple):
    """Elements of what a step has meanwhile, in order: of each pair the choice, the share, and what it makes."""

    chosen: int
    shares: int
    gate: int
    up: int
    hidden: int
    out: int

    def offsets(self) -> list[int]:
        """Where each begins, and the end."""
        found = [0]
        for n in self:
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
    chosen, shares, gated, up, hidden, out = (base.plus(4 * n) for n in space(node).offsets()[:-1])
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


STEPS = {Op.EXPERTS: _experts}
WORKSPACES: dict[Op, Callable[[Node, Types], int]] = {Op.EXPERTS: lambda node, types: space(node).offsets()[-1]}
