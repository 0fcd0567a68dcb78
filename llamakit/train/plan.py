"""What a run will take, before it starts: memory from the graphs, time from a step of the first layers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llamakit.train.pack import Batch
from llamakit.train.stepper import Stepper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamakit.backend import Device, TensorSource
    from llamakit.train.graphs import Graphs

REPEATS = 3  # measured steps
FEW_LAYERS = 3


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and seconds.

    `weights`: of the base on the device; `states`: what is trained, its gradients and the optimizer's; `values`: of a
    micro-step, kept as they are made, `values_again`: if they are computed again; `saving`: what a checkpoint takes
    while it is written. `micro_step`: seconds of one, `update`: of applying gradients. `recomputes`: whether the run
    computes values again.
    """

    rows: int
    weights: int
    states: int
    values: int
    values_again: int
    saving: int
    recomputes: bool
    micro_step: float
    update: float
    steps: int
    micro_steps: int  # of a step

    @property
    def memory(self) -> int:
        """The peak, without the program itself."""
        return self.weights + self.states + (self.values_again if self.recomputes else self.values) + self.saving

    @property
    def step_seconds(self) -> float:
        """Of one step."""
        return self.micro_step * self.micro_steps + self.update

    @property
    def seconds(self) -> float:
        """Of the whole run, without validation."""
        return self.step_seconds * self.steps


def values_of(device: Device, graphs: Graphs, sources: Mapping[str, TensorSource]) -> int:
    """Bytes of all programs, which are there at the same time."""
    programs = (graphs.loss, graphs.gradients, graphs.norms, graphs.update)
    return sum(device.footprint(graph, sources).program for graph in programs)


def measure(make: Callable[[int], Stepper], n_layer: int, rows: int, n_ctx: int, n_vocab: int) -> tuple[float, float]:
    """Seconds of a micro-step and of an update of the whole model.

    `make(n)` gives the first n layers with the head. What a layer takes is the difference between few and twice as
    many: a single one would lie in the processor's cache, where those of a run do not.
    """
    batch = _random(rows, n_ctx, n_vocab)
    few, more = FEW_LAYERS, 2 * FEW_LAYERS
    if n_layer <= more:
        return _seconds(make(n_layer), batch)
    low, high = _seconds(make(few), batch), _seconds(make(more), batch)
    micro, update = (
        second + (n_layer - more) * max(second - first, 0.0) / few for first, second in zip(low, high, strict=True)
    )
    return micro, update


def _seconds(stepper: Stepper, batch: Batch) -> tuple[float, float]:
    """Medians over some steps, the first of which warms up."""
    found = []
    for step in range(REPEATS + 1):
        times = [time.perf_counter()]
        stepper.accumulate(batch, batch.loss_weight)
        times.append(time.perf_counter())
        stepper.update(step + 1, 1e-9, 1.0)
        times.append(time.perf_counter())
        found.append(np.diff(times))
    micro, update = np.median(found[1:], axis=0).tolist()
    return micro, update


def _random(rows: int, n_ctx: int, n_vocab: int) -> Batch:
    """Full windows of any tokens, all of which count."""
    tokens = np.random.default_rng(0).integers(0, n_vocab, rows + 1).astype(np.int32)
    sequences = (np.arange(rows) // n_ctx).astype(np.int32)
    return Batch(
        tokens=tokens[:-1], targets=tokens[1:], weights=np.ones(rows, np.float32), sequences=sequences,
        positions=(np.arange(rows) % n_ctx).astype(np.int32), n_sequence=int(sequences[-1]) + 1,
    )  # fmt: skip
