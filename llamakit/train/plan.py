"""What a run will take, before it starts: memory from the graphs, time from a step of a few layers; what would fit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llamakit.train.pack import Batch
from llamakit.train.stepper import Stepper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llamakit.backend import Device, TensorSource
    from llamakit.train.graphs import Graphs
    from llamakit.train.options import TrainOptions

REPEATS = 3  # measured steps
FEW_LAYERS = 3
LEAST_CTX = 128  # tokens of a window, below which advice does not go


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


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """Other options, by name, and the memory of a run with them. `fits`: whether that is within what there is."""

    changes: dict[str, Any]
    memory: int
    fits: bool

    @property
    def flags(self) -> str:
        """As a command line has them."""
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self.changes.items())


def advice(options: TrainOptions, n_ctx: int, memory_with: Callable[[dict[str, Any]], int], limit: int) -> Advice:
    """What changes least of a run and fits into `limit` bytes; if nothing does, what takes least.

    First smaller micro-steps, as many windows a step (the same result), then values that are computed again (the same
    result, slower), then moments in eight bits, then shorter windows. `memory_with(changes)`: bytes of a run, which
    computes nothing again unless it is said.
    """
    dear: dict[str, Any] = {}
    found = Advice(changes={}, memory=0, fits=False)
    for change in _dearer(options, n_ctx):
        dear |= change
        sizes = [options.batch]
        while sizes[-1] > 1:
            sizes.append(sizes[-1] // 2)
        least = Advice(changes=_with_batch(options, sizes[-1], dear), memory=0, fits=False)
        found = msgspec.structs.replace(least, memory=memory_with(least.changes))
        if found.memory > limit:
            continue
        for batch in sizes[:-1]:
            changes = _with_batch(options, batch, dear)
            memory = memory_with(changes)
            if memory <= limit:
                return Advice(changes=changes, memory=memory, fits=True)
        return msgspec.structs.replace(found, fits=True)
    return found


def _dearer(options: TrainOptions, n_ctx: int) -> Iterator[dict[str, Any]]:
    """Changes, each of them beside those before."""
    yield {}
    if options.checkpointing != "on":
        yield {"checkpointing": "on"}
    if options.optimizer == "adamw":
        yield {"optimizer": "adamw_8bit"}
    while n_ctx > LEAST_CTX:
        n_ctx = max(LEAST_CTX, n_ctx // 2)
        yield {"ctx": n_ctx}


def _with_batch(options: TrainOptions, batch: int, dear: dict[str, Any]) -> dict[str, Any]:
    """As many windows a step, or a few more."""
    if batch == options.batch:
        return dict(dear)
    return {**dear, "batch": batch, "grad_accumulation": -(-options.batch * options.grad_accumulation // batch)}


def values_of(device: Device, graphs: Graphs, sources: Mapping[str, TensorSource], *, validates: bool) -> int:
    """Bytes of all programs that a run uses, which are there at the same time; that of the loss only to validate."""
    programs = (graphs.gradients, graphs.norms, graphs.update, *((graphs.loss,) if validates else ()))
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
