"""Every op in numpy: this file and `gradients.py` are the definition. Sums are float64.

An op returns its result, or a tuple of them; those that change states return nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from llamakit.plugins.backends.reference.activations import activated, slope

from llamakit.errors import BackendError
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from llamakit.plugins.backends.reference.memory import ReferenceAdapters, ReferenceKV, ReferenceState

    from llamakit.backend import Adapter
    from llamakit.graph.graph import Node, Tensor
    from llamakit.graph.ops import RopeAttrs


@dataclass
class Step:
    """What an op may read besides its inputs."""

    weights: dict[str, Any] = field(default_factory=dict)  # name -> (*shape) float32
    kv: ReferenceKV | None = None
    adapters: ReferenceAdapters | None = None
    states: dict[str, ReferenceState] = field(default_factory=dict)

    def state(self, tensor: Tensor | None) -> ReferenceState | None:
        """A state of the device."""
        return None if tensor is None else self.states[tensor.name]

    def wide(self, tensor: Tensor | None) -> Any:
        """The values of a tensor, float64; of a file or a state. None if there is none."""
        if tensor is None:
            return None
        return wide(self._data(tensor))

    def rows(self, tensor: Tensor | None, rows: Any) -> Any:
        """Some rows of a tensor, float64."""
        assert tensor is not None
        return wide(self._data(tensor)[rows])

    def _data(self, tensor: Tensor) -> Any:
        return self.weights[tensor.name] if tensor.name in self.weights else self.states[tensor.name].data


def wide(x: Any) -> Any:
    """As float64."""
    return np.asarray(x, np.float64)


def _adapted(step: Step, node: Node, slots: Any) -> list[tuple[Any, Adapter]]:
    """(mask of rows, adapter) for each slot in use that adapts the node's weight."""
    if slots is None or step.adapters is None:
        return []
    pairs = []
    name = str(node.tensors[0] and node.tensors[0].name)
    for slot in np.unique(slots):
        adapter = step.adapters.slots[slot].get(name) if slot else None
        if adapter is not None:
            pairs.append((slots == slot, adapter))
    return pairs


def embedding(step: Step, node: Node, tokens: Any, slots: Any) -> Any:
    """Row `tokens[r]` of the weight, (rows, n_embd)."""
    out = step.rows(node.tensors[0], tokens)
    for rows, adapter in _adapted(step, node, slots):
        out[rows] += adapter.scale * (wide(adapter.B)[tokens[rows]] @ wide(adapter.A))
    return out


def linear(step: Step, node: Node, x: Any, slots: Any) -> Any:
    """x W^T + bias + scale * (x A^T) B^T, (rows, n_out)."""
    weight, bias = node.tensors
    out = wide(x) @ step.wide(weight).T
    if bias is not None:
        out += step.wide(bias)
    for rows, adapter in _adapted(step, node, slots):
        out[rows] += adapter.scale * ((wide(x[rows]) @ wide(adapter.A).T) @ wide(adapter.B).T)
    return out


def rms_norm(step: Step, node: Node, x: Any, slots: Any) -> Any:
    """x / sqrt(mean(x^2) + epsilon) * weight. Zhang and Sennrich 2019, arXiv:1910.07467."""
    x = wide(x)
    weight = np.broadcast_to(step.wide(node.tensors[0]), x.shape).copy()
    for rows, adapter in _adapted(step, node, slots):
        weight[rows] += adapter.scale * wide(adapter.B)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + node.attrs.epsilon) * weight


