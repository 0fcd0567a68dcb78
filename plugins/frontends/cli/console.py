"""What goes to standard error: notes, progress, timings; and making model output safe for a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from llamakit.errors import ReaderGone
from llamakit.terminal import keep_style, safe

if TYPE_CHECKING:
    from collections.abc import Iterator

DELAY = 0.5  # seconds before progress is shown: short work needs none


class Progress:
    """Counts done out of all; shows a bar on a terminal, and one plain line at the end elsewhere."""

    def __init__(self, label: str, bar: Any, task: Any) -> None:
        self.label, self._bar, self._task = label, bar, task
        self._start = time.perf_counter()
        self.total = 0

    def update(self, done: int, total: int) -> None:
        """So much is done."""
        self.total = total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, visible=self.seconds > DELAY)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._start


class Console:
    """Standard error. `quiet` shows errors only; `verbose` adds details."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches standard error."""
        return sys.stderr.isatty()

    def note(self, text: str) -> None:
        """A line for people."""
        if not self.quiet:
            click.echo(keep_style(text), err=True)

    def detail(self, text: str) -> None:
        """A line for people who asked for more."""
        if self.verbose:
            click.echo(keep_style(text), err=True)

    @contextmanager
    def progress(self, label: str, plain: str = "") -> Iterator[Progress]:
        """Show how far something is; `plain` is the line left at the end where there is no terminal."""
        if self.quiet or not self.is_terminal:
            progress = Progress(label, None, None)
            yield progress
            if plain and not self.quiet:
                self.note(plain.format(seconds=progress.seconds))
            return
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("{task.description:9}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with RichProgress(*columns, console=rich_console(), transient=True) as bar:
            yield Progress(label, bar, bar.add_task(label, total=None, visible=False))


def rich_console() -> Any:
    """Standard error for what moves on a terminal; without colour where that was asked for."""
    from rich.console import Console as RichConsole

    context = click.get_current_context(silent=True)
    return RichConsole(stderr=True, no_color=True if context is not None and context.color is False else None)


def write(text: str, raw: bool = False) -> None:
    """Generated text to standard output, flushed; byte-exact unless that is a terminal."""
    if sys.stdout.isatty() and not raw:
        text = safe(text)
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGone from None  # click would turn the original into exit code 1


def dim(text: str, raw: bool = False) -> None:
    """Text that is not the model's, on a terminal: dim, unless colours are off."""
    click.echo(click.style(text if raw else safe(text), dim=True), nl=False)
    sys.stdout.flush()


def rate_of(n: float, seconds: float = 1) -> str:
    """Tokens per second for people: 0.52, 17.3, 1,760."""
    rate = n / seconds
    return f"{rate:,.0f} tok/s" if rate >= 100 else f"{rate:.3g} tok/s"


def tokens(n: int) -> str:
    """So many tokens."""
    return f"{n:,} {'token' if n == 1 else 'tokens'}"


def fitted(line: str) -> str:
    """A line cut to what a terminal shows of it; whole where nobody watches."""
    if not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return line if len(line) <= width else f"{line[: width - 1]}…"
