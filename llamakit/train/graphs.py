"""The graphs of a step: gradients of a micro-step, lengths of gradients, the update; and the loss alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from llamakit.graph.graph import DType, Graph, GraphBuilder, Tensor
from llamakit.graph.ops import Op, ReduceAttrs
from llamakit.graph.verify import verify
from llamakit.optimizer import CLIP, GRADIENT, LR, WEIGHT, Update
from llamakit.passes import autodiff
from llamakit.passes.checkpoint import checkpointed
from llamakit.passes.order import best_order
from llamakit.passes.pipeline import prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.optimizer import Optimizer

SCALARS = "scalars"
BYTES = {DType.F32: 4, DType.BF16: 2, DType.I8: 1 + 4 / 256}  # with a float32 scale for 256 values


class Graphs(msgspec.Struct, frozen=True):
    """`loss` and `gradients` run over rows, `norms` and `update` over states; all share the states by name.

    `norms` has an output for each trained tensor, the sum of squares of its gradient, (1,). `update` has one input,
    `scalars`, in the order of `scalar_names`.
    """

    loss: Graph
    gradients: Graph
    norms: Graph
    update: Graph
    scalar_names: tuple[str, ...]
    trained: dict[str, Tensor]

    def uses(self) -> dict[str, frozenset[tuple[Op, str]]]:
        """For each tensor of the base the (op, node name) pairs that read it."""
        loss, gradients = self.loss.uses(), self.gradients.uses()
        return {name: uses | gradients[name] for name, uses in loss.items()}

    @property
    def state_bytes(self) -> int:
        """Bytes of all states."""
        return round(sum(math.prod(tensor.shape) * BYTES[tensor.dtype] for tensor in self.states.values()))

    @property
    def states(self) -> dict[str, Tensor]:
        """Everything that lies on the device between steps."""
        return {**self.loss.states, **self.gradients.states, **self.update.states}


def build_graphs(
    loss: Graph, trained: Mapping[str, Tensor], optimizer: Optimizer, *, recomputes: bool = False
) -> Graphs:
    """All graphs for a graph of the loss and the states in it that are trained.

    `recomputes`: whether values are computed again where that saves memory, instead of being kept.
    """
    loss = prepare(loss)
    gradients = prepare(autodiff.differentiate(loss, trained.keys()))
    if recomputes:
        gradients = checkpointed(gradients, len(loss.nodes))
    gradients = verify(best_order(gradients))
    update, names = build_update(trained, optimizer)
    return Graphs(loss, gradients, prepare(build_norms(trained)), prepare(update), names, dict(trained))


def build_norms(trained: Mapping[str, Tensor]) -> Graph:
    """The sum of squares of every gradient."""
    builder = GraphBuilder("norms")
    outputs = {}
    for name, tensor in trained.items():
        gradient = builder.state(name + autodiff.GRADIENT, tensor.shape)
        outputs[name] = builder.add(Op.REDUCE, f"{name}.norm", tensors=(gradient,), attrs=ReduceAttrs("sum_squares"))
    return builder.build(**outputs)


def build_update(trained: Mapping[str, Tensor], optimizer: Optimizer) -> tuple[Graph, tuple[str, ...]]:
    """The update of every tensor, and the names of its scalars."""
    builder = GraphBuilder("update")
    names = (LR, CLIP, *optimizer.scalars(1))
    scalars = builder.input(SCALARS, (len(names),), DType.F32)
    for name, tensor in trained.items():
        states = {
            WEIGHT: builder.tensor(tensor),
            GRADIENT: builder.state(name + autodiff.GRADIENT, tensor.shape),
            **{
                key: builder.state(f"{name}.{key}", tensor.shape, dtype)
                for key, dtype in optimizer.states(tensor).items()
            },
        }
        optimizer.update(Update(builder, scalars, names, states))
    return builder.build(), names
