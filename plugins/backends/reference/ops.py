"""Every op in numpy: this file is the definition. Inputs are float32 or int32, sums are float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from llamakit.plugins.backends.reference.memory import ReferenceAdapters, ReferenceKV, ReferenceState

    from llamakit.backend import Adapter
    from llamakit.graph.graph import Node
    from llamakit.graph.ops import RopeAttrs


@dataclass
class Step:
    """What an op may read besides its inputs."""

    weights: dict[str, Any] = field(default_factory=dict)  # name -> (*shape) float32
    kv: ReferenceKV | None = None
    adapters: ReferenceAdapters | None = None
    states: dict[str, ReferenceState] = field(default_factory=dict)


def _wide(x: Any) -> Any:
    return np.asarray(x, np.float64)


def _adapted(step: Step, node: Node, slots: Any) -> list[tuple[Any, Adapter]]:
    """(mask of rows, adapter) for each slot in use that adapts the node's weight."""
    if slots is None or step.adapters is None:
        return []
    pairs = []
    for slot in np.unique(slots):
        adapter = step.adapters.slots[slot].get(str(node.weights[0])) if slot else None
        if adapter is not None:
            pairs.append((slots == slot, adapter))
    return pairs


def embedding(step: Step, node: Node, tokens: Any, slots: Any) -> Any:
    """Row `tokens[r]` of the weight, (rows, n_embd)."""
    out = _wide(step.weights[str(node.weights[0])][tokens])
    for rows, adapter in _adapted(step, node, slots):
        out[rows] += adapter.scale * (_wide(adapter.B)[tokens[rows]] @ _wide(adapter.A))
    return out


def linear(step: Step, node: Node, x: Any, slots: Any) -> Any:
    """x W^T + bias + scale * (x A^T) B^T, (rows, n_out)."""
    weight, bias = node.weights
    out = _wide(x) @ _wide(step.weights[str(weight)]).T
    if bias is not None:
        out += step.weights[bias]
    for rows, adapter in _adapted(step, node, slots):
        out[rows] += adapter.scale * ((_wide(x[rows]) @ _wide(adapter.A).T) @ _wide(adapter.B).T)
    return out


def rms_norm(step: Step, node: Node, x: Any, slots: Any) -> Any:
    """x / sqrt(mean(x^2) + epsilon) * weight. Zhang and Sennrich 2019, arXiv:1910.07467."""
    x = _wide(x)
    weight = np.broadcast_to(_wide(step.weights[str(node.weights[0])]), x.shape).copy()
    for rows, adapter in _adapted(step, node, slots):
        weight[rows] += adapter.scale * _wide(adapter.B)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + node.attrs.epsilon) * weight


