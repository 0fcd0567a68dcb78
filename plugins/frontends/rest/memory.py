"""How much memory requests hold together: estimated from their bodies before these are read, and bounded.

A byte of JSON can become many bytes of objects, so what counts is the length of a body times `PER_BYTE`. What an answer
will take beyond that (vectors of every token, say) is taken with `hold` before it is made. All of it is given back when
the answer has been sent.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.rest.errors import TooLargeError

from llamakit.errors import LlamaKitError, QueueFullError
from llamakit.system import free_memory, give_back_memory

if TYPE_CHECKING:
    import falcon

PER_BYTE = 24  # `[],` takes 3 bytes as text and 64 as a list; a token that is one character, 36 as a number in a list
PER_NUMBER = 64  # of a vector: float32, float64 while it is made, an object of Python's, and its text
SHARE = 4  # part of the free memory, where no size is set
LEAST = 1 << 30
LARGE = 64 << 20  # bytes held by requests, after which what they leave free is given back to the system
SECONDS = 300.0  # until that is done at the latest


class Memory:
    """Bytes that requests may hold together, and those that they do."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit or max(LEAST, free_memory() // SHARE)
        self._taken = self._most = 0
        self._looked = time.monotonic()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Bytes that are held now."""
        return self._taken

    def take(self, n_bytes: int) -> LlamaKitError | None:
        """Hold so much more; the error to answer with if there is no room, and then nothing is held."""
        with self._lock:
            if self._taken + n_bytes <= self.limit:
                self._taken += n_bytes
                self._most = max(self._most, self._taken)
                return None
        hint = "a shorter request, or a server with a larger --request-memory"
        if n_bytes > self.limit:
            return TooLargeError(
                "the request takes too much memory",
                found=f"about {n_bytes >> 20:,} MiB; all requests together may take {self.limit >> 20:,} MiB",
                hint=hint,
            )  # fmt: skip
        return QueueFullError(
            "the requests at work hold all the memory there is for them", hint=f"try again later; {hint}", retry_after=2
        )

    def give(self, n_bytes: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._taken -= n_bytes

    def freed(self) -> None:
        """More than what requests held has become free: have `look` give it back."""
        with self._lock:
            self._most = max(self._most, 1)

    def look(self) -> None:
        """Called every second: once most of what was held is free, give the process's free memory back.

        Streams wait meanwhile, so while anything is held not too many objects are looked at for cycles.
        """
        if not self._most:
            return
        most_is_free = self._taken == 0 or (self._most >= LARGE and self._taken < self._most // 4)
        if most_is_free or time.monotonic() - self._looked > SECONDS:
            self._most, self._looked = self._taken, time.monotonic()
            give_back_memory(somebody_waits=self._taken > 0)


class Share:
    """What one request holds. Every HTTP request has one; `close` gives all of it back."""

    def __init__(self, memory: Memory, environ: dict[str, Any]) -> None:
        self._memory, self._held = memory, 0
        environ["llamakit.memory"] = self
        length = environ.get("CONTENT_LENGTH") or "0"
        self.error = self.take(PER_BYTE * int(length)) if length.isdecimal() else None

    def take(self, n_bytes: int) -> LlamaKitError | None:
        """Hold more; the error if that is too much."""
        error = self._memory.take(n_bytes)
        if error is None:
            self._held += n_bytes
        return error

    def close(self) -> None:
        """Hold nothing any more."""
        held, self._held = self._held, 0
        self._memory.give(held)


def hold(req: falcon.Request, n_bytes: int) -> None:
    """Count what an answer is about to take; TooLargeError or QueueFullError if that is too much."""
    share: Share | None = req.env.get("llamakit.memory")
    error = share.take(n_bytes) if share is not None else None
    if error is not None:
        raise error
