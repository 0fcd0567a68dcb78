"""Where the `llamakit` command begins: until the rest is imported, which takes a moment, Ctrl-C ends it silently."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130  # the exit code


def leave(*_: object) -> None:
    """End at once. Nothing was begun that would have to be put right."""
    os._exit(INTERRUPTED)


def main() -> None:
    """Run the command line; `llamakit.cli.run` takes Ctrl-C back when it can answer it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background has it ignored
        signal.signal(signal.SIGINT, leave)
    from llamakit.cli import main as begin

    begin()
