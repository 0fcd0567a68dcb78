"""`adamw`: Adam with decoupled weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from llamakit.graph.expression import sqrt
from llamakit.graph.graph import DType
from llamakit.optimizer import WEIGHT, Optimizer
from llamakit.options import Options

if TYPE_CHECKING:
    from llamakit.graph.expression import Expression
    from llamakit.graph.graph import Tensor
    from llamakit.optimizer import Update


class AdamWOptions(Options):
    """The names are those of the paper."""

    beta1: Annotated[float, Meta(ge=0, lt=1, description="Decay of the mean of gradients.")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="Decay of the mean of their squares.")] = 0.999
    eps: Annotated[float, Meta(gt=0, le=1, description="Added to the root of the mean of squares.")] = 1e-8
    weight_decay: Annotated[float, Meta(ge=0, le=10, description="Share of a weight lost per unit of lr.")] = 0.0
    decay_min_ndim: Annotated[
        int, Meta(ge=0, le=4, description="Tensors of fewer dimensions do not decay; 2 spares norms and biases.")
    ] = 2


class AdamW(Optimizer):
    """Kingma and Ba 2014, arXiv:1412.6980; Loshchilov and Hutter 2017, arXiv:1711.05101."""

    name = "adamw"
    summary = "Adam with decoupled weight decay"
    Options = AdamWOptions

    def states(self, tensor: Tensor) -> dict[str, DType]:
        """Means of the gradient and of its square."""
        return {"m": DType.F32, "v": DType.F32}

    def scalars(self, step: int) -> dict[str, float]:
        """What the means miss of their full weight."""
        return {"correction1": 1 - self.options.beta1**step, "correction2": 1 - self.options.beta2**step}

    def update(self, update: Update) -> None:
        """One pass over the tensor and its states."""
        m, v = self.moments(update, update["m"], update["v"])
        update.assign({"m": m, "v": v, WEIGHT: self.moved(update, self.direction(update, m, v))})

    def moments(self, update: Update, m: Expression, v: Expression) -> tuple[Expression, Expression]:
        """The new means."""
        g, o = update.gradient, self.options
        return o.beta1 * m + (1 - o.beta1) * g, o.beta2 * v + (1 - o.beta2) * (g * g)

    def direction(self, update: Update, m: Expression, v: Expression) -> Expression:
        """What is subtracted, times the learning rate."""
        root = sqrt(v / update.number("correction2")) + self.options.eps
        return m / update.number("correction1") / root

    def moved(self, update: Update, direction: Expression) -> Expression:
        """The new weight."""
        weight, decay = update.weight, self.options.weight_decay
        if decay and len(update.tensor.shape) >= self.options.decay_min_ndim:
            weight = weight * (1.0 - update.lr * decay)
        return weight - update.lr * direction
