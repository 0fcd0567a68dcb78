"""What reading one grammar may cost: parts, and the processor's time. Few grammars are read at once.

Parts are counted where they are made (`spend`), so that most grammars are refused at the same place on every machine.
What no count foresees is ended by the clock: a thread watches how long readers compute, and raises an error in those
that take too long. It does so only where a reader's own code runs: raised in a callback of a weak reference, the error
would be printed and lost, and raised within the standard library, it could leave a lock taken.
"""

from __future__ import annotations

import ctypes
import opcode
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar.errors import GrammarError

from llamakit.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

MOST_PARTS = 400_000  # nodes, and ranges of characters
SECONDS = 2.0  # of the processor
AT_ONCE = 2  # more would take the processor from those who answer
WAIT_SECONDS = 20.0
LOOK_SECONDS = 0.05
SOON_SECONDS = 0.002  # until a reader whose time is over is looked at again
PATIENCE = 100  # looks at a reader whose time is over, until it is ended within a call too
READERS = (f"{__package__}.", "lark.")  # names of modules in which a reader may be ended

# Instructions at which a thread asks whether to give the interpreter away: beginnings of functions and ends of turns.
BETWEEN = {
    code for name, code in opcode.opmap.items()
    if name == "RESUME" or ("JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name)
}  # fmt: skip

_local = threading.local()
_places = threading.BoundedSemaphore(AT_ONCE)


def spend(parts: int) -> None:
    """Count parts of the grammar that this thread reads; GrammarError when there are too many."""
    left = getattr(_local, "left", None)
    if left is None:
        return
    _local.left = left - parts
    if _local.left < 0:
        raise GrammarError(f"the grammar has more than {MOST_PARTS:,} parts", hint="a simpler grammar")


@contextmanager
def limited() -> Iterator[None]:
    """Read a grammar in this block, within bounds; UnavailableError where too many others are being read."""
    if getattr(_local, "left", None) is not None:  # a reader that reads a grammar within
        yield
        return
    if not _places.acquire(timeout=WAIT_SECONDS):
        raise UnavailableError("too many grammars are being read", hint="try again later")
    try:
        _local.left = MOST_PARTS
        with _watcher.watching():
            yield
    finally:
        _local.left = None
        _places.release()


class TooLongError(BaseException):
    """Raised by the watcher in the thread of a reader; no reader catches it."""


class Watcher:
    """A thread that ends readers which compute for too long."""

    def __init__(self, readers: tuple[str, ...] = READERS) -> None:
        self._readers = readers
        self._ends: dict[int, float] = {}  # by thread: what its clock may show
        self._looks: dict[int, int] = {}  # by thread: looks since its time was over
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread while the block runs; GrammarError if it computed for too long."""
        if not hasattr(time, "pthread_getcpuclockid"):
            yield
            return
        self._begin()
        try:
            yield
        except TooLongError:
            raise GrammarError(
                f"it takes longer than {SECONDS:g} seconds to work out the grammar", hint="a simpler grammar"
            ) from None
        finally:
            self._end()

    def _begin(self) -> None:
        with self._changed:
            self._ends[threading.get_ident()] = time.thread_time() + SECONDS
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="llamakit-grammar-clock", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _end(self) -> None:
        """Nothing is raised in this thread from now on.

        Nothing is taken back: for an error of None CPython 3.11 leaves a mark that no instruction clears, so that every
        call of the process is slower from then on, and the first one that is traced never ends.
        """
        with self._changed:
            self._ends.pop(threading.get_ident(), None)
            self._looks.pop(threading.get_ident(), None)

    def _run(self) -> None:
        while True:
            time.sleep(self._look())

    def _look(self) -> float:
        """Raise the error in readers whose time is over; the seconds until the next look.

        A reader stays watched until it ends, since code that it calls may swallow the error.
        """
        with self._changed:
            while not self._ends:
                self._changed.wait()
            late = [t for t, end in self._ends.items() if time.clock_gettime(time.pthread_getcpuclockid(t)) > end]
            frames = sys._current_frames() if late else {}
            for thread in late:
                self._looks[thread] = self._looks.get(thread, 0) + 1
                if self._may_end(frames.get(thread), anywhere=self._looks[thread] > PATIENCE):
                    _raise_too_long(thread)
        return SOON_SECONDS if late else LOOK_SECONDS

    def _may_end(self, frame: FrameType | None, *, anywhere: bool) -> bool:
        """Whether a thread that goes on in this frame may get the error: a reader's, and none of this module.

        The thread stands where it gave the interpreter away, and only between instructions that ask whether to do so
        does the error come before anything else runs. Within a call (`anywhere`), that could be the callback of an
        object which has nothing to do with the grammar.
        """
        name = frame.f_globals.get("__name__", "") if frame is not None else ""
        if frame is None or frame.f_lasti < 0 or not name.startswith(self._readers) or name == __name__:
            return False
        return anywhere or frame.f_code.co_code[frame.f_lasti] in BETWEEN


def _raise_too_long(thread: int) -> None:
    """Let a thread raise the error before one of its next instructions."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TooLongError))


_watcher = Watcher()
