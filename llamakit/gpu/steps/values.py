"""Steps of ops on values: element by element, norms, rope, rows of others, products of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.gpu.cells import turns_of
from llamakit.gpu.driver import Feature
from llamakit.gpu.lower import Count, count, width
from llamakit.gpu.source import GROUP_MATMUL, SIDE
from llamakit.graph.attrs import ACTIVATIONS
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.gpu.driver import At
    from llamakit.gpu.lower import Lowering, Sizes, Step
    from llamakit.gpu.source import Kernels
    from llamakit.graph.graph import Node


def _binary(name: str) -> Callable[[Lowering, Node, int], Step]:
    def make(b: Lowering, node: Node, number: int) -> Step:
        kernel, n = b.kernels.get(name), count(node.output)
        a, c, y = (b.at(value) for value in (*node.inputs, node.output))
        return lambda sizes: b.kernels.items(kernel, n.of(sizes), a, c, y, n.of(sizes))

    return make


def _unary(name: str, attribute: str) -> Callable[[Lowering, Node, int], Step]:
    def make(b: Lowering, node: Node, number: int) -> Step:
        kernel, n, number_ = b.kernels.get(name), count(node.output), float(getattr(node.attrs, attribute))
        x, y = b.at(node.inputs[0]), b.at(node.output)
        return lambda sizes: b.kernels.items(kernel, n.of(sizes), x, y, n.of(sizes), number_)

    return make


def _activation(b: Lowering, node: Node, number: int) -> Step:
    a, n = node.attrs, count(node.output)
    kernel = b.kernels.get("activation_slope", "training") if a.slope else b.kernels.get("activation")
    kind = ACTIVATIONS.index(a.kind)
    x, y = b.at(node.inputs[0]), b.at(node.output)
    return lambda sizes: b.kernels.items(kernel, n.of(sizes), x, y, n.of(sizes), kind)


def gate(b: Lowering, places: tuple[At, At, At], n: Count, activation: str) -> Step:
    """activation(gate) * up."""
    kernel, kind = b.kernels.get("gated"), ACTIVATIONS.index(activation)
    return lambda sizes: b.kernels.items(kernel, n.of(sizes), *places, n.of(sizes), kind)


def _gated(b: Lowering, node: Node, number: int) -> Step:
    left, right = node.inputs[:2]
    return gate(b, (b.at(left), b.at(right), b.at(node.output)), count(node.output), node.attrs.activation)


def _rms_norm(b: Lowering, node: Node, number: int) -> Step:
    x, slots = node.inputs[:2]
    kernel, adapted = b.kernels.get("rms_norm"), b.kernels.get("norm_adapter", "mixture")
    shape, wide, epsilon = node.output.shape, width(node.output), float(node.attrs.epsilon)
    n_row, n_head = count(node.output, len(shape) - 1), count(node.output).factor // wide
    source, weight, y, where = b.at(x), b.vector(node.tensors[0]), b.at(node.output), b.at(slots)
    name, table = str(node.tensors[0] and node.tensors[0].name), b.adapters
    entry = None if table is None or slots is None or name not in table.targets else table.entry(name)

    def step(sizes: Sizes) -> None:
        n = n_row.of(sizes)
        b.kernels.units(kernel, n, source, weight, y, n, wide, epsilon)
        if table is not None and entry is not None and table.ranks.get(name):
            b.kernels.units(adapted, n, source, where, entry, table.pool, y, n // n_head, n_head, wide, epsilon)

    return step


def _layer_norm(b: Lowering, node: Node, number: int) -> Step:
    kernel, wide, epsilon = b.kernels.get("layer_norm"), width(node.output), float(node.attrs.epsilon)
    n_row, has_bias = count(node.output, len(node.output.shape) - 1), int(node.tensors[1] is not None)
    x, y = b.at(node.inputs[0]), b.at(node.output)
    weight, bias = b.vector(node.tensors[0]), b.vector(node.tensors[1])
    return lambda sizes: b.kernels.units(
        kernel, n_row.of(sizes), x, weight, bias, y, n_row.of(sizes), wide, epsilon, has_bias
    )


def _rope(b: Lowering, node: Node, number: int) -> Step:
    a, (_, n_head, dim) = node.attrs, node.output.shape
    kernel, turns, n_pair = b.kernels.get("rope"), b.constant(turns_of(a)), len(a.inv_freq)
    x, positions, y = b.at(node.inputs[0]), b.at(node.inputs[1]), b.at(node.output)
    rows = count(node.output, 1)
    per_row = int(n_head) * (int(dim) - n_pair)
    last = (int(n_head), int(dim), n_pair, int(a.pairs == "adjacent"), float(a.magnitude), -1 if a.inverse else 1)
    return lambda sizes: b.kernels.items(
        kernel, rows.of(sizes) * per_row, x, positions, turns, y, rows.of(sizes), *last
    )


def _select_rows(b: Lowering, node: Node, number: int) -> Step:
    kernel, rows = b.kernels.get("select_rows"), count(node.output, 1)
    wide = count(node.output).factor // rows.factor
    x, chosen, y = b.at(node.inputs[0]), b.at(node.inputs[1]), b.at(node.output)
    return lambda sizes: b.kernels.items(kernel, rows.of(sizes) * wide, x, chosen, y, rows.of(sizes), wide)


def multiply(
    kernels: Kernels, a: At, b: At, c: At, shape: tuple[int, int, int], steps: tuple[int, int, int, int, int],
    bias: At | None = None, *, add: bool = False,
) -> None:  # fmt: skip
    """c (+)= a b of `shape` (m, n, k), with the steps that matmul.cl names; by the driver's library if it has one."""
    kernels.settle(Feature.PRODUCTS)
    if bias is not None or not kernels.driver.multiply(a, b, c, shape, steps, add=add):
        multiply_here(kernels, a, b, c, shape, steps, bias, add=add)


