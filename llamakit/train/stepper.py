"""The states of a run on a device, and what is done with them: gradients, updates, losses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.optimizer import CLIP, LR
from llamakit.train.graphs import SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamakit.backend import Device, Executable, State, Weight
    from llamakit.optimizer import Optimizer
    from llamakit.train.graphs import Graphs
    from llamakit.train.pack import Batch

LEAST_NORM = 1e-6  # added to the norm before dividing by it, as torch's clip_grad_norm_ does


class Stepper:
    """One model in training. `weights` are those of the base that are not trained.

    Gradients add up over `accumulate` until `update` applies them and sets them to zero. `check` raises an error if
    what a step was computed with is not to be trusted: see `Session.file_check`.
    """

    def __init__(
        self,
        device: Device,
        graphs: Graphs,
        weights: Mapping[str, Weight],
        optimizer: Optimizer,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.graphs, self.optimizer, self._check = graphs, optimizer, check
        self.states: dict[str, State] = {
            name: device.state(tensor.shape, tensor.dtype) for name, tensor in graphs.states.items()
        }

        def compiled(graph: Any) -> Executable:
            states = {name: self.states[name] for name in graph.states}
            return device.compile(graph, {name: weights[name] for name in graph.parameters}, states=states)

        self._gradients, self._loss = compiled(graphs.gradients), compiled(graphs.loss)
        self._norms, self._update = compiled(graphs.norms), compiled(graphs.update)

    def accumulate(self, batch: Batch, total: float) -> float:
        """Add the gradients of a micro-step; returns its share of the step's loss.

        `total`: the weight of all rows of the step, of all its micro-steps, by which losses are divided.
        """
        return self._run(self._gradients, batch, total)

    def loss(self, batch: Batch) -> float:
        """The sum of weight * loss of the rows, in nats; nothing changes."""
        return self._run(self._loss, batch, 1.0)

    def _run(self, program: Executable, batch: Batch, total: float) -> float:
        found = _run(program, batch, total)
        if self._check is not None:
            self._check()
        return found

    def update(self, step: int, lr: float, clip: float) -> float:
        """Apply the gradients as step number `step`, from 1; returns their norm before clipping.

        With a norm that is not finite nothing is applied. `clip`: the largest norm, 0 for any.
        """
        norm = math.sqrt(math.fsum(self.squares()))
        if math.isfinite(norm):
            self.apply(step, lr, min(1.0, clip / (norm + LEAST_NORM)) if clip else 1.0)
        return norm

    def squares(self) -> list[float]:
        """Sums of squares whose root is the norm of the gradient."""
        return [float(buffer.numpy()[0]) for buffer in self._norms.run({}).values()]

    def apply(self, step: int, lr: float, factor: float) -> None:
        """Change the trained tensors by their gradients times `factor`, and set those to zero."""
        values = {LR: lr, CLIP: factor, **self.optimizer.scalars(step)}
        self._update.inputs[SCALARS][:] = [values[name] for name in self.graphs.scalar_names]
        self._update.run({})

    def trained(self) -> dict[str, Any]:
        """The trained tensors, by name, float32."""
        return {name: self.states[name].read() for name in self.graphs.trained}

    def kept(self) -> list[str]:
        """Names of the states that a checkpoint needs: all but gradients, which are zero between steps."""
        return [name for name in self.graphs.states if name in self.graphs.update.states and not _is_gradient(name)]


def _is_gradient(name: str) -> bool:
    from llamakit.passes.autodiff import GRADIENT

    return name.endswith(GRADIENT)


def _run(program: Executable, batch: Batch, total: float) -> float:
    """The weighted sum of a batch's losses, divided by `total`, in float64."""
    inputs, n = program.inputs, batch.rows
    weights = batch.weights / np.float32(total) if total != 1 else batch.weights
    for name, values in (
        ("tokens", batch.tokens), ("positions", batch.positions), ("sequences", batch.sequences),
        ("targets", batch.targets), ("weights", weights),
    ):  # fmt: skip
        inputs[name][:n] = values
    losses = program.run({"rows": n})["loss"].numpy()
    return float(np.dot(losses.astype(np.float64), batch.weights.astype(np.float64))) / total
