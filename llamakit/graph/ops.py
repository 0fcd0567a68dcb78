"""The closed set of ops: for each its meaning, its inputs, tensors and effects.

Ops are at the level of a transformer, not of a tensor library: a backend gets few large nodes and fuses from
there. The meaning of each is defined by the numpy of the `reference` backend. "rows" are the tokens of one
step; every activation is float32 at the level of the graph, whatever a backend uses inside.

Sizes are `int`, or a `Dim` whose value is known only at each run. Gradients of tensors are not results: the ops that
compute them add them to a state, so that they accumulate over runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from llamakit.graph import shapes
from llamakit.graph.attrs import (
    ActivationAttrs,
    AttentionAttrs,
    ExpertsAttrs,
    GatedAttrs,
    HeadLossAttrs,
    LayerNormAttrs,
    LinearAttrs,
    MapAttrs,
    MatmulAttrs,
    NoAttrs,
    ReduceAttrs,
    ReshapeAttrs,
    RMSNormAttrs,
    RopeAttrs,
    ScaleAttrs,
    SoftCapAttrs,
)
from llamakit.graph.errors import GraphError

if TYPE_CHECKING:
    from llamakit.graph.shapes import ShapeRule

__all__ = [
    "SPECS",
    "ActivationAttrs",
    "AttentionAttrs",
    "ExpertsAttrs",
    "GatedAttrs",
    "GraphError",
    "HeadLossAttrs",
    "LayerNormAttrs",
    "LinearAttrs",
    "MapAttrs",
    "MatmulAttrs",
    "NoAttrs",
    "Op",
    "OpSpec",
    "RMSNormAttrs",
    "ReduceAttrs",
    "ReshapeAttrs",
    "RopeAttrs",
    "ScaleAttrs",
    "SoftCapAttrs",
]


class Op(StrEnum):
    """All ops there are."""

    EMBEDDING = "embedding"
    LINEAR = "linear"
    RMS_NORM = "rms_norm"
    LAYER_NORM = "layer_norm"
    ROPE = "rope"
    ATTENTION = "attention"
    ADD = "add"
    MUL = "mul"
    SCALE = "scale"
    GATED = "gated"
    ACTIVATION = "activation"
    SOFT_CAP = "soft_cap"
    EXPERTS = "experts"
    RESHAPE = "reshape"
    SELECT_ROWS = "select_rows"
    MATMUL = "matmul"
    CROSS_ENTROPY = "cross_entropy"
    # gradients
    LINEAR_BACK = "linear_back"
    RMS_NORM_BACK = "rms_norm_back"
    LAYER_NORM_BACK = "layer_norm_back"
    ATTENTION_BACK = "attention_back"
    GATED_BACK = "gated_back"
    SCATTER_ROWS = "scatter_rows"
    SUM_ROWS = "sum_rows"
    CROSS_ENTROPY_GRAD = "cross_entropy_grad"
    EXPERTS_BACK = "experts_back"
    HEAD_LOSS = "head_loss"
    # states
    READ_STATE = "read_state"
    WRITE_STATE = "write_state"
    ADD_STATE = "add_state"
    MAP = "map"
    REDUCE = "reduce"


@dataclass(frozen=True, slots=True)
class OpSpec:
    """What the graph knows of an op.

    `inputs`, `tensors`: names in order; those ending in "?" may be missing; a last one ending in "*" stands for any
    number. `integers`: which inputs are int32. `shape`: the shapes of its results.
    `writes`: which tensors it changes, and so must be states. `cached`: it writes the KV cache when its attributes name
    a layer. `any_dtype`: its states may be of other types than float32.
    """

    meaning: str
    attrs: type
    shape: ShapeRule
    inputs: tuple[str, ...] = ("x",)
    tensors: tuple[str, ...] = ()
    integers: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    cached: bool = False
    any_dtype: bool = False


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


_WHERE = ("positions", "sequences")

SPECS: dict[Op, OpSpec] = {
    Op.EMBEDDING: OpSpec(
        "row `tokens[r]` of the weight (n_vocab, n_embd)",
        NoAttrs, shapes.embedding, ("tokens", "adapter?"), ("weight",), _set("tokens adapter"),
    ),
    Op.LINEAR: OpSpec(
        "x W^T + bias, plus scale * (x A^T) B^T of the adapter in the row's slot",
        LinearAttrs, shapes.linear, ("x", "adapter?"), ("weight", "bias?"), _set("adapter"),
    ),
    Op.RMS_NORM: OpSpec(
        "x / sqrt(mean(x^2) + epsilon) * weight, over the last size",
        RMSNormAttrs, shapes.rms_norm, ("x", "adapter?"), ("weight",), _set("adapter"),
    ),
    Op.LAYER_NORM: OpSpec(
        "(x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias, over the last size",
        LayerNormAttrs, shapes.layer_norm, ("x",), ("weight", "bias?"),
    ),
    Op.ROPE: OpSpec(
        "rotate pairs of dimensions of each head by position * inv_freq",
        RopeAttrs, shapes.rope, ("x", "positions"), (), _set("positions"),
    ),
    Op.ATTENTION: OpSpec(
        "softmax(scale q k^T) v over positions 0..p of the row's sequence; a head's `sinks` is one more score, whose"
        " value is 0. With a cache, k and v are first written at"
        " `cells`, and all are read from there. Without, the rows of a sequence have ascending positions, one apart,"
        " and see the rows before them",
        AttentionAttrs, shapes.attention, ("q", "k", "v", *_WHERE, "cells?", "block_tables?"), ("sinks?",),
        _set("positions sequences cells block_tables"), cached=True,
    ),
    Op.ADD: OpSpec("a + b", NoAttrs, shapes.same, ("a", "b")),
    Op.MUL: OpSpec("a * b", NoAttrs, shapes.same, ("a", "b")),
    Op.SCALE: OpSpec("x * factor", ScaleAttrs, shapes.first),
    Op.GATED: OpSpec("activation(gate) * up", GatedAttrs, shapes.same, ("gate", "up")),
    Op.ACTIVATION: OpSpec("activation(x), or its derivative at x", ActivationAttrs, shapes.activation),
    Op.SOFT_CAP: OpSpec("cap * tanh(x / cap)", SoftCapAttrs, shapes.soft_cap),
    Op.EXPERTS: OpSpec(
        "sum of share * down(activation(gate x) * up x) over the experts that the row chooses by its scores",
        ExpertsAttrs, shapes.experts, ("x", "scores"), ("gate", "up", "down"),
    ),
    Op.RESHAPE: OpSpec("the same values, other trailing sizes", ReshapeAttrs, shapes.reshape),
    Op.SELECT_ROWS: OpSpec("rows `indices` of x", NoAttrs, shapes.select_rows, ("x", "indices"), (), _set("indices")),
    Op.MATMUL: OpSpec(
        "a b, either transposed first; with `into`, added to that state",
        MatmulAttrs, shapes.matmul, ("a", "b"), ("into?",), writes=_set("into"),
    ),
    Op.CROSS_ENTROPY: OpSpec(
        "-log softmax(logits)[target], a value a row; 0 for target -1",
        NoAttrs, shapes.per_row, ("logits", "targets"), (), _set("targets"),
    ),
    Op.LINEAR_BACK: OpSpec(
        "dy W: the gradient of x in linear, in float32 whatever the weight's type",
        NoAttrs, shapes.linear_back, ("dy",), ("weight",),
    ),
    Op.RMS_NORM_BACK: OpSpec(
        "the gradient of x in rms_norm; that of the weight is added to `grad`",
        RMSNormAttrs, shapes.rms_norm_back, ("x", "dy"), ("weight", "grad?"), writes=_set("grad"),
    ),
    Op.LAYER_NORM_BACK: OpSpec(
        "the gradient of x in layer_norm; that of the weight is added to `grad`, that of the bias is a sum of rows",
        LayerNormAttrs, shapes.rms_norm_back, ("x", "dy"), ("weight", "grad?"), writes=_set("grad"),
    ),
    Op.ATTENTION_BACK: OpSpec(
        "the gradients of q, k and v in attention without a cache, from its results and the gradient of `out`",
        AttentionAttrs, shapes.attention_back, ("q", "k", "v", "out", "log_sum_exp", "d_out", *_WHERE), (),
        _set("positions sequences"),
    ),
    Op.GATED_BACK: OpSpec(
        "the gradients of gate and up in gated", GatedAttrs, shapes.gated_back, ("gate", "up", "dy")
    ),
    Op.SCATTER_ROWS: OpSpec(
        "rows added up at `indices`, of equal ones in order: to zeros like `like`, or to the state `into`",
        NoAttrs, shapes.scatter_rows, ("dy", "indices", "like?"), ("into?",), _set("indices"), _set("into"),
    ),
    Op.SUM_ROWS: OpSpec(
        "the sum over rows, added to a state", NoAttrs, shapes.sum_rows, ("x",), ("into",), writes=_set("into")
    ),
    Op.CROSS_ENTROPY_GRAD: OpSpec(
        "softmax(logits) - onehot(target); 0 for target -1",
        NoAttrs, shapes.first, ("logits", "targets"), (), _set("targets"),
    ),
    Op.EXPERTS_BACK: OpSpec(
        "from x, scores and the gradient of the result, the gradients of x and of the scores",
        ExpertsAttrs, shapes.experts_back, ("x", "scores", "dy"), ("gate", "up", "down"),
    ),
    Op.HEAD_LOSS: OpSpec(
        "cross-entropy of the logits x W^T (+ h B^T), 0 where the target is -1 or the weight 0, and the gradients of"
        " weight * loss: of x and h as results, of W and B added to states. Logits exist for a chunk of rows only",
        HeadLossAttrs, shapes.head_loss, ("x", "targets", "weights", "h?"),
        ("weight", "b?", "weight_grad?", "b_grad?"), _set("targets"), _set("weight_grad b_grad"),
    ),
    Op.READ_STATE: OpSpec("a state's memory, as it is", NoAttrs, shapes.read_state, (), ("state",)),
    Op.WRITE_STATE: OpSpec("state = x", NoAttrs, shapes.to_state, ("x",), ("state",), writes=_set("state")),
    Op.ADD_STATE: OpSpec("state += x", NoAttrs, shapes.to_state, ("x",), ("state",), writes=_set("state")),
    Op.MAP: OpSpec(
        "states[i] = expression of the states' and the scalars' old values, element by element, for each assignment",
        MapAttrs, shapes.map_states, ("scalars?",), ("states*",), writes=_set("states"), any_dtype=True,
    ),
    Op.REDUCE: OpSpec(
        "sum, sum of squares or largest absolute value of a state, summed in float64",
        ReduceAttrs, shapes.reduce, (), ("state",), any_dtype=True,
    ),
}  # fmt: skip