def multiply_here(
    kernels: Kernels, a: At, b: At, c: At, shape: tuple[int, int, int], steps: tuple[int, int, int, int, int],
    bias: At | None = None, *, add: bool = False,
) -> None:  # fmt: skip
    """The same by our own kernel."""
    m, n, _ = shape
    tiles = -(-m // SIDE) * -(-n // SIDE)
    items = GROUP_MATMUL if kernels.traits.lanes > 1 else 1
    kernels.groups(
        kernels.get("matmul", "matmul"), tiles, items, a, b, c if bias is None else bias, c, *shape, *steps,
        int(bias is not None), int(add),
    )  # fmt: skip


def _matmul(b: Lowering, node: Node, number: int) -> Step:
    left, right = node.inputs[:2]
    assert left is not None
    assert right is not None
    ta, tb, into = node.attrs.transpose_a, node.attrs.transpose_b, node.tensors[0]
    n = Count("", int(right.shape[0])) if tb else Count("", width(right))
    n = count(right, 1) if tb else n
    m, k = (Count("", width(left)), count(left, 1)) if ta else (count(left, 1), Count("", width(left)))
    places = (b.at(left), b.at(right), b.at(node.output) if into is None else b.operand(into).place)
    a_steps = (1, width(left)) if ta else (width(left), 1)
    b_steps = (1, width(right)) if tb else (width(right), 1)
    b.kernels.get("matmul", "matmul")

    def step(sizes: Sizes) -> None:
        shape = (m.of(sizes), n.of(sizes), k.of(sizes))
        multiply(b.kernels, *places, shape, (*a_steps, *b_steps, shape[1]), add=into is not None)

    return step


STEPS = {
    Op.ADD: _binary("add"),
    Op.MUL: _binary("mul"),
    Op.SCALE: _unary("scale", "factor"),
    Op.SOFT_CAP: _unary("soft_cap", "cap"),
    Op.ACTIVATION: _activation,
    Op.GATED: _gated,
    Op.RMS_NORM: _rms_norm,
    Op.LAYER_NORM: _layer_norm,
    Op.ROPE: _rope,
    Op.SELECT_ROWS: _select_rows,
    Op.MATMUL: _matmul,
}
