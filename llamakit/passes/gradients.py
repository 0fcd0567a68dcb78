"""The gradient rule of each op.

A rule gets the way back, the node, and the gradient of each of its results (None where nothing depends on it). It adds
nodes to `back.builder` and yields (input, gradient) pairs; gradients of trained tensors go into their states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llamakit.graph.graph import Value
from llamakit.graph.ops import GraphError, MatmulAttrs, Op, ReshapeAttrs, ScaleAttrs

if TYPE_CHECKING:
    from llamakit.graph.graph import Node
    from llamakit.passes.autodiff import Backward

Pairs = Iterator[tuple[Value | None, Value | None]]
Rule = Callable[..., Pairs]


def _name(node: Node) -> str:
    return f"{node.name}.back"


def _no_adapter(node: Node) -> None:
    if node.input("adapter") is not None:
        raise GraphError(f"node {node.name}: adapters by slot cannot be trained; they are part of a training graph")


def linear(back: Backward, node: Node, dy: Value) -> Pairs:
    """dx = dy W, dW = dy^T x, db = sum of dy over rows."""
    _no_adapter(node)
    x, (weight, bias) = node.inputs[0], node.tensors
    into, bias_into = back.gradient_of(weight), back.gradient_of(bias)
    if bias_into is not None:
        back.builder.add_all(Op.SUM_ROWS, f"{node.name}.bias.back", (dy,), tensors=(bias_into,))
    if into is not None:
        attrs = MatmulAttrs(transpose_a=True)
        back.builder.add_all(Op.MATMUL, f"{node.name}.weight.back", (dy, x), tensors=(into,), attrs=attrs)
    if back.wants(x):
        yield x, back.builder.add(Op.LINEAR_BACK, _name(node), (dy,), tensors=(weight,))


def embedding(back: Backward, node: Node, dy: Value) -> Pairs:
    """Rows of dy added up by token."""
    _no_adapter(node)
    into = back.gradient_of(node.tensors[0])
    if into is not None:
        back.builder.add_all(Op.SCATTER_ROWS, _name(node), (dy, node.inputs[0]), tensors=(into,))
    yield from ()


def rms_norm(back: Backward, node: Node, dy: Value) -> Pairs:
    """dx by rms_norm_back, which adds to the weight's gradient."""
    _no_adapter(node)
    x, weight = node.inputs[0], node.tensors[0]
    tensors = (weight, back.gradient_of(weight))
    yield x, back.builder.add(Op.RMS_NORM_BACK, _name(node), (x, dy), tensors=tensors, attrs=node.attrs)


def layer_norm(back: Backward, node: Node, dy: Value) -> Pairs:
    """dx by layer_norm_back, which adds to the weight's gradient; that of the bias is a sum."""
    x, (weight, bias) = node.inputs[0], node.tensors
    bias_into = back.gradient_of(bias)
    if bias_into is not None:
        if len(dy.shape) > 2:
            raise GraphError(f"node {node.name}: a bias over heads has no gradient")
        back.builder.add_all(Op.SUM_ROWS, f"{node.name}.bias.back", (dy,), tensors=(bias_into,))
    tensors = (weight, back.gradient_of(weight))
    yield x, back.builder.add(Op.LAYER_NORM_BACK, _name(node), (x, dy), tensors=tensors, attrs=node.attrs)


def rope(back: Backward, node: Node, dy: Value) -> Pairs:
    """Rotation is orthogonal but for its magnitude: its transpose turns the other way."""
    attrs = replace(node.attrs, inverse=not node.attrs.inverse)
    yield node.inputs[0], back.builder.add(Op.ROPE, _name(node), (dy, node.inputs[1]), attrs=attrs)


def attention(back: Backward, node: Node, d_out: Value, d_log_sum: Value | None = None) -> Pairs:
    """dq, dk and dv by attention_back, which needs the log-sum-exp."""
    if len(node.outputs) < 2 or node.attrs.layer is not None:
        raise GraphError(f"node {node.name}: attention has a gradient without a cache and with log_sum_exp only")
    if d_log_sum is not None:
        raise GraphError(f"node {node.name}: a loss that depends on the log-sum-exp itself has no gradient")
    if node.tensors[0] is not None:
        raise GraphError(f"node {node.name}: attention with sinks has no gradient")
    q, k, v, positions, sequences = node.inputs[:5]
    inputs = (q, k, v, *node.outputs, d_out, positions, sequences)
    gradients = back.builder.add_all(Op.ATTENTION_BACK, _name(node), inputs, attrs=node.attrs)
    yield from zip((q, k, v), gradients, strict=True)


def add(back: Backward, node: Node, dy: Value) -> Pairs:
    """The same for both."""
    yield from ((value, dy) for value in node.inputs)


def mul(back: Backward, node: Node, dy: Value) -> Pairs:
    """da = dy b, db = dy a."""
    a, b = node.inputs
    for i, (value, other) in enumerate(((a, b), (b, a))):
        if back.wants(value):
            yield value, back.builder.add(Op.MUL, f"{_name(node)}.{i}", (dy, other))


