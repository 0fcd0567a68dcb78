"""The ops of training in numpy: gradients, states, optimisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from llamakit.plugins.backends.reference.activations import activated, slope
from llamakit.plugins.backends.reference.ops import OPS, check_positions, gated, probabilities, softmax, wide

from llamakit.graph.expression import instructions
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from llamakit.plugins.backends.reference.ops import Step

    from llamakit.graph.graph import Node


def linear_back(step: Step, node: Node, dy: Any) -> Any:
    """dy W, (rows, n_in)."""
    return wide(dy) @ step.wide(node.tensors[0])


def rms_norm_back(step: Step, node: Node, x: Any, dy: Any) -> Any:
    """As x. With n = x / rms: dx = (dy w - n mean(dy w n)) / rms; the weight's gradient is the sum of dy n."""
    x, dy = wide(x), wide(dy)
    root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + node.attrs.epsilon)
    n = x / root
    grad = step.state(node.tensors[1])
    if grad is not None:
        grad.add((dy * n).reshape(-1, x.shape[-1]).sum(axis=0))
    dn = dy * step.wide(node.tensors[0])
    return (dn - n * np.mean(dn * n, axis=-1, keepdims=True)) / root


def layer_norm_back(step: Step, node: Node, x: Any, dy: Any) -> Any:
    """As x. With z = (x - mean) / deviation and g = dy w: dx = (g - mean(g) - z mean(g z)) / deviation."""
    x, dy = wide(x), wide(dy)
    apart = x - x.mean(axis=-1, keepdims=True)
    root = np.sqrt(np.mean(apart * apart, axis=-1, keepdims=True) + node.attrs.epsilon)
    z = apart / root
    grad = step.state(node.tensors[1])
    if grad is not None:
        grad.add((dy * z).reshape(-1, x.shape[-1]).sum(axis=0))
    g = dy * step.wide(node.tensors[0])
    return (g - g.mean(axis=-1, keepdims=True) - z * np.mean(g * z, axis=-1, keepdims=True)) / root


def attention_back(
    step: Step, node: Node, q: Any, k: Any, v: Any, out: Any, log_sum: Any, d_out: Any, positions: Any, sequences: Any
) -> Any:
    """Gradients of q, k and v. Dao et al. 2022, arXiv:2205.14135, appendix B: ds = p (dp - sum(d_out out))."""
    dq, dk, dv = (np.zeros(x.shape) for x in (q, k, v))
    q, k, v, out, d_out = (wide(x) for x in (q, k, v, out, d_out))
    group = q.shape[1] // k.shape[1]
    for sequence in np.unique(sequences):
        rows = np.flatnonzero(sequences == sequence)
        check_positions(node, positions[rows])
        p, _ = probabilities(q[rows], k[rows], positions[rows], positions[rows], node.attrs)  # (n_head, n, m)
        dp = np.einsum("nhd,mhd->hnm", d_out[rows], np.repeat(v[rows], group, axis=1))
        inner = np.einsum("nhd,nhd->hn", d_out[rows], out[rows])
        ds = p * (dp - inner[..., None]) * node.attrs.scale
        dq[rows] = np.einsum("hnm,mhd->nhd", ds, np.repeat(k[rows], group, axis=1))
        shape = (len(rows), k.shape[1], group, -1)  # heads that share keys
        dk[rows] = np.einsum("hnm,nhd->mhd", ds, q[rows]).reshape(shape).sum(axis=2)
        dv[rows] = np.einsum("hnm,nhd->mhd", p, d_out[rows]).reshape(shape).sum(axis=2)
    return dq, dk, dv


def gated_back(step: Step, node: Node, gate: Any, up: Any, dy: Any) -> Any:
    """Gradients of gate and up."""
    gate, up, dy = wide(gate), wide(up), wide(dy)
    kind = node.attrs.activation
    return dy * up * slope(gate, kind), dy * activated(gate, kind)


def experts_back(step: Step, node: Node, x: Any, scores: Any, dy: Any) -> Any:
    """Gradients of x and scores. The choice of experts is constant, shares are a softmax of the chosen, or of all."""
    gate_weights, up_weights, down_weights = (step.wide(tensor) for tensor in node.tensors)
    x, dy, shares = wide(x), wide(dy), softmax(wide(scores))
    chosen = np.argsort(-scores, axis=-1, kind="stable")[:, : node.attrs.n_used]
    dx, d_scores = np.zeros(x.shape), np.zeros(shares.shape)
    for row, used in enumerate(chosen):
        p = shares[row] if not node.attrs.normalise else shares[row] / shares[row, used].sum()
        d_share = np.zeros(len(p))
        for expert in used:
            gate, up = gate_weights[expert] @ x[row], up_weights[expert] @ x[row]
            d_hidden = dy[row] @ down_weights[expert]
            d_share[expert] = d_hidden @ gated(step, node, gate, up)
            d_gate, d_up = gated_back(step, node, gate, up, p[expert] * d_hidden)
            dx[row] += d_gate @ gate_weights[expert] + d_up @ up_weights[expert]
        among = np.isin(np.arange(len(p)), used) if node.attrs.normalise else np.full(len(p), True)
        d_scores[row] = np.where(among, p * (d_share - p[used] @ d_share[used]), 0.0)
    return dx, d_scores


