"""`sgd`: stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from llamakit.graph.graph import DType
from llamakit.hookspecs import hookimpl
from llamakit.optimizer import WEIGHT, Optimizer
from llamakit.options import Options

if TYPE_CHECKING:
    from llamakit.graph.graph import Tensor
    from llamakit.optimizer import Update


class SGDOptions(Options):
    """As torch's."""

    momentum: Annotated[float, Meta(ge=0, lt=1, description="Share of the last step that is taken again; 0 = off.")] = (
        0.9
    )
    nesterov: Annotated[bool, Meta(description="Look ahead along the momentum.")] = False
    weight_decay: Annotated[float, Meta(ge=0, le=10, description="Added to the gradient, times the weight.")] = 0.0


class SGD(Optimizer):
    """Polyak 1964; Sutskever et al. 2013."""

    name = "sgd"
    summary = "gradient descent with momentum: least memory, needs a well-chosen lr"
    Options = SGDOptions

    def states(self, tensor: Tensor) -> dict[str, DType]:
        """The momentum, if there is one."""
        return {"momentum": DType.F32} if self.options.momentum else {}

    def update(self, update: Update) -> None:
        """One pass."""
        o, gradient = self.options, update.gradient
        if o.weight_decay:
            gradient = gradient + o.weight_decay * update.weight
        if not o.momentum:
            update.assign({WEIGHT: update.weight - update.lr * gradient})
            return
        moved = o.momentum * update["momentum"] + gradient
        step = gradient + o.momentum * moved if o.nesterov else moved
        update.assign({"momentum": moved, WEIGHT: update.weight - update.lr * step})


@hookimpl
def llamakit_optimizers() -> list[type[Optimizer]]:
    """Give the registry this plugin's optimizer."""
    return [SGD]
