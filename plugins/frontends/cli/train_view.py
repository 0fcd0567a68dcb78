"""How a training run looks while it runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from llamakit.plugins.frontends.cli.console import Console, rich_console

from llamakit.errors import ReaderGone
from llamakit.train.report import History, duration, memory_used
from llamakit.units import size_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.train.report import StepInfo

BARS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 24
PAUSE = 10.0  # seconds between plain lines of quick steps
STOPPING = "stopping after this step; Ctrl-C again ends at once"
REFRESH = 4  # times a second, at most


class TrainView:
    """Shows each step on standard error: an `on_step` callback, to be used in a `with`.

    Where standard error is gone, as when a terminal is closed, it shows nothing more; the run goes on.
    """

    def __init__(self, console: Console, title: str = "finetune") -> None:
        self.console, self.title = console, title
        self.history = History()
        self._live: Any = None
        self._shown = 0.0  # when the last plain line was written
        self._step_shown = 0
        self._gone = False

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.console.quiet:
            from rich.live import Live

            how = {"console": rich_console(), "refresh_per_second": REFRESH}
            self._live = Live(get_renderable=self._rendered, **how)
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._try(self._live.stop)
            self._live = None
        elif self.history.last is not None and self._step_shown != self.history.last.step:
            self._try(self._note)

    def __call__(self, info: StepInfo) -> None:
        """A step was done."""
        self.history(info)
        if self._live is not None:
            self._try(self._live.refresh)
        elif self._is_time(info):
            self._shown, self._step_shown = time.monotonic(), info.step
            self._try(self._note)

    def _try(self, show: Callable[[], None]) -> None:
        if not self._gone:
            try:
                show()
            except (OSError, ReaderGone):
                self._gone = True

    def _note(self) -> None:
        self.console.note(plain_line(self.history))

    def stopping(self) -> None:
        """Say that the run ends after its step; called in a signal's handler, so nothing is printed by usual means."""
        self.title = STOPPING
        if self._live is None and not self.console.quiet:
            with suppress(OSError):
                os.write(sys.stderr.fileno(), f"{STOPPING}\n".encode())

    def _rendered(self) -> Any:
        return rendered(self.history, self.title) if self.history.last is not None else ""

    def _is_time(self, info: StepInfo) -> bool:
        """Whether to write a plain line: at the first and last step, with each validation, else now and then."""
        if info.val_loss is not None or info.step in (1, info.total) or not self._step_shown:
            return True
        return time.monotonic() - self._shown >= PAUSE


def plain_line(history: History) -> str:
    """One line of what the last step told."""
    info = history.last
    assert info is not None  # lines are written after steps
    parts = [f"step {info.step}/{info.total}", f"epoch {info.epoch:.2f}", f"loss {info.loss:.4f}"]
    if info.val_loss is not None:
        parts.append(f"validation {info.val_loss:.4f}")
    parts += [f"lr {info.lr:.2e}", f"gradient {info.grad_norm:.3g}", f"{info.tokens_per_second:,.0f} tokens/s"]
    return "  ".join([*parts, f"left {duration(history.seconds_left)}", size_text(memory_used())])


def rendered(history: History, title: str) -> Any:
    """The live view, for rich."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    info = history.last
    assert info is not None  # shown after steps
    head = Table.grid(padding=(0, 2), expand=True)
    for ratio in (0, 0, 1, 0, 0):
        head.add_column(ratio=ratio or None, no_wrap=True)
    head.add_row(
        Text(title, style="bold"), f"step {info.step:,}/{info.total:,}", ProgressBar(info.total, info.step),
        f"epoch {info.epoch:.2f}", f"left {duration(history.seconds_left)}",
    )  # fmt: skip
    numbers = Table.grid(padding=(0, 2))
    for label, value in _numbers(history):
        numbers.add_row(Text(label, style="dim"), value)
    return Group(head, numbers)


def _numbers(history: History) -> list[tuple[str, str]]:
    info = history.last
    assert info is not None  # shown after steps
    rows = [("loss", f"{info.loss:.4f}  {sparkline(history.losses)}")]
    if history.val_loss is not None and history.best is not None:
        best, step = history.best
        rows.append(("validation", f"{history.val_loss:.4f}  (best {best:.4f} at step {step:,})"))
    rate = f"{info.lr:.2e}   gradient {info.grad_norm:.3g}   {info.tokens_per_second:,.0f} tokens/s"
    return [*rows, ("rate", f"{rate}   memory {size_text(memory_used())}")]


def sparkline(values: list[float], width: int = SPARK_WIDTH) -> str:
    """Values as bars, each a mean of its share of them; nothing for those that are not finite."""
    n = min(width, len(values))
    parts = [values[len(values) * i // n : len(values) * (i + 1) // n] for i in range(n)]
    means = [sum(part) / len(part) for part in parts]
    finite = [mean for mean in means if abs(mean) < float("inf")]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] if abs(mean) < float("inf") else " " for mean in means)