def scale(back: Backward, node: Node, dy: Value) -> Pairs:
    """dx = factor dy."""
    yield node.inputs[0], back.builder.add(Op.SCALE, _name(node), (dy,), attrs=node.attrs)


def soft_cap(back: Backward, node: Node, dy: Value) -> Pairs:
    """dx = dy - dy y^2 / cap^2."""
    name, y = _name(node), node.output
    product = back.builder.add(Op.MUL, f"{name}.1", (back.builder.add(Op.MUL, f"{name}.0", (dy, y)), y))
    lost = back.builder.add(Op.SCALE, f"{name}.2", (product,), attrs=ScaleAttrs(-1 / node.attrs.cap**2))
    yield node.inputs[0], back.builder.add(Op.ADD, name, (dy, lost))


def activation(back: Backward, node: Node, dy: Value) -> Pairs:
    """dx = dy times the derivative at x."""
    if node.attrs.slope:
        raise GraphError(f"node {node.name}: the derivative of an activation has no gradient")
    x, name = node.inputs[0], _name(node)
    slope = back.builder.add(Op.ACTIVATION, f"{name}.slope", (x,), attrs=replace(node.attrs, slope=True))
    yield x, back.builder.add(Op.MUL, name, (dy, slope))


def gated(back: Backward, node: Node, dy: Value) -> Pairs:
    """Of gate and up."""
    gradients = back.builder.add_all(Op.GATED_BACK, _name(node), (*node.inputs, dy), attrs=node.attrs)
    yield from zip(node.inputs, gradients, strict=True)


def reshape(back: Backward, node: Node, dy: Value) -> Pairs:
    """Back to the shape before."""
    x: Any = node.inputs[0]
    attrs = ReshapeAttrs(tuple(int(size) for size in x.shape[1:]))
    yield x, back.builder.add(Op.RESHAPE, _name(node), (dy,), attrs=attrs)


def select_rows(back: Backward, node: Node, dy: Value) -> Pairs:
    """Rows added up where they came from."""
    x, indices = node.inputs
    yield x, back.builder.add(Op.SCATTER_ROWS, _name(node), (dy, indices, x))


def matmul(back: Backward, node: Node, dc: Value) -> Pairs:
    """c = a b: da = dc b^T, db = a^T dc; where an operand is transposed, its gradient is too."""
    a, b = node.inputs
    ta, tb = node.attrs.transpose_a, node.attrs.transpose_b
    products = (
        (a, (b, dc), (tb, True)) if ta else (a, (dc, b), (False, not tb)),
        (b, (dc, a), (True, ta)) if tb else (b, (a, dc), (not ta, False)),
    )
    for i, (value, operands, transposed) in enumerate(products):
        if back.wants(value):
            attrs = MatmulAttrs(*transposed)
            yield value, back.builder.add(Op.MATMUL, f"{_name(node)}.{i}", operands, attrs=attrs)


def experts(back: Backward, node: Node, dy: Value) -> Pairs:
    """Through all that a row chose; which experts it chooses has no gradient."""
    x, scores = node.inputs
    trained = [tensor.name for tensor in node.tensors if tensor and back.gradient_of(tensor)]
    if trained:
        raise GraphError(f"node {node.name}: experts cannot be trained themselves yet ({', '.join(trained)})")
    inputs = (x, scores, dy)
    dx, d_scores = back.builder.add_all(Op.EXPERTS_BACK, _name(node), inputs, tensors=node.tensors, attrs=node.attrs)
    yield x, dx
    yield scores, d_scores


def read_state(back: Backward, node: Node, dy: Value) -> Pairs:
    """Into the state's gradient."""
    into = back.gradient_of(node.tensors[0])
    if into is not None:
        back.builder.add_all(Op.ADD_STATE, _name(node), (dy,), tensors=(into,))
    yield from ()


def head_loss(back: Backward, node: Node, *unused: Value | None) -> Pairs:
    """It has made them already."""
    yield node.inputs[0], node.outputs[1]
    if node.inputs[3] is not None:
        yield node.inputs[3], node.outputs[2]


RULES: dict[Op, Rule] = {
    Op.LINEAR: linear,
    Op.EMBEDDING: embedding,
    Op.RMS_NORM: rms_norm,
    Op.LAYER_NORM: layer_norm,
    Op.ROPE: rope,
    Op.ATTENTION: attention,
    Op.ADD: add,
    Op.MUL: mul,
    Op.SCALE: scale,
    Op.SOFT_CAP: soft_cap,
    Op.ACTIVATION: activation,
    Op.GATED: gated,
    Op.EXPERTS: experts,
    Op.RESHAPE: reshape,
    Op.SELECT_ROWS: select_rows,
    Op.MATMUL: matmul,
    Op.READ_STATE: read_state,
    Op.HEAD_LOSS: head_loss,
}

# Ops that add to their tensors' gradients while they run: (place of the tensor, place of its gradient).
WRITES_GRADIENTS: dict[Op, tuple[tuple[int, int], ...]] = {Op.HEAD_LOSS: ((0, 2), (1, 3))}
