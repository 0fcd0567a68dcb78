"""Bodies are read and made into prompts one at a time, so that streams do not stand still meanwhile.

Python runs one thread at a time. The engine's thread asks to run several times a step, and beside 64 that read bodies
and make prompts it came last each time: streams stood still for two seconds. So those take turns, and a short body
waits for short ones only.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llamakit.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = (4 << 10, 256 << 10)  # bytes from which on a body is a middling one, or a large one
WAIT_SECONDS = 20.0
_locks = tuple(threading.Lock() for _ in range(len(SIZES) + 1))


class _Mine(threading.local):
    """The turn that this thread has."""

    lock: threading.Lock | None = None


_mine = _Mine()


@contextmanager
def serialized(n_bytes: int) -> Iterator[None]:
    """Work on a body of so many bytes, while no other thread works on one of its kind. A turn within a turn is none.

    UnavailableError after `WAIT_SECONDS` in vain: letting all go on who have waited long would be the very crowd again.
    """
    if _mine.lock is not None:
        yield
        return
    lock = _locks[bisect_right(SIZES, n_bytes)]
    if not lock.acquire(timeout=WAIT_SECONDS):
        raise UnavailableError("too many requests are being read", hint="try again later")
    _mine.lock = lock
    try:
        yield
    finally:
        let_others()


def let_others() -> None:
    """End the turn of this thread, if it has one: what comes is to wait for something else."""
    lock, _mine.lock = _mine.lock, None
    if lock is not None:
        lock.release()
