"""The closed set of ops: for each its meaning, its attributes and its shape rule.

Ops are at the level of a transformer, not of a tensor library: a backend gets few large nodes and fuses from
there. The meaning of each is defined by the numpy of the `reference` backend. "rows" are the tokens of one
step; every activation is float32 at the level of the graph, whatever a backend uses inside.

Sizes are `int`, or a `Dim` whose value is known only at each run. Shape rules raise `GraphError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from llamakit.errors import LlamaKitError

if TYPE_CHECKING:
    from llamakit.graph.graph import Shape


class GraphError(LlamaKitError):
    """A graph that breaks a rule; names the node."""


class Op(StrEnum):
    """All ops there are."""

    EMBEDDING = "embedding"
    LINEAR = "linear"
    RMS_NORM = "rms_norm"
    ROPE = "rope"
    ATTENTION = "attention"
    ADD = "add"
    MUL = "mul"
    SCALE = "scale"
    GATED = "gated"
    EXPERTS = "experts"
    RESHAPE = "reshape"
    SELECT_ROWS = "select_rows"
    READ_STATE = "read_state"
    WRITE_STATE = "write_state"
    MATMUL = "matmul"
    CROSS_ENTROPY = "cross_entropy"
    CROSS_ENTROPY_GRAD = "cross_entropy_grad"


@dataclass(frozen=True, slots=True)
class NoAttrs:
    """For ops that need no attributes."""


@dataclass(frozen=True, slots=True)
class RMSNormAttrs:
    """`epsilon` is added to the mean square."""

    epsilon: float


@dataclass(frozen=True, slots=True)
class RopeAttrs:
    """Rotary embedding of the first `2 * len(inv_freq)` dimensions of each head by position * inv_freq[i].

    `pairs` says which dimensions rotate together: "adjacent" (2i, 2i+1), as in llama GGUFs, or "halves"
    (i, i + n_rot/2), as in NeoX and Qwen. `magnitude` multiplies the rotated dimensions (YaRN's
    mscale). Every scaling method of the field (linear, NTK, YaRN, llama3) comes down to these two, so no backend
    knows of methods.
    """

    inv_freq: tuple[float, ...]
    pairs: str = "adjacent"
    magnitude: float = 1.0


@dataclass(frozen=True, slots=True)
class AttentionAttrs:
    """Causal grouped-query attention. `layer` is the layer of the KV cache; None: attend within the step only.

    `window`: a row at position p sees positions q with p - window < q <= p.
    """

    scale: float
    layer: int | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class ScaleAttrs:
    """A constant factor."""

    factor: float


@dataclass(frozen=True, slots=True)
class GatedAttrs:
    """The activation of the gate: "silu" or "gelu" (tanh form)."""

    activation: str = "silu"


@dataclass(frozen=True, slots=True)
class ExpertsAttrs:
    """A mixture of experts: each row takes the `n_used` with the highest scores, of equals the first.

    Their shares are softmax(scores), with `normalise` divided by the sum of those chosen.
    """

    n_used: int
    normalise: bool = True
    activation: str = "silu"


@dataclass(frozen=True, slots=True)
class ReshapeAttrs:
    """Trailing sizes of the result; the first size (rows) stays."""

    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MatmulAttrs:
    """Whether each operand is transposed first."""

    transpose_a: bool = False
    transpose_b: bool = False


ShapeRule = Callable[["list[Shape]", "list[Shape]", Any], "Shape"]


@dataclass(frozen=True, slots=True)
class OpSpec:
    """What the graph knows of an op.

    `inputs`: names of its inputs; those ending in "?" may be missing, only at the end.
    `weights`: names of its model tensors, the same way. `integers`: which inputs are int32.
    `shape(input_shapes, weight_shapes, attrs)`: the shape of its one result.
    """

    meaning: str
    attrs: type
    shape: ShapeRule
    inputs: tuple[str, ...] = ("x",)
    weights: tuple[str, ...] = ()
    integers: frozenset[str] = frozenset()
    has_state: bool = False


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise GraphError(message)


def _embedding(inputs: list[Shape], weights: list[Shape], attrs: Any) -> Shape:
    return (*inputs[0], weights[0][1])


def _linear(inputs: list[Shape], weights: list[Shape], attrs: Any) -> Shape:
    _need(inputs[0][-1] == weights[0][1], f"input {inputs[0]} does not fit weight {weights[0]} (n_out, n_in)")
    if len(weights) > 1:
        _need(weights[1] == (weights[0][0],), f"bias {weights[1]} does not fit weight {weights[0]}")
    return (*inputs[0][:-1], weights[0][0])


def _rms_norm(inputs: list[Shape], weights: list[Shape], attrs: Any) -> Shape:
    _need(weights[0] == (inputs[0][-1],), f"weight {weights[0]} does not fit the last size of {inputs[0]}")
    return inputs[0]


def _rope(inputs: list[Shape], weights: list[Shape], attrs: RopeAttrs) -> Shape:
    _need(len(inputs[0]) == 3, f"input must be (rows, n_head, head_dim), is {inputs[0]}")
    n_rot = 2 * len(attrs.inv_freq)
    _need(isinstance(inputs[0][2], int) and n_rot <= inputs[0][2], f"{n_rot} rotated dimensions in {inputs[0]}")
    _need(attrs.pairs in ("adjacent", "halves"), f"pairs must be 'adjacent' or 'halves', is {attrs.pairs!r}")
    return inputs[0]


def _attention(inputs: list[Shape], weights: list[Shape], attrs: AttentionAttrs) -> Shape:
    q, k, v = inputs[:3]
    _need(len(q) == len(k) == len(v) == 3, "q, k and v must be (rows, n_head, head_dim)")
    _need(k[:2] == v[:2] and q[2] == k[2], f"q {q}, k {k}, v {v} do not fit together")
    _need(int(q[1]) % int(k[1]) == 0, f"{q[1]} heads do not divide into {k[1]} KV heads")
    return (q[0], q[1], v[2])


def _same(inputs: list[Shape], weights: list[Shape], attrs: Any) -> Shape:
    _need(all(shape == inputs[0] for shape in inputs), f"shapes differ: {inputs}")
    return inputs[0]


def _first(inputs: list[Shape], weights: list[Shape], attrs: Any) -> Shape:
    return inputs[0]


def _experts(inputs: list[Shape], weights: list[Shape], attrs: ExpertsAttrs) -> Shape:
    x, scores = inputs
    gate, up, down = weights
    n_expert = scores[-1]
    _need(len(gate) == len(down) == 3 and gate == up, f"weights {gate}, {up}, {down} must be (n_expert, n_out, n_in)")
    _need(gate[0] == down[0] == n_expert, f"{n_expert} scores do not fit weights {gate} and {down}")
    _need(x[-1] == gate[2] and gate[1] == down[2], f"input {x} does not fit weights {gate} and {down}")
    _need(1 <= attrs.n_used <= int(n_expert), f"{attrs.n_used} of {n_expert} experts cannot be used")
    return (*x[:-1], down[1])


def _reshape(inputs: list[Shape], weights: list[Shape], attrs: ReshapeAttrs) -> Shape:
    before, after = math.prod(int(s) for s in inputs[0][1:]), math.prod(attrs.sizes)
    _need(before == after, f"{inputs[0]} has {before} values a row, {attrs.sizes} has {after}")
    return (inputs[0][0], *attrs.sizes)


def _select_rows(inputs: list[Shape], weights: list[Shape], attrs: Any) -> Shape:
    return (*inputs[1], *inputs[0][1:])


def _state(inputs: list[Shape], weights: list[Shape], attrs: Any) -> Shape:
    return inputs[0] if inputs else ()


def _matmul(inputs: list[Shape], weights: list[Shape], attrs: MatmulAttrs) -> Shape:
    a, b = inputs
    _need(len(a) == len(b) == 2, f"operands must be matrices, are {a} and {b}")
    m, k1 = (a[1], a[0]) if attrs.transpose_a else a
    k2, n = (b[1], b[0]) if attrs.transpose_b else b
    _need(k1 == k2, f"inner sizes differ: {a} and {b}")
    return (m, n)


def _cross_entropy(inputs: list[Shape], weights: list[Shape], attrs: Any) -> Shape:
    return inputs[0][:1]


SPECS: dict[Op, OpSpec] = {
    Op.EMBEDDING: OpSpec(
        "row `tokens[r]` of the weight (n_vocab, n_embd)",
        NoAttrs, _embedding, ("tokens", "adapter?"), ("weight",), frozenset({"tokens", "adapter"}),
    ),
    Op.LINEAR: OpSpec(
        "x W^T + bias, plus scale * (x A^T) B^T of the adapter in the row's slot",
        NoAttrs, _linear, ("x", "adapter?"), ("weight", "bias?"), frozenset({"adapter"}),
    ),
    Op.RMS_NORM: OpSpec(
        "x / sqrt(mean(x^2) + epsilon) * weight, over the last size",
        RMSNormAttrs, _rms_norm, ("x", "adapter?"), ("weight",), frozenset({"adapter"}),
    ),
    Op.ROPE: OpSpec(
        "rotate pairs of dimensions of each head by position * inv_freq",
        RopeAttrs, _rope, ("x", "positions"), (), frozenset({"positions"}),
    ),
    Op.ATTENTION: OpSpec(
        "write k and v to the cache at `cells`, then softmax(scale q k^T) v over positions 0..p of the row's sequence",
        AttentionAttrs, _attention, ("q", "k", "v", "positions", "sequences", "cells?", "block_tables?"), (),
        frozenset({"positions", "sequences", "cells", "block_tables"}),
    ),
    Op.ADD: OpSpec("a + b", NoAttrs, _same, ("a", "b")),
    Op.MUL: OpSpec("a * b", NoAttrs, _same, ("a", "b")),
    Op.SCALE: OpSpec("x * factor", ScaleAttrs, _first),
    Op.GATED: OpSpec("activation(gate) * up", GatedAttrs, _same, ("gate", "up")),
    Op.EXPERTS: OpSpec(
        "sum of share * down(activation(gate x) * up x) over the experts that the row chooses by its scores",
        ExpertsAttrs, _experts, ("x", "scores"), ("gate", "up", "down"),
    ),
    Op.RESHAPE: OpSpec("the same values, other trailing sizes", ReshapeAttrs, _reshape),
    Op.SELECT_ROWS: OpSpec(
        "rows `indices` of x", NoAttrs, _select_rows, ("x", "indices"), (), frozenset({"indices"})
    ),
    Op.READ_STATE: OpSpec("the present value of a state tensor", NoAttrs, _state, (), has_state=True),
    Op.WRITE_STATE: OpSpec("store x in a state tensor", NoAttrs, _state, has_state=True),
    Op.MATMUL: OpSpec("a b, either transposed first", MatmulAttrs, _matmul, ("a", "b")),
    Op.CROSS_ENTROPY: OpSpec(
        "-log softmax(logits)[target], a value a row",
        NoAttrs, _cross_entropy, ("logits", "targets"), (), frozenset({"targets"}),
    ),
    Op.CROSS_ENTROPY_GRAD: OpSpec(
        "softmax(logits) - onehot(target)", NoAttrs, _first, ("logits", "targets"), (), frozenset({"targets"})
    ),
}  # fmt: skip
