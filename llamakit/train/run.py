"""A training run: step after step, with validation, checkpoints, and an end."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import msgspec

from llamakit.errors import LlamaKitError
from llamakit.train import checkpoint
from llamakit.train.checkpoint import CHECKPOINTS, Checkpoint, Progress
from llamakit.train.cursor import Cursor
from llamakit.train.report import StepInfo
from llamakit.train.schedule import factor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llamakit.train.options import TrainOptions
    from llamakit.train.pack import Windows
    from llamakit.train.report import OnStep
    from llamakit.train.stepper import Stepper

VALIDATIONS = 10  # in a run, unless it is said how often


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: `reason` is "done", "interrupted", "time" or "no improvement"."""

    reason: str
    step: int
    total: int
    loss: float | None  # of the last step; None where none was left to do
    best_loss: float | None
    best_step: int


class Run:
    """`total` steps of one stepper over windows. `export` writes what was trained, for serving."""

    def __init__(
        self,
        stepper: Stepper,
        windows: Windows,
        validation: Windows,
        head: Checkpoint,
        folder: Path,
        export: Callable[[], None],
        total: int,
    ) -> None:
        self.stepper, self.windows, self.validation = stepper, windows, validation
        self.head, self.folder, self.export, self.total = head, folder, export, total
        o = self.options
        self.val_every = o.val_every or max(1, math.ceil(self.total / VALIDATIONS))
        self.cursor = Cursor(len(windows), seed=o.seed, shuffle=o.shuffle)
        self.callbacks: list[OnStep] = []
        self._stop = ""
        self._saved = -1  # the step of the last checkpoint

    @property
    def options(self) -> TrainOptions:
        """Those of the run."""
        return self.head.options

    @property
    def progress(self) -> Progress:
        """Where it is."""
        return self.head.progress

    def stop(self, reason: str = "interrupted") -> None:
        """End after the step that runs, with a checkpoint; may be called from a signal handler or another thread."""
        self._stop = reason

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint whose head this run was made with."""
        checkpoint.restore(path, {name: self.stepper.states[name] for name in self.stepper.kept()})
        try:
            self.cursor.restore(self.progress.cursor)
        except ValueError as error:
            raise checkpoint.damaged(path, error) from None
        self._saved = self.progress.step
        if self.progress.best_step == self.progress.step or not len(self.validation):
            self.export()  # it may have been stopped between the checkpoint and this

    def run(self) -> RunResult:
        """All steps that are left; none if patience is used up.

        LlamaKitError if a loss, of the validation too, or a gradient is not finite; checkpoints stay.
        """
        o, started, loss = self.options, time.monotonic(), None
        while not (reason := self._end()):
            loss = self._step()
            if o.max_minutes and time.monotonic() - started >= o.max_minutes * 60:
                self._stop = self._stop or "time"
        self._save()
        p = self.progress
        return RunResult(
            reason=reason, step=p.step, total=self.total, loss=loss, best_loss=p.best_loss, best_step=p.best_step
        )

    def _end(self) -> str:
        """Why there is no further step, or ''."""
        if self.progress.step >= self.total:
            return "done"
        if self.options.patience and self.progress.worse >= self.options.patience:
            return "no improvement"
        return self._stop

    def _step(self) -> float:
        o, started, number = self.options, time.monotonic(), self.progress.step + 1
        batches = [self.windows.batch(each) for each in self.cursor.take_step(o.batch, o.grad_accumulation)]
        total = math.fsum(batch.loss_weight for batch in batches)
        loss = math.fsum(self.stepper.accumulate(batch, total) for batch in batches)
        lr = o.lr * factor(o, number - 1, self.total)
        norm = self.stepper.update(number, lr, o.clip) if math.isfinite(loss) else math.nan
        if not math.isfinite(norm):
            what = "a gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
            raise self._diverged(f"step {number}: {what}; nothing was changed by it", lr)
        rows = sum(batch.rows for batch in batches)
        info = StepInfo(
            step=number, total=self.total, epoch=self.cursor.done, loss=loss, lr=lr, grad_norm=norm, tokens=rows,
            seconds=time.monotonic() - started,
        )  # fmt: skip
        tokens = self.progress.tokens + rows
        self._advance(step=number, cursor=self.cursor.state, tokens=tokens)
        if len(self.validation) and (number % self.val_every == 0 or number == self.total):
            val_loss = self.validate()
            if not math.isfinite(val_loss):
                raise self._diverged(f"step {number}: the loss of the validation data is {val_loss}", lr)
            info = msgspec.structs.replace(info, val_loss=self._judge(val_loss))
        for callback in self.callbacks:  # before it is saved: what is logged too much is cut off by `resume`
            callback(info)
        if self.progress.best_step == number or (o.save_every and number % o.save_every == 0):
            self._save()
        return loss

    def validate(self) -> float:
        """The mean loss of the validation data, over the tokens that count."""
        o, total, weight = self.options, [], []
        for start in range(0, len(self.validation), o.batch):
            batch = self.validation.batch(range(start, min(start + o.batch, len(self.validation))))
            total.append(self.stepper.loss(batch))
            weight.append(batch.loss_weight)
        return math.fsum(total) / math.fsum(weight)

    def _judge(self, loss: float) -> float:
        """Whether a validation is the best so far, for the next checkpoint to remember."""
        p = self.progress
        if p.best_loss is None or loss < p.best_loss:
            self._advance(best_loss=loss, best_step=p.step, worse=0)
        else:
            self._advance(worse=p.worse + 1)
        return loss

    def _advance(self, **changes: object) -> None:
        progress = msgspec.structs.replace(self.progress, **changes)
        self.head = msgspec.structs.replace(self.head, progress=progress)

    def _save(self) -> None:
        """A checkpoint of the present step, and what is served if this is the best or nothing says what is."""
        p, folder = self.progress, self.folder / CHECKPOINTS
        if self._saved == p.step:
            return
        states = {name: self.stepper.states[name] for name in self.stepper.kept()}
        checkpoint.save(folder / f"step-{p.step:08d}.gguf", self.head, states)
        checkpoint.prune(folder, self.options.keep, p.best_step)
        self._saved = p.step
        if p.best_step in (0, p.step):
            self.export()

    def _diverged(self, what: str, lr: float) -> LlamaKitError:
        if not self.progress.step:
            hint = "the base itself gives it, before anything is trained: llamakit inspect --check FILE"
            return LlamaKitError(what, hint=hint, param="model")
        saved = f"the checkpoint of step {self._saved} is kept; " if self._saved > 0 else ""
        return LlamaKitError(
            what,
            found=f"learning rate {lr:.3g}",
            hint=f"{saved}a lower --lr, more --warmup, or --clip 1",
            param="lr",
        )
