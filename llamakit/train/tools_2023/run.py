"""A run of 2023: updates over a stream of samples, saved in the formats of then.

Unlike then, the end of a run is saved before another window is taken, so that every checkpoint continues exactly; and
moments are kept by name.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.errors import LlamaKitError
from llamakit.gguf.ggla import write_ggla
from llamakit.passes.lora import A, AdapterShape, B
from llamakit.train.export import write_trained_adapter
from llamakit.train.report import StepInfo
from llamakit.train.schedule import factor
from llamakit.train.tools_2023.checkpoint import (
    PAST,
    Checkpoint2023,
    OptimizerState,
    write_checkpoint,
    write_model,
)
from llamakit.train.tools_2023.plan import Stops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamakit.gguf import GGUFFile
    from llamakit.train.report import OnStep
    from llamakit.train.stepper import Stepper
    from llamakit.train.tools_2023.plan import Plan2023
    from llamakit.train.tools_2023.samples import SampleStream

M, V = ".m", ".v"  # states of the optimizer adamw


class Run2023:
    """Updates from a checkpoint on, `plan.options.steps` of them. `base`: the model that is adapted."""

    def __init__(
        self,
        plan: Plan2023,
        stepper: Stepper,
        stream: SampleStream,
        start: Checkpoint2023,
        base: GGUFFile,
        write: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.plan, self.stepper, self.stream, self.start, self.base = plan, stepper, stream, start, base
        self.say = write
        self.iteration, self.saved = start.iterations, start.iterations
        self.shuffle, self.used, self.epochs = stream.state, 0, 0  # of the last update that was done
        self.best = self.previous = math.inf
        self.losses: list[float] = []
        self.callbacks: list[OnStep] = []
        self._stop = ""

    def stop(self, reason: str = "interrupted") -> None:
        """End after the update that runs, and save."""
        self._stop = reason

    def run(self) -> str:
        """All updates, or until a rule says stop; what was done is saved. Returns why it ended."""
        options, rules = self.plan.options, self.plan.stops
        stops: Stops | None = None
        last = self.start.iterations + options.steps
        while self.iteration < last and not self._stop:
            began = time.monotonic()
            batches = [self.stream.batch(options.batch) for _ in range(options.grad_accumulation)]
            total = math.fsum(batch.loss_weight for batch in batches)
            loss = math.fsum(self.stepper.accumulate(batch, total) for batch in batches)
            if not math.isfinite(loss):
                raise LlamaKitError(f"iteration {self.iteration + 1}: the loss is {loss}", hint="a lower --adam-alpha")
            if stops is None:
                stops = Stops(rules, self.iteration, loss, self._past_losses())
            elif reason := stops.after(self.iteration, loss):
                self._stop = reason
                break
            self.best, self.previous, self.losses = min(self.best, loss), loss, stops.losses
            self._update(loss, began, sum(batch.rows for batch in batches), last)
            if 0 <= rules.epochs <= self.epochs and self.epochs:
                self._stop = "--epochs are done"
            if options.save_every > 0 and self.iteration - self.saved >= options.save_every:
                self.save()
        if self.iteration != self.saved:
            self.save()
        return self._stop or "done"

    def _update(self, loss: float, began: float, rows: int, last: int) -> None:
        options = self.plan.options
        lr = options.lr * factor(options, self.iteration, last)
        norm = self.stepper.update(self.iteration + 1, lr, options.clip)
        if not math.isfinite(norm):
            raise LlamaKitError(
                f"iteration {self.iteration + 1}: a gradient is not finite", hint="a lower --adam-alpha"
            )
        self.iteration += 1
        self.shuffle, self.used, self.epochs = self.stream.state, self.stream.used, self.stream.epochs
        info = StepInfo(
            step=self.iteration, total=last, epoch=self.epochs + self.shuffle.next_sample / self.shuffle.sample_count,
            loss=loss, lr=lr, grad_norm=norm, tokens=rows, seconds=time.monotonic() - began,
        )  # fmt: skip
        for callback in self.callbacks:
            callback(info)

    def _past_losses(self) -> list[float]:
        return list(self.start.state[PAST].ravel().tolist()) if PAST in self.start.state else []

    def checkpoint(self) -> Checkpoint2023:
        """The run as it is after its last update."""
        new = self.iteration - self.start.iterations
        options, first = self.plan.options, self.start
        tensors, m, v = read_states(self.stepper, first.tensors)
        counters: dict[str, float | int] = {"best_loss": self.best, "previous_loss": self.previous}
        if math.isinf(self.best):
            counters = dict(first.optimizer.counters)
        past = len(self.losses)
        return dataclasses.replace(
            first, tensors=tensors, first=m, second=v, iterations=self.iteration, shuffle=self.shuffle,
            samples=first.samples + self.used, epochs=first.epochs + self.epochs,
            tokens=first.tokens + new * options.grad_accumulation * options.batch * self.stream.n_ctx,
            optimizer=OptimizerState("adam", self.iteration, False, past, counters),
            state={PAST: np.array(self.losses, np.float32)} if past else {},
        )  # fmt: skip

    def save(self) -> None:
        """Write the checkpoint and what was made, each under its number and as the latest."""
        files, checkpoint = self.plan.files, self.checkpoint()
        for name in files.outputs(files.checkpoint_out, self.iteration):
            write_checkpoint(name, checkpoint)
        write_output(self.plan, checkpoint, self.base if self.plan.tool == "finetune" else None)
        self.saved = self.iteration
        self.say(f"saved iteration {self.iteration}")


def read_states(stepper: Stepper, like: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Values and both moments, by the names and in the shapes of a checkpoint of 2023."""
    found: tuple[dict[str, Any], ...] = ({}, {}, {})
    for name in like:
        for table, state in zip(found, ("", M, V), strict=True):
            values = stepper.states[name + state].read()
            table[name] = np.ascontiguousarray(values.T if name.endswith(A) else values)
    return found[0], found[1], found[2]


def write_states(stepper: Stepper, checkpoint: Checkpoint2023) -> None:
    """The other way round: put a checkpoint's values and moments on the device."""
    for name, values in checkpoint.tensors.items():
        for state, table in (("", {name: values}), (M, checkpoint.first), (V, checkpoint.second)):
            if name in table:
                array = table[name].T if name.endswith(A) else table[name]
                stepper.states[name + state].write(np.ascontiguousarray(array))


def write_output(plan: Plan2023, checkpoint: Checkpoint2023, base: GGUFFile | None) -> None:
    """The adapter or the model: GGUF adapters where the name ends in .gguf, else ggla; models in GGUF.

    `base`: the model that the adapter is for.
    """
    for name in plan.files.outputs(plan.files.output, checkpoint.iterations):
        if base is None:
            write_model(name, checkpoint)
        elif Path(name).suffix == ".gguf":
            adapters = checkpoint.adapters()
            shapes = {key: AdapterShape(each.A.shape[0], each.scale) for key, each in adapters.items()}
            states = {f"{key}{A}": each.A for key, each in adapters.items()}
            states |= {f"{key}{B}": each.B for key, each in adapters.items()}
            write_trained_adapter(Path(name), base, shapes, states)
        else:
            parts = {key.replace(A, ".loraA").replace(B, ".loraB"): x for key, x in checkpoint.tensors.items()}
            write_ggla(name, checkpoint.lora_r, checkpoint.lora_alpha, parts)