def rotate(x: Any, positions: Any, rope: RopeAttrs, magnitude: float) -> Any:
    """Rotate the first n_rot dimensions of x (rows, n_head, head_dim) by position * inv_freq.

    Su et al. 2021, arXiv:2104.09864.
    """
    out, n_rot = _wide(x).copy(), 2 * len(rope.inv_freq)
    angle = _wide(positions)[:, None, None] * _wide(rope.inv_freq)  # (rows, 1, n_rot / 2)
    cos, sin = np.cos(angle) * magnitude, np.sin(angle) * magnitude
    adjacent = rope.pairs == "adjacent"
    first = slice(0, n_rot, 2) if adjacent else slice(0, n_rot // 2)
    second = slice(1, n_rot, 2) if adjacent else slice(n_rot // 2, n_rot)
    a, b = out[..., first].copy(), out[..., second].copy()
    out[..., first], out[..., second] = a * cos - b * sin, a * sin + b * cos
    return out


def rope(step: Step, node: Node, x: Any, positions: Any) -> Any:
    """Rotary position embedding, (rows, n_head, head_dim)."""
    return rotate(x, positions, node.attrs, node.attrs.magnitude)


def softmax(x: Any) -> Any:
    """Softmax over the last size."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _attend(q: Any, k: Any, v: Any, q_positions: Any, k_positions: Any, attrs: Any) -> Any:
    """q (n, n_head, d) over k (m, n_head_kv, d) and v: causal, grouped queries, (n, n_head, d_v)."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)  # (m, n_head, d)
    scores = np.einsum("nhd,mhd->hnm", _wide(q), k) * attrs.scale
    seen = k_positions[None, :] <= q_positions[:, None]  # (n, m)
    if attrs.window is not None:
        seen &= k_positions[None, :] > q_positions[:, None] - attrs.window
    return np.einsum("hnm,mhd->nhd", softmax(np.where(seen, scores, -np.inf)), v)


def attention(
    step: Step, node: Node, q: Any, k: Any, v: Any, positions: Any, sequences: Any, cells: Any, block_tables: Any
) -> Any:
    """Causal grouped-query attention, (rows, n_head, head_dim_v); all rows write to the cache before any reads."""
    attrs = node.attrs
    out = np.zeros((*q.shape[:2], v.shape[2]), np.float64)
    cached = attrs.layer is not None and step.kv is not None
    if cached:
        step.kv.write(attrs.layer, cells, k, v)  # type: ignore[union-attr]
    for sequence in np.unique(sequences):
        rows = np.flatnonzero(sequences == sequence)
        if cached:
            kv: Any = step.kv
            k_positions = np.arange(positions[rows].max() + 1)
            size = kv.spec.block_size
            where = block_tables[sequence][k_positions // size] * size + k_positions % size
            keys, values = kv.read(attrs.layer, where)
        else:
            k_positions, keys, values = positions[rows], _wide(k[rows]), _wide(v[rows])
        out[rows] = _attend(q[rows], keys, values, positions[rows], k_positions, attrs)
    return out


def gated(step: Step, node: Node, gate: Any, up: Any) -> Any:
    """activation(gate) * up. Shazeer 2020, arXiv:2002.05202."""
    gate = _wide(gate)
    if node.attrs.activation == "silu":
        with np.errstate(over="ignore"):  # exp(-gate) may reach inf, and then silu is its limit, 0
            return gate / (1 + np.exp(-gate)) * up
    return 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * up


def read_state(step: Step, node: Node) -> Any:
    """The state's present value."""
    return step.states[str(node.state)].data.copy()


def write_state(step: Step, node: Node, x: Any) -> Any:
    """Store x, give it back."""
    step.states[str(node.state)].write(x)
    return x


def matmul(step: Step, node: Node, a: Any, b: Any) -> Any:
    """A product of matrices."""
    a = a.T if node.attrs.transpose_a else a
    b = b.T if node.attrs.transpose_b else b
    return _wide(a) @ _wide(b)


def cross_entropy(step: Step, node: Node, logits: Any, targets: Any) -> Any:
    """-log softmax(logits)[target], (rows,)."""
    logits = _wide(logits)
    top = logits.max(axis=-1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
    return log_sum - np.take_along_axis(logits, targets[:, None].astype(np.int64), axis=1)[:, 0]


def experts(step: Step, node: Node, x: Any, scores: Any) -> Any:
    """Shares of the experts that each row chooses, times what they make of it, (rows, n_out).

    Shazeer et al. 2017, arXiv:1701.06538; shares as Mixtral's, arXiv:2401.04088.
    """
    gate_weights, up_weights, down_weights = (_wide(step.weights[str(name)]) for name in node.weights)
    shares = softmax(_wide(scores))
    chosen = np.argsort(-scores, axis=-1, kind="stable")[:, : node.attrs.n_used]
    x, out = _wide(x), np.zeros((len(x), down_weights.shape[1]))
    for row, used in enumerate(chosen):
        share = shares[row, used] / (shares[row, used].sum() if node.attrs.normalise else 1.0)
        for expert, weight in zip(used, share, strict=True):
            gate, up = gate_weights[expert] @ x[row], up_weights[expert] @ x[row]
            out[row] += weight * (down_weights[expert] @ gated(step, node, gate, up))
    return out


def cross_entropy_grad(step: Step, node: Node, logits: Any, targets: Any) -> Any:
    """softmax(logits) - onehot(target), (rows, n_vocab)."""
    out = softmax(_wide(logits))
    out[np.arange(len(targets)), targets] -= 1
    return out


OPS: dict[Op, Callable[..., Any]] = {
    Op.EMBEDDING: embedding,
    Op.LINEAR: linear,
    Op.RMS_NORM: rms_norm,
    Op.ROPE: rope,
    Op.ATTENTION: attention,
    Op.ADD: lambda step, node, a, b: _wide(a) + b,
    Op.MUL: lambda step, node, a, b: _wide(a) * b,
    Op.SCALE: lambda step, node, x: _wide(x) * node.attrs.factor,
    Op.GATED: gated,
    Op.EXPERTS: experts,
    Op.RESHAPE: lambda step, node, x: x.reshape(x.shape[0], *node.attrs.sizes),
    Op.SELECT_ROWS: lambda step, node, x, indices: x[indices],
    Op.READ_STATE: read_state,
    Op.WRITE_STATE: write_state,
    Op.MATMUL: matmul,
    Op.CROSS_ENTROPY: cross_entropy,
    Op.CROSS_ENTROPY_GRAD: cross_entropy_grad,
}
