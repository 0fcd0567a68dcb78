"""What a training run tells while it runs: one `StepInfo` a step, to every callback; and its log file."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Self

import msgspec

from llamakit.train.checkpoint import write_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llamakit.errors import LlamaKitError

LOG_NAME = "log.jsonl"
SMOOTHING = 0.1  # weight of the newest step in mean seconds


class StepInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One step that was done.

    `step` counts from 1 to `total`; `epoch`: epochs done, with fractions; `loss`: mean over the tokens that count, in
    nats; `lr`: learning rate of the update; `grad_norm`: before clipping; `tokens`: rows that were computed; `seconds`:
    of the step, without validation and saving; `val_loss`: where it was measured after this step.
    """

    step: int
    total: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float
    val_loss: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Rows a second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


if TYPE_CHECKING:
    OnStep = Callable[[StepInfo], None]


class LogEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the log. Numbers that are not finite are null."""

    step: int
    epoch: float | None = None
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    val_loss: float | None = None


class LogWriter:
    """Writes a line of `log.jsonl` for each step: an `on_step` callback.

    A run that goes on at a step continues the file: what was logged behind that step, before the run was stopped, is
    cut off, and so is half a line at its end.
    """

    def __init__(self, path: Path, *, after_step: int = 0) -> None:
        self.path = path
        kept = [entry for entry in read_log(path) if entry.step <= after_step] if after_step else []
        try:
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(b"".join(map(_line, kept)))
            temporary.replace(path)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._failed(error) from None

    def __call__(self, info: StepInfo) -> None:
        """Write a step."""
        fields = {name: getattr(info, name) for name in LogEntry.__struct_fields__}
        fields["tokens_per_second"] = round(info.tokens_per_second, 3)
        line = _line(LogEntry(**fields))
        try:
            if self._file.write(line) != len(line):  # one write for a whole line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """No more steps."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _failed(self, error: OSError) -> LlamaKitError:
        return write_error(self.path, error)


def read_log(path: Path) -> list[LogEntry]:
    """The entries of a log, one for each step, in order, without what is not an entry; none if there is no file."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    found: dict[int, LogEntry] = {}
    for line in data.splitlines():
        try:
            entry = msgspec.json.decode(line, type=LogEntry)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        found[entry.step] = entry
    return [found[step] for step in sorted(found)]


class History:
    """What the steps of a run tell together: seconds of a step, time left, best validation. An `on_step` callback."""

    def __init__(self) -> None:
        self.last: StepInfo | None = None
        self.seconds_per_step = 0.0
        self.losses: list[float] = []
        self.val_loss: float | None = None
        self.best: tuple[float, int] | None = None  # (loss, step)

    def __call__(self, info: StepInfo) -> None:
        """A step was done."""
        first = self.last is None
        self.last = info
        self.seconds_per_step += (info.seconds - self.seconds_per_step) * (1.0 if first else SMOOTHING)
        self.losses.append(info.loss)
        if info.val_loss is not None:
            self.val_loss = info.val_loss
            if self.best is None or info.val_loss < self.best[0]:
                self.best = (info.val_loss, info.step)

    @property
    def seconds_left(self) -> float:
        """Seconds until the last step, by those that were done."""
        return (self.last.total - self.last.step) * self.seconds_per_step if self.last else 0.0


def duration(seconds: float) -> str:
    """Seconds for people: 0:07, 12:34, 1:02:03, 2 d 3:04:05."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    clock = f"{hours}:{minutes:02}:{whole % 60:02}" if whole >= 3600 else f"{minutes}:{whole % 60:02}"
    return f"{days} d {clock}" if days else clock


def memory_used() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - read every step
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _line(entry: Any) -> bytes:
    return msgspec.json.encode(entry) + b"\n"
