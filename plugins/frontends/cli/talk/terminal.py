"""The terminal: whether there is one, whether colour may be used, and how it is kept quiet during an answer."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from llamakit.terminal import keep_style

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DIM, BOLD, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def may_colour(stream: TextIO, mode: str, environ: Mapping[str, str]) -> bool:
    """Whether codes for colour may go to a stream; `mode` is auto, always or never."""
    if mode in ("always", "never"):
        return mode == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environ.get("TERM") != "dumb"


class Terminal:
    """Standard input, output and error as they are."""

    def __init__(self, mode: str = "auto", environ: Mapping[str, str] = os.environ) -> None:
        self.reads, self.writes, self.notes = (s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr))
        self.n_resumed = 0  # how often the program came back after Ctrl-Z, or began to write
        self.dumb = environ.get("TERM") == "dumb"
        self.colour_out = may_colour(sys.stdout, mode, environ)
        self.colour_err = may_colour(sys.stderr, mode, environ)

    @property
    def edits(self) -> bool:
        """Whether lines can be edited: a person types, and the terminal can move its cursor."""
        return self.reads and (self.writes or self.notes) and not self.dumb

    @staticmethod
    def size() -> tuple[int, int]:
        """(columns, rows)."""
        size = shutil.get_terminal_size()
        return max(2, size.columns), max(2, size.lines)

    def dim(self, text: str) -> str:
        """Text for standard error, less bright."""
        return f"{DIM}{text}{PLAIN}" if self.colour_err else text

    def bold(self, text: str) -> str:
        """Text for standard error, bold."""
        return f"{BOLD}{text}{PLAIN}" if self.colour_err else text

    def say(self, text: str) -> None:
        """Lines of the chat itself, on standard error."""
        print(keep_style(text), file=sys.stderr, flush=True)

    def ask(self, question: str) -> bool:
        """A question that can be answered with yes or no; no without a terminal."""
        if not self.reads:
            return False
        print(f"{keep_style(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        try:
            return input().strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            self.say("")
            return False

    @contextmanager
    def hushed(self) -> Iterator[None]:
        """Keys pressed in here do not appear on the terminal, but wait for the next prompt; Ctrl-C and Ctrl-Z work."""
        if (
            sys.platform == "win32"
            or not sys.stdin.isatty()
            or threading.current_thread() is not threading.main_thread()
        ):
            yield
            return
        import termios

        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        quiet: list[Any] = list(before)
        quiet[0] &= ~termios.ICRNL if self.edits else -1  # an editor knows Enter by what the key sends
        quiet[3] &= ~(termios.ECHO | termios.ICANON)

        def suspend(*_: object) -> None:
            termios.tcsetattr(fd, termios.TCSANOW, before)
            os.kill(os.getpid(), signal.SIGSTOP)

        def resume(*_: object) -> None:
            self.n_resumed += 1
            termios.tcsetattr(fd, termios.TCSANOW, quiet)

        handlers = {s: signal.signal(s, f) for s, f in ((signal.SIGTSTP, suspend), (signal.SIGCONT, resume))}
        resume()
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            termios.tcsetattr(fd, termios.TCSANOW, before)