def layer_norm(step: Step, node: Node, x: Any) -> Any:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias. Ba et al. 2016, arXiv:1607.06450."""
    x, (weight, bias) = wide(x), (step.wide(tensor) for tensor in node.tensors)
    apart = x - x.mean(axis=-1, keepdims=True)
    out = apart / np.sqrt(np.mean(apart * apart, axis=-1, keepdims=True) + node.attrs.epsilon) * weight
    return out if bias is None else out + bias


def rotate(x: Any, positions: Any, rope: RopeAttrs, magnitude: float) -> Any:
    """Rotate the first n_rot dimensions of x (rows, n_head, head_dim) by position * inv_freq.

    Su et al. 2021, arXiv:2104.09864.
    """
    out, n_rot = wide(x).copy(), 2 * len(rope.inv_freq)
    angle = wide(positions)[:, None, None] * wide(rope.inv_freq)  # (rows, 1, n_rot / 2)
    angle = -angle if rope.inverse else angle
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


def probabilities(q: Any, k: Any, q_positions: Any, k_positions: Any, attrs: Any, sinks: Any = None) -> tuple[Any, Any]:
    """Of q (n, n_head, d) over k (m, n_head_kv, d), causal: (n_head, n, m), and the log-sum-exp (n_head, n).

    `sinks`: (n_head,), a score more for each head, which belongs to no key.
    """
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)  # (m, n_head, d)
    scores = np.einsum("nhd,mhd->hnm", wide(q), wide(k)) * attrs.scale
    if attrs.soft_cap:
        scores = attrs.soft_cap * np.tanh(scores / attrs.soft_cap)
    if attrs.slopes:
        scores += wide(attrs.slopes)[:, None, None] * (wide(k_positions)[None, :] - wide(q_positions)[:, None])
    seen = k_positions[None, :] <= q_positions[:, None]  # (n, m)
    if attrs.window is not None:
        seen &= k_positions[None, :] > q_positions[:, None] - attrs.window
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=-1)
    log_sum = top + np.log(np.exp(scores - top[..., None]).sum(axis=-1))
    if sinks is not None:
        log_sum = np.logaddexp(log_sum, sinks[:, None])
    return np.exp(scores - log_sum[..., None]), log_sum


def check_positions(node: Node, positions: Any) -> None:
    """Without a cache the rows of a sequence must have ascending positions, one apart."""
    if not np.array_equal(positions, positions[0] + np.arange(len(positions))):
        raise BackendError(f"node {node.name}: the positions of a sequence must ascend by one, they are {positions}")


def attention(
    step: Step, node: Node, q: Any, k: Any, v: Any, positions: Any, sequences: Any, cells: Any, block_tables: Any
) -> Any:
    """Causal grouped-query attention: (rows, n_head, head_dim_v), and the log-sum-exp (rows, n_head) if asked for.

    All rows write to the cache before any reads.
    """
    attrs, sinks = node.attrs, step.wide(node.tensors[0])
    out, log_sums = np.zeros((*q.shape[:2], v.shape[2])), np.zeros(q.shape[:2])
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
            check_positions(node, positions[rows])
            k_positions, keys, values = positions[rows], wide(k[rows]), wide(v[rows])
        p, log_sum = probabilities(q[rows], keys, positions[rows], k_positions, attrs, sinks)
        out[rows] = np.einsum("hnm,mhd->nhd", p, np.repeat(values, q.shape[1] // k.shape[1], axis=1))
        log_sums[rows] = log_sum.T
    return (out, log_sums) if attrs.log_sum_exp else out


def gated(step: Step, node: Node, gate: Any, up: Any) -> Any:
    """activation(gate) * up. Shazeer 2020, arXiv:2002.05202."""
    return activated(wide(gate), node.attrs.activation) * up


def activation(step: Step, node: Node, x: Any) -> Any:
    """activation(x), or its derivative."""
    return (slope if node.attrs.slope else activated)(wide(x), node.attrs.kind)


def matmul(step: Step, node: Node, a: Any, b: Any) -> Any:
    """A product of matrices; added to the state `into` if there is one."""
    a = a.T if node.attrs.transpose_a else a
    b = b.T if node.attrs.transpose_b else b
    product = wide(a) @ wide(b)
    into = step.state(node.tensors[0])
    return product if into is None else into.add(product)


def cross_entropy(step: Step, node: Node, logits: Any, targets: Any) -> Any:
    """-log softmax(logits)[target], (rows,); 0 for target -1."""
    logits = wide(logits)
    top = logits.max(axis=-1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
    loss = log_sum - np.take_along_axis(logits, np.maximum(targets, 0)[:, None].astype(np.int64), axis=1)[:, 0]
    return np.where(targets >= 0, loss, 0.0)


def experts(step: Step, node: Node, x: Any, scores: Any) -> Any:
    """Shares of the experts that each row chooses, times what they make of it, (rows, n_out).

    Shazeer et al. 2017, arXiv:1701.06538; shares as Mixtral's, arXiv:2401.04088.
    """
    gate_weights, up_weights, down_weights = (step.wide(tensor) for tensor in node.tensors)
    shares = softmax(wide(scores))
    chosen = np.argsort(-scores, axis=-1, kind="stable")[:, : node.attrs.n_used]
    x, out = wide(x), np.zeros((len(x), down_weights.shape[1]))
    for row, used in enumerate(chosen):
        share = shares[row, used] / (shares[row, used].sum() if node.attrs.normalise else 1.0)
        for expert, weight in zip(used, share, strict=True):
            gate, up = gate_weights[expert] @ x[row], up_weights[expert] @ x[row]
            out[row] += weight * (down_weights[expert] @ gated(step, node, gate, up))
    return out


OPS: dict[Op, Callable[..., Any]] = {
    Op.EMBEDDING: embedding,
    Op.LINEAR: linear,
    Op.RMS_NORM: rms_norm,
    Op.LAYER_NORM: layer_norm,
    Op.ROPE: rope,
    Op.ATTENTION: attention,
    Op.ADD: lambda step, node, a, b: wide(a) + b,
    Op.MUL: lambda step, node, a, b: wide(a) * b,
    Op.SCALE: lambda step, node, x: wide(x) * node.attrs.factor,
    Op.GATED: gated,
    Op.ACTIVATION: activation,
    Op.SOFT_CAP: lambda step, node, x: node.attrs.cap * np.tanh(wide(x) / node.attrs.cap),
    Op.EXPERTS: experts,
    Op.RESHAPE: lambda step, node, x: x.reshape(x.shape[0], *node.attrs.sizes),
    Op.SELECT_ROWS: lambda step, node, x, indices: x[indices],
    Op.MATMUL: matmul,
    Op.CROSS_ENTROPY: cross_entropy,
}
