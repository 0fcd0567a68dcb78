"""What reading one grammar may cost: parts, and the processor's time. Few grammars are read at once.

Parts are counted where they are made (`spend`), so that most grammars are refused at the same place on every machine.
What no count foresees is ended by the clock: a thread watches how long readers compute, and raises an error in those
that take too long.
"""

from __future__ import annotations

import ctypes
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from llamakit.plugins.samplers.grammar.errors import GrammarError

from llamakit.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
MOST_PARTS = 400_000  # nodes, and ranges of characters
SECONDS = 2.0  # of the processor
AT_ONCE = 2  # more would take the processor from those who answer
WAIT_SECONDS = 20.0
LOOK_SECONDS = 0.05

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


def within_limits(read: Callable[[], T]) -> T:
    """What `read` makes, within `limited`. GrammarError also where the watcher's error comes while the block ends."""
    try:
        with limited():
            return read()
    except TooLongError:
        raise _too_long() from None


def _too_long() -> GrammarError:
    return GrammarError(f"it takes longer than {SECONDS:g} seconds to work out the grammar", hint="a simpler grammar")


class TooLongError(BaseException):
    """Raised by the watcher in the thread of a reader; no reader catches it."""


class Watcher:
    """A thread that ends readers which compute for too long."""

    def __init__(self) -> None:
        self._ends: dict[int, float] = {}  # by thread: what its clock may show
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
            try:
                yield
            finally:
                self._end()
        except TooLongError:
            self._end()
            raise _too_long() from None

    def _begin(self) -> None:
        with self._changed:
            self._ends[threading.get_ident()] = time.thread_time() + SECONDS
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="llamakit-grammar-clock", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _end(self) -> None:
        """Nothing is raised in this thread from now on.

        An error that the watcher raised before it gave the lock away comes behind the call of `pop`, in this block.
        Nothing is taken back: for an error of None CPython 3.11 leaves a mark that no instruction clears, so that every
        call of the process is slower from then on, and the first one that is traced never ends.
        """
        with self._changed:
            self._ends.pop(threading.get_ident(), None)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ends:
                    self._changed.wait()
                for thread, end in list(self._ends.items()):
                    if time.clock_gettime(time.pthread_getcpuclockid(thread)) > end:
                        del self._ends[thread]
                        _raise_too_long(thread)
            time.sleep(LOOK_SECONDS)


def _raise_too_long(thread: int) -> None:
    """Let a thread raise the error before one of its next instructions."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TooLongError))


_watcher = Watcher()
