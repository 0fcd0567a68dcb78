"""How many requests may be answered at once: fewer than there are threads, so that `/health` always finds one."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llamakit.errors import QueueFullError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Admission:
    """Counts places. A thread that has one gets no second: a request and its stream stay on one thread."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._taken = 0
        self._lock = threading.Lock()
        self._mine = threading.local()

    @property
    def taken(self) -> int:
        """Places that are in use."""
        return self._taken

    @property
    def full(self) -> bool:
        """Whether nobody else gets in, except who is in already."""
        return self._taken >= self.places and not self._depth

    def enter(self) -> bool:
        """Take a place for this thread; False if there is none. Each True wants one `leave` on the same thread."""
        if self._depth == 0:
            with self._lock:
                if self._taken >= self.places:
                    return False
                self._taken += 1
        self._mine.depth = self._depth + 1
        return True

    def leave(self) -> None:
        """Give a place back."""
        self._mine.depth = self._depth - 1
        if self._depth == 0:
            with self._lock:
                self._taken -= 1

    @contextmanager
    def slot(self) -> Iterator[None]:
        """A place while the block runs; QueueFullError if there is none."""
        if not self.enter():
            raise self.error()
        try:
            yield
        finally:
            self.leave()

    def error(self) -> QueueFullError:
        """What somebody who gets no place is told."""
        return QueueFullError(
            f"too many requests at once: {self.places} are being answered", hint="try again later", retry_after=2
        )

    @property
    def _depth(self) -> int:
        depth: int = getattr(self._mine, "depth", 0)
        return depth
