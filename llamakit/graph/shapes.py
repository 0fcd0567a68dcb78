"""The shape rule of each op: (shapes of inputs, shapes of tensors, attributes) -> shapes of the results.

Missing optional inputs and tensors are None. A rule raises `GraphError`; whoever calls it adds the node's name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llamakit.graph.attrs import ACTIVATIONS
from llamakit.graph.errors import GraphError
from llamakit.graph.expression import check as check_expressions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamakit.graph.attrs import (
        ActivationAttrs,
        AttentionAttrs,
        ExpertsAttrs,
        HeadLossAttrs,
        LinearAttrs,
        MapAttrs,
        MatmulAttrs,
        ReduceAttrs,
        ReshapeAttrs,
        RopeAttrs,
        SoftCapAttrs,
    )
    from llamakit.graph.graph import Shape

    Shapes = Sequence[Any]  # of Shape | None; Any spares every rule a check of what its specification says is there
    ShapeRule = Callable[[Shapes, Shapes, Any], tuple[Shape, ...]]


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise GraphError(message)


def embedding(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """(rows, n_embd)."""
    return ((*inputs[0], tensors[0][1]),)


def linear(inputs: Shapes, tensors: Shapes, attrs: LinearAttrs) -> tuple[Shape, ...]:
    """(rows, n_out)."""
    x, weight, bias = inputs[0], tensors[0], tensors[1]
    _need(x[-1] == weight[1], f"input {x} does not fit weight {weight} (n_out, n_in)")
    _need(bias in (None, (weight[0],)), f"bias {bias} does not fit weight {weight}")
    _known_activations(attrs)
    return ((*x[:-1], weight[0]),)


def _known_activations(attrs: LinearAttrs | HeadLossAttrs) -> None:
    known = ("native", "f32")
    _need(attrs.activations in known, f"activations must be one of {known}, is {attrs.activations!r}")


def linear_back(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """(rows, n_in)."""
    dy, weight = inputs[0], tensors[0]
    _need(dy[-1] == weight[0], f"gradient {dy} does not fit weight {weight} (n_out, n_in)")
    return ((*dy[:-1], weight[1]),)


def rms_norm(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """As x."""
    x, weight = inputs[0], tensors[0]
    _need(weight == (x[-1],), f"weight {weight} does not fit the last size of {x}")
    return (x,)


def layer_norm(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """As x."""
    bias = tensors[1]
    _need(bias in (None, tensors[0]), f"bias {bias} does not fit weight {tensors[0]}")
    return rms_norm(inputs, tensors, attrs)


def activation(inputs: Shapes, tensors: Shapes, attrs: ActivationAttrs) -> tuple[Shape, ...]:
    """As x."""
    _need(attrs.kind in ACTIVATIONS, f"kind must be one of {ACTIVATIONS}, is {attrs.kind!r}")
    return (inputs[0],)


def soft_cap(inputs: Shapes, tensors: Shapes, attrs: SoftCapAttrs) -> tuple[Shape, ...]:
    """As x."""
    _need(attrs.cap > 0, f"the cap must be above 0, is {attrs.cap}")
    return (inputs[0],)


def rms_norm_back(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """As x."""
    x, dy = inputs
    weight, grad = tensors
    _need(x == dy, f"gradient {dy} does not fit x {x}")
    _need(weight == (x[-1],), f"weight {weight} does not fit the last size of {x}")
    _need(grad in (None, weight), f"gradient state {grad} does not fit weight {weight}")
    return (x,)


def rope(inputs: Shapes, tensors: Shapes, attrs: RopeAttrs) -> tuple[Shape, ...]:
    """As x."""
    x = inputs[0]
    _need(len(x) == 3, f"input must be (rows, n_head, head_dim), is {x}")
    n_rot = 2 * len(attrs.inv_freq)
    _need(isinstance(x[2], int) and n_rot <= x[2], f"{n_rot} rotated dimensions in {x}")
    _need(attrs.pairs in ("adjacent", "halves"), f"pairs must be 'adjacent' or 'halves', is {attrs.pairs!r}")
    return (x,)


def _check_heads(q: Any, k: Any, v: Any) -> None:
    _need(len(q) == len(k) == len(v) == 3, "q, k and v must be (rows, n_head, head_dim)")
    _need(k[:2] == v[:2] and q[2] == k[2] and q[0] == k[0], f"q {q}, k {k}, v {v} do not fit together")
    _need(int(q[1]) % int(k[1]) == 0, f"{q[1]} heads do not divide into {k[1]} KV heads")


def attention(inputs: Shapes, tensors: Shapes, attrs: AttentionAttrs) -> tuple[Shape, ...]:
    """(rows, n_head, head_dim_v), and (rows, n_head) if the log-sum-exp is asked for."""
    q, k, v = inputs[:3]
    _check_heads(q, k, v)
    sinks, n_head = tensors[0], q[1]
    _need(attrs.layer is None or not attrs.log_sum_exp, "the log-sum-exp is given only without a cache")
    _need(sinks is None or not attrs.log_sum_exp, "the log-sum-exp is given only without sinks")
    _need(sinks in (None, (n_head,)), f"sinks {sinks} do not fit {n_head} heads")
    _need(len(attrs.slopes) in (0, n_head), f"{len(attrs.slopes)} slopes do not fit {n_head} heads")
    _need(attrs.soft_cap >= 0, f"the soft cap must not be below 0, is {attrs.soft_cap}")
    out = (q[0], q[1], v[2])
    return (out, q[:2]) if attrs.log_sum_exp else (out,)


def attention_back(inputs: Shapes, tensors: Shapes, attrs: AttentionAttrs) -> tuple[Shape, ...]:
    """As q, k and v."""
    q, k, v, out, lse, d_out = inputs[:6]
    _check_heads(q, k, v)
    _need(attrs.layer is None, "gradients go through attention without a cache only")
    _need(not attrs.soft_cap and not attrs.slopes, "attention with a soft cap or slopes has no gradient")
    _need(out == d_out == (q[0], q[1], v[2]), f"out {out} and its gradient {d_out} do not fit q {q} and v {v}")
    _need(lse == q[:2], f"log-sum-exp {lse} does not fit q {q}")
    return (q, k, v)


def same(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """All inputs and the result are alike."""
    _need(all(shape == inputs[0] for shape in inputs), f"shapes differ: {inputs}")
    return (inputs[0],)


def gated_back(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """As gate and up."""
    return same(inputs, tensors, attrs) * 2


def first(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """As the first input."""
    return (inputs[0],)


def experts(inputs: Shapes, tensors: Shapes, attrs: ExpertsAttrs) -> tuple[Shape, ...]:
    """(rows, n_out)."""
    x, scores = inputs
    gate, up, down = tensors
    n_expert = scores[-1]
    _need(len(gate) == len(down) == 3 and gate == up, f"weights {gate}, {up}, {down} must be (n_expert, n_out, n_in)")
    _need(gate[0] == down[0] == n_expert, f"{n_expert} scores do not fit weights {gate} and {down}")
    _need(x[-1] == gate[2] and gate[1] == down[2], f"input {x} does not fit weights {gate} and {down}")
    _need(1 <= attrs.n_used <= int(n_expert), f"{attrs.n_used} of {n_expert} experts cannot be used")
    return ((*x[:-1], down[1]),)


def experts_back(inputs: Shapes, tensors: Shapes, attrs: ExpertsAttrs) -> tuple[Shape, ...]:
    """As x, and as scores."""
    x, scores, dy = inputs
    (out,) = experts((x, scores), tensors, attrs)
    _need(dy == out, f"gradient {dy} does not fit the result {out}")
    return (x, scores)


def reshape(inputs: Shapes, tensors: Shapes, attrs: ReshapeAttrs) -> tuple[Shape, ...]:
    """(rows, *sizes)."""
    x = inputs[0]
    before, after = math.prod(int(s) for s in x[1:]), math.prod(attrs.sizes)
    _need(before == after, f"{x} has {before} values a row, {attrs.sizes} has {after}")
    return ((x[0], *attrs.sizes),)


def select_rows(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """(chosen rows, ...)."""
    return ((*inputs[1], *inputs[0][1:]),)


def scatter_rows(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """As `like`; nothing where a state takes the rows."""
    dy, indices, like = inputs
    into = tensors[0]
    _need((like is None) != (into is None), "it needs either an input `like` or a state `into`")
    target = like if into is None else into
    _need(indices == dy[:1] and dy[1:] == target[1:], f"rows {dy} at {indices} do not fit {target}")
    return () if into is not None else (like,)


def sum_rows(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """Nothing: a state takes the sum."""
    _need(tensors[0] == inputs[0][1:], f"state {tensors[0]} does not fit rows of {inputs[0]}")
    return ()


def read_state(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """As the state."""
    return (tensors[0],)


def to_state(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """Nothing."""
    _need(inputs[0] == tensors[0], f"input {inputs[0]} does not fit the state {tensors[0]}")
    return ()


def matmul(inputs: Shapes, tensors: Shapes, attrs: MatmulAttrs) -> tuple[Shape, ...]:
    """(m, n); nothing where a state takes it."""
    a, b = inputs
    _need(len(a) == len(b) == 2, f"operands must be matrices, are {a} and {b}")
    m, k1 = (a[1], a[0]) if attrs.transpose_a else a
    k2, n = (b[1], b[0]) if attrs.transpose_b else b
    _need(k1 == k2, f"inner sizes differ: {a} and {b}")
    into = tensors[0]
    _need(into in (None, (m, n)), f"state {into} does not fit the product {(m, n)}")
    return () if into is not None else ((m, n),)


def per_row(inputs: Shapes, tensors: Shapes, attrs: Any) -> tuple[Shape, ...]:
    """(rows,)."""
    return (inputs[0][:1],)


def head_loss(inputs: Shapes, tensors: Shapes, attrs: HeadLossAttrs) -> tuple[Shape, ...]:
    """(rows,); with gradients also as x, and as h where there is one."""
    _known_activations(attrs)
    x, targets, weights, h = inputs
    weight, b, weight_grad, b_grad = tensors
    _need(x[-1] == weight[1], f"input {x} does not fit weight {weight} (n_vocab, n_embd)")
    _need(targets == weights == x[:1], f"targets {targets} and weights {weights} do not fit rows of {x}")
    _need((h is None) == (b is None), "h and b come together")
    _need(h is None or b == (weight[0], h[-1]), f"b {b} does not fit weight {weight} and h {h}")
    _need(weight_grad in (None, weight) and b_grad in (None, b), "a gradient state must have its weight's shape")
    _need(attrs.gradients or weight_grad is b_grad is None, "states for gradients, but attrs.gradients is false")
    gradients = (x,) if h is None else (x, h)
    return (x[:1], *gradients) if attrs.gradients else (x[:1],)


def map_states(inputs: Shapes, tensors: Shapes, attrs: MapAttrs) -> tuple[Shape, ...]:
    """Nothing."""
    _need(len(tensors) > 0 and all(shape == tensors[0] for shape in tensors), f"states differ: {tensors}")
    numbers = [number for number, _ in attrs.assignments]
    _need(len(set(numbers)) == len(numbers), f"a state is assigned twice: {numbers}")
    _need(all(0 <= number < len(tensors) for number in numbers), f"states {numbers} of {len(tensors)} are assigned")
    n_scalar = 0 if inputs[0] is None else int(inputs[0][0])
    check_expressions((expression for _, expression in attrs.assignments), len(tensors), n_scalar)
    return ()


def reduce(inputs: Shapes, tensors: Shapes, attrs: ReduceAttrs) -> tuple[Shape, ...]:
    """(1,)."""
    known = ("sum", "sum_squares", "max_abs")
    _need(attrs.kind in known, f"kind must be one of {known}, is {attrs.kind!r}")
    return ((1,),)
