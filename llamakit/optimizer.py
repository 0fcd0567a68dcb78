"""What an optimizer is: the contract between the trainer and the plugins under `plugins/optimizers`.

An optimizer does not compute: it adds nodes to a graph that the device runs after the gradients of a step are
complete, so it works on every backend. For each trained tensor it says which states it keeps, and how they change:

    class SGD(Optimizer):
        name = "sgd"

        def states(self, tensor):
            return {"momentum": DType.F32}

        def update(self, update):
            g, m, w = update.gradient, update["momentum"], update.weight
            moved = 0.9 * m + g
            update.assign({"momentum": moved, WEIGHT: w - update.lr * moved})

`update.gradient` is already clipped. The trainer sets gradients to zero in the same pass over memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from llamakit.graph.attrs import MapAttrs
from llamakit.graph.expression import Expression, scalar, state, wrap
from llamakit.graph.graph import DType
from llamakit.graph.ops import Op
from llamakit.options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.graph.graph import GraphBuilder, Tensor, Value

WEIGHT, GRADIENT = "weight", "gradient"
LR, CLIP = "lr", "clip"


class Optimizer(ABC):
    """A plugin's optimizer. It has no state of its own: all of that lies on the device, by tensor and name."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any = None) -> None:
        self.options: Any = options if options is not None else self.Options()

    @abstractmethod
    def states(self, tensor: Tensor) -> dict[str, DType]:
        """What it keeps for a tensor, of the tensor's shape, by name; zero at first."""

    def scalars(self, step: int) -> dict[str, float]:
        """Numbers that depend on the step, which counts from 1, such as corrections of bias; computed on the host."""
        return {}

    @abstractmethod
    def update(self, update: Update) -> None:
        """Add the nodes that change one tensor and its states."""


class Update:
    """One trained tensor in the graph of an update: expressions to compute with, and places to assign to."""

    def __init__(
        self, builder: GraphBuilder, scalars: Value, names: tuple[str, ...], states: Mapping[str, Tensor]
    ) -> None:
        """`states`: the tensor itself (WEIGHT), its GRADIENT, and what the optimizer keeps; `names`: of `scalars`."""
        self.builder, self._scalars, self._names, self.tensors = builder, scalars, names, dict(states)
        self._order = list(self.tensors)

    @property
    def tensor(self) -> Tensor:
        """The tensor that is trained."""
        return self.tensors[WEIGHT]

    @property
    def weight(self) -> Expression:
        """An element of it."""
        return self[WEIGHT]

    @property
    def gradient(self) -> Expression:
        """The gradient of that element, clipped."""
        return self[GRADIENT] * self.number(CLIP)

    @property
    def lr(self) -> Expression:
        """The learning rate of this step."""
        return self.number(LR)

    def __getitem__(self, name: str) -> Expression:
        """An element of a state, before any assignment."""
        return state(self._order.index(name))

    def number(self, name: str) -> Expression:
        """One of the optimizer's `scalars`, or LR or CLIP."""
        return scalar(self._names.index(name))

    def assign(self, values: Mapping[str, Expression | float], *, last: bool = True) -> None:
        """Change states, element by element and all at once. `last`: the gradient is set to zero with it."""
        changed: dict[str, Expression | float] = dict(values) | ({GRADIENT: 0.0} if last else {})
        pairs = tuple((self._order.index(name), wrap(value)) for name, value in changed.items())
        tensors = tuple(self.tensors[name] for name in self._order)
        node = f"{self.tensor.name}.update"
        self.builder.add_all(Op.MAP, node, (self._scalars,), tensors=tensors, attrs=MapAttrs(pairs))
