"""Lion: the sign of a mean. Chen et al. 2023, arXiv:2302.06675."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from llamakit.graph.expression import sign
from llamakit.graph.graph import DType, Tensor
from llamakit.hookspecs import hookimpl
from llamakit.optimizer import WEIGHT, Optimizer, Update
from llamakit.options import Options


class LionOptions(Options):
    """The names are those of the paper."""

    beta1: Annotated[float, Meta(ge=0, lt=1, description="Share of the old mean in the direction.")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="Share of the old mean in the new one.")] = 0.99


class Lion(Optimizer):
    """Every weight moves by the learning rate, up or down."""

    name = "lion"
    summary = "moves every weight by the learning rate, up or down"
    Options = LionOptions

    def states(self, tensor: Tensor) -> dict[str, DType]:
        """The mean of the gradient."""
        return {"m": DType.F32}

    def update(self, update: Update) -> None:
        """One pass."""
        g, m, o = update.gradient, update["m"], self.options
        direction = sign(o.beta1 * m + (1 - o.beta1) * g)
        update.assign({"m": o.beta2 * m + (1 - o.beta2) * g, WEIGHT: update.weight - update.lr * direction})


@hookimpl
def llamakit_optimizers() -> list[type[Optimizer]]:
    """This package's optimizer."""
    return [Lion]
