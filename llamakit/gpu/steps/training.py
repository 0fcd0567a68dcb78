"""Steps of training: gradients, losses, and what changes states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llamakit.gpu.lower import Count, count, width
from llamakit.gpu.steps.linear import product, slice_space, transposed
from llamakit.gpu.steps.values import multiply
from llamakit.graph.attrs import ACTIVATIONS
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.gpu.driver import At
    from llamakit.gpu.lower import Lowering, Sizes, Step, Types
    from llamakit.graph.graph import Node


def outer(b: Lowering, dy: At, x: At, into: At, shape: tuple[int, int, int]) -> None:
    """into += dy^T x, for dy (n, m) and x (n, k), of `shape` (m, k, n)."""
    m, k, _ = shape
    multiply(b.kernels, dy, x, into, shape, (1, m, k, 1, k), add=True)


def _linear_back(b: Lowering, node: Node, number: int) -> Step:
    weight, space = b.operand(node.tensors[0]), b.workspace(number)
    dy, dx, rows = b.at(node.inputs[0]), b.at(node.output), count(node.output, len(node.output.shape) - 1)

    def step(sizes: Sizes) -> None:
        if rows.of(sizes):
            transposed(b, weight, dy, dx, rows.of(sizes), space)

    return step


def _norm_back(b: Lowering, node: Node, number: int) -> Step:
    kernels, wide, epsilon = b.kernels, width(node.output), float(node.attrs.epsilon)
    rows, layer = count(node.output, len(node.output.shape) - 1), int(node.op is Op.LAYER_NORM_BACK)
    back, weigh = kernels.get("norm_back", "training"), kernels.get("norm_weight_back", "training")
    x, dy, dx, weight = b.at(node.inputs[0]), b.at(node.inputs[1]), b.at(node.output), b.vector(node.tensors[0])
    grad = None if node.tensors[1] is None else b.vector(node.tensors[1])
    factors = b.workspace(number)
    means = factors.plus(4 * _most(node))

    def step(sizes: Sizes) -> None:
        n = rows.of(sizes)
        kernels.units(back, n, x, dy, weight, dx, factors, means, n, wide, layer, epsilon)
        if grad is not None and n:
            kernels.items(weigh, wide, x, dy, factors, means, grad, n, wide)

    return step


def _most(node: Node) -> int:
    """Rows of a norm, at most."""
    return math.prod(int(size) for size in node.output.shape[:-1])


def _gated_back(b: Lowering, node: Node, number: int) -> Step:
    kernel, n = b.kernels.get("gated_back", "training"), count(node.output)
    places = tuple(b.at(value) for value in (*node.inputs, *node.outputs))
    kind = ACTIVATIONS.index(node.attrs.activation)
    return lambda sizes: b.kernels.items(kernel, n.of(sizes), *places, n.of(sizes), kind)


def _attention_back(b: Lowering, node: Node, number: int) -> Step:
    q, k, v, out, log_sums, d_out, positions, sequences = (b.at(value) for value in node.inputs)
    first, second, third = node.inputs[:3]
    assert first is not None
    assert second is not None
    n_head, n_head_kv, a = int(first.shape[1]), int(second.shape[1]), node.attrs
    sizes_of: dict[str, int | str] = {"HEAD_K": width(second), "HEAD_V": width(third)}
    names = ("inner_rows", "query_back", "key_back")
    inner_rows, query, key = (b.kernels.get(name, "step_attention+attention_back", None, sizes_of) for name in names)
    inner, rows = b.workspace(number), count(first, 1)
    dq, dk, dv = (b.at(value) for value in node.outputs)
    last = (n_head, n_head_kv, a.window or 0, float(a.scale))

    def step(sizes: Sizes) -> None:
        n = rows.of(sizes)
        b.kernels.items(inner_rows, n * n_head, out, d_out, inner, n * n_head)
        given = (q, k, v, d_out, log_sums, inner, positions, sequences)
        b.kernels.units(query, n * n_head, *given, dq, n, *last)
        b.kernels.units(key, n * n_head_kv, *given, dk, dv, n, *last)

    return step


def _cross_entropy(b: Lowering, node: Node, number: int) -> Step:
    kernel, rows, wide = b.kernels.get("cross_entropy", "training"), count(node.output, 1), width(node.inputs[0])
    logits, targets, y = b.at(node.inputs[0]), b.at(node.inputs[1]), b.at(node.output)
    gradients = int(node.op is Op.CROSS_ENTROPY_GRAD)
    return lambda sizes: b.kernels.units(
        kernel, rows.of(sizes), logits, targets, y, y, y, rows.of(sizes), wide, 0, 1 - gradients, gradients
    )


def _head_loss(b: Lowering, node: Node, number: int) -> Step:
    """Logits of a chunk of rows, their loss, and what their gradients make, one chunk after the other."""
    weight, space, chunk = b.operand(node.tensors[0]), b.workspace(number), node.attrs.chunk
    n_vocab, n_in = weight.shape
    low = None if node.tensors[1] is None else b.operand(node.tensors[1])
    w_grad, b_grad = (None if tensor is None else b.vector(tensor) for tensor in node.tensors[2:4])
    x, targets, weights, h = (b.at(value) for value in node.inputs)
    outs = [b.at(value) for value in node.outputs]
    logits = space.plus(4 * slice_space_of(node, {}))
    rows, kernel, gradients = count(node.output, 1), b.kernels.get("cross_entropy", "training"), node.attrs.gradients

    def one(start: int, n: int) -> None:
        rank = 0 if low is None else low.shape[1]
        own, own_h = x.plus(4 * start * n_in), h.plus(4 * start * rank)
        product(b, weight, own, logits, n, space)
        if low is not None:
            multiply(b.kernels, own_h, low.place, logits, (n, n_vocab, rank), (rank, 1, 1, rank, n_vocab), add=True)
        given = (logits, targets.plus(4 * start), weights.plus(4 * start), outs[0].plus(4 * start), logits)
        b.kernels.units(kernel, n, *given, n, n_vocab, 1, 1, int(gradients))
        if gradients:
            transposed(b, weight, logits, outs[1].plus(4 * start * n_in), n, space)
        if gradients and low is not None:
            to = outs[2].plus(4 * start * rank)
            multiply(b.kernels, logits, low.place, to, (n, rank, n_vocab), (n_vocab, 1, rank, 1, rank))
        if w_grad is not None:
            outer(b, logits, own, w_grad, (n_vocab, n_in, n))
        if b_grad is not None:
            outer(b, logits, own_h, b_grad, (n_vocab, rank, n))

    def step(sizes: Sizes) -> None:
        n = rows.of(sizes)
        for start in range(0, n, chunk):
            one(start, min(chunk, n - start))

    return step


def slice_space_of(node: Node, types: Types) -> int:
    """Room for a slice of a head, whatever its type."""
    from llamakit.gpu.steps.linear import slice_rows

    tensor = node.tensors[0]
    return 0 if tensor is None else slice_rows(tensor.shape) * tensor.shape[-1]


def _head_space(node: Node, types: Types) -> int:
    tensor = node.tensors[0]
    assert tensor is not None
    return slice_space_of(node, types) + min(int(node.attrs.chunk), int(node.output.shape[0])) * tensor.shape[0]


def _scatter_rows(b: Lowering, node: Node, number: int) -> Step:
    kernel, value, into = b.kernels.get("scatter_rows", "training"), node.inputs[0], node.tensors[0]
    assert value is not None
    rows, wide = count(value, 1), count(value).factor // count(value, 1).factor
    dy, indices = b.at(value), b.at(node.inputs[1])
    target = b.at(node.output) if into is None else b.vector(into)
    clear = Count("", 0) if into is not None else count(node.output)

    def step(sizes: Sizes) -> None:
        if clear.of(sizes):
            b.kernels.driver.zero(target, 4 * clear.of(sizes))
        n = rows.of(sizes)
        b.kernels.items(kernel, n * wide, dy, indices, target, n, wide)

    return step


def _sum_rows(b: Lowering, node: Node, number: int) -> Step:
    kernel, value = b.kernels.get("sum_rows", "training"), node.inputs[0]
    assert value is not None
    rows, wide, x = count(value, 1), count(value).factor // count(value, 1).factor, b.at(value)
    into = b.vector(node.tensors[0])
    return lambda sizes: b.kernels.items(kernel, wide if rows.of(sizes) else 0, x, into, rows.of(sizes), wide)


def _to_state(b: Lowering, node: Node, number: int) -> Step:
    value = node.inputs[0]
    assert value is not None
    x, state, n, driver = b.at(value), b.vector(node.tensors[0]), count(value), b.kernels.driver
    if node.op is Op.ADD_STATE:
        kernel = b.kernels.get("add_state", "training")
        return lambda sizes: b.kernels.items(kernel, n.of(sizes), x, state, n.of(sizes))
    if x == state:  # it was made there
        return lambda sizes: None
    return lambda sizes: driver.copy(x, state, 4 * n.of(sizes))


STEPS = {
    Op.LINEAR_BACK: _linear_back,
    Op.RMS_NORM_BACK: _norm_back,
    Op.LAYER_NORM_BACK: _norm_back,
    Op.GATED_BACK: _gated_back,
    Op.ATTENTION_BACK: _attention_back,
    Op.CROSS_ENTROPY: _cross_entropy,
    Op.CROSS_ENTROPY_GRAD: _cross_entropy,
    Op.HEAD_LOSS: _head_loss,
    Op.SCATTER_ROWS: _scatter_rows,
    Op.SUM_ROWS: _sum_rows,
    Op.WRITE_STATE: _to_state,
    Op.ADD_STATE: _to_state,
}
WORKSPACES: dict[Op, Callable[[Node, Types], int]] = {
    Op.LINEAR_BACK: lambda node, types: slice_space(node.tensors[0], types),
    Op.RMS_NORM_BACK: lambda node, types: 2 * _most(node),
    Op.LAYER_NORM_BACK: lambda node, types: 2 * _most(node),
    Op.ATTENTION_BACK: lambda node, types: math.prod(int(size) for size in node.outputs[0].shape[:2]),
    Op.HEAD_LOSS: _head_space,
}