def scatter_rows(step: Step, node: Node, dy: Any, indices: Any, like: Any) -> Any:
    """Rows added up at `indices`."""
    into = step.state(node.tensors[0])
    out = np.zeros(like.shape if into is None else into.shape)
    np.add.at(out, indices, wide(dy))
    return out if into is None else into.add(out)


def cross_entropy_grad(step: Step, node: Node, logits: Any, targets: Any) -> Any:
    """softmax(logits) - onehot(target), (rows, n_vocab); 0 for target -1."""
    out = softmax(wide(logits))
    out[np.arange(len(targets)), np.maximum(targets, 0)] -= 1
    return out * (targets >= 0)[:, None]


def head_loss(step: Step, node: Node, x: Any, targets: Any, weights: Any, h: Any) -> Any:
    """Loss of each row, and gradients of weight * loss where they are wanted."""
    weight, b, weight_grad, b_grad = node.tensors
    W, B = step.wide(weight), step.wide(b)
    counts = (targets >= 0) & (weights != 0)
    x, h = wide(x), None if h is None else wide(h)
    logits = x @ W.T + (0 if h is None else h @ B.T)
    top = logits.max(axis=-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    rows, chosen = np.arange(len(targets)), np.maximum(targets, 0)
    loss = np.where(counts, -log_p[rows, chosen], 0.0)
    if not node.attrs.gradients:
        return loss
    d_logits = np.exp(log_p)
    d_logits[rows, chosen] -= 1
    d_logits *= np.where(counts, wide(weights), 0.0)[:, None]
    for grad, inputs in ((weight_grad, x), (b_grad, h)):
        state = step.state(grad)
        if state is not None:
            state.add(d_logits.T @ inputs)
    return (loss, d_logits @ W) if h is None else (loss, d_logits @ W, d_logits @ B)


def map_states(step: Step, node: Node, scalars: Any) -> None:
    """Evaluate the expressions, then assign."""
    states = [step.states[tensor.name] for tensor in node.tensors if tensor is not None]
    program, results = instructions(expression for _, expression in node.attrs.assignments)
    binary = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum
    }  # fmt: skip
    unary = {"sqrt": np.sqrt, "abs": np.abs, "sign": np.sign}
    values: list[Any] = []
    with np.errstate(all="ignore"):
        for each in program:
            if each.op == "constant":
                values.append(each.value)
            elif each.op == "scalar":
                values.append(wide(scalars)[int(each.value)])
            elif each.op == "state":
                values.append(wide(states[int(each.value)].data).copy())
            elif each.op in unary:
                values.append(unary[each.op](values[each.a]))
            else:
                values.append(binary[each.op](values[each.a], values[each.b]))
    for (number, _), result in zip(node.attrs.assignments, results, strict=True):
        states[number].write(np.broadcast_to(values[result], states[number].shape))


def reduce(step: Step, node: Node) -> Any:
    """(1,)."""
    x = step.wide(node.tensors[0])
    kinds = {"sum": np.sum, "sum_squares": lambda x: np.sum(x * x), "max_abs": lambda x: np.max(np.abs(x), initial=0)}
    return np.reshape(kinds[node.attrs.kind](x), (1,))


def _state(step: Step, node: Node) -> Any:
    return step.states[str(node.tensors[0] and node.tensors[0].name)]


ALL: dict[Op, Callable[..., Any]] = {
    **OPS,
    Op.LINEAR_BACK: linear_back,
    Op.RMS_NORM_BACK: rms_norm_back,
    Op.LAYER_NORM_BACK: layer_norm_back,
    Op.ATTENTION_BACK: attention_back,
    Op.GATED_BACK: gated_back,
    Op.SCATTER_ROWS: scatter_rows,
    Op.SUM_ROWS: lambda step, node, x: _state(step, node).add(wide(x).sum(axis=0)),
    Op.CROSS_ENTROPY_GRAD: cross_entropy_grad,
    Op.EXPERTS_BACK: experts_back,
    Op.HEAD_LOSS: head_loss,
    Op.READ_STATE: lambda step, node: _state(step, node).data,
    Op.WRITE_STATE: lambda step, node, x: _state(step, node).write(x),
    Op.ADD_STATE: lambda step, node, x: _state(step, node).add(wide(x)),
    Op.MAP: map_states,
    Op.REDUCE: reduce,
}
