"""Attributes of ops: what is fixed when a graph is built. `ops.SPECS` says which op takes which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamakit.graph.expression import Expression


@dataclass(frozen=True, slots=True)
class NoAttrs:
    """For ops that need no attributes."""


@dataclass(frozen=True, slots=True)
class LinearAttrs:
    """How a quantised weight meets its input.

    "native": in the form that the backend runs it in, such as int8 activations. "f32": the weight's dequantised values
    times float32 activations, which is what gradients are exact for. With a float32 weight they are the same.
    """

    activations: str = "native"


@dataclass(frozen=True, slots=True)
class RMSNormAttrs:
    """`epsilon` is added to the mean square."""

    epsilon: float


@dataclass(frozen=True, slots=True)
class LayerNormAttrs:
    """`epsilon` is added to the variance."""

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
    inverse: bool = False  # rotate by the negated angle: the transpose, which gradients need


@dataclass(frozen=True, slots=True)
class AttentionAttrs:
    """Causal grouped-query attention. `layer` is the layer of the KV cache; None: attend within the step only.

    `window`: a row at position p sees positions q with p - window < q <= p. `log_sum_exp`: a second result, for
    `attention_back`. `soft_cap`: scores become cap * tanh(score / cap) (Gemma 2, arXiv:2408.00118); 0: they stay.
    `slopes`, one a head: slope * (q - p) is then added to them (ALiBi, arXiv:2108.12409); (): nothing is.
    """

    scale: float
    layer: int | None = None
    window: int | None = None
    log_sum_exp: bool = False
    soft_cap: float = 0.0
    slopes: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ScaleAttrs:
    """A constant factor."""

    factor: float


@dataclass(frozen=True, slots=True)
class SoftCapAttrs:
    """What values cannot go beyond, on either side; above 0."""

    cap: float


ACTIVATIONS = ("silu", "gelu", "gelu_erf", "relu", "relu_squared")


@dataclass(frozen=True, slots=True)
class ActivationAttrs:
    """ "silu", "gelu" (tanh form), "gelu_erf" (exact), "relu" or "relu_squared"; with `slope` its derivative."""

    kind: str = "gelu"
    slope: bool = False


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


@dataclass(frozen=True, slots=True)
class HeadLossAttrs:
    """`chunk`: of how many rows logits exist at a time; the result does not depend on it but for rounding.

    `activations`: of the product x W^T, as in `LinearAttrs`. Without `gradients` the loss is all that is made;
    `passes.autodiff` asks for them.
    """

    chunk: int = 128
    activations: str = "native"
    gradients: bool = False


@dataclass(frozen=True, slots=True)
class MapAttrs:
    """Assignments to states, (number of the state, expression) each; all expressions read the old values."""

    assignments: tuple[tuple[int, Expression], ...]


@dataclass(frozen=True, slots=True)
class ReduceAttrs:
    """What is made of all values of a state: "sum", "sum_squares" or "max_abs"."""

    kind: str = "sum_squares"
