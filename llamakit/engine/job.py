"""A request on its way: what the engine thread tells of it, and how those who wait for it listen.

The engine calls `emit`; any thread reads. Everything that a request leads to comes as an event, in order, and the last
event is always `Finished` of its last answer (or of the whole, if an error ended it).
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from llamakit.engine.request import Piece, Result
from llamakit.errors import LlamaKitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llamakit.engine.request import Request

PER_TOKEN, PER_LIKELY = 320, 12  # bytes of a token that was not read yet, and of each that was likely in its place


class Queued(msgspec.Struct, frozen=True):
    """The request waits; so many are before it."""

    ahead: int


class PromptProgress(msgspec.Struct, frozen=True):
    """Of `total` tokens of the prompt `processed` are evaluated, the `cached` ones among them, after `seconds`."""

    total: int
    cached: int
    processed: int
    seconds: float


class Token(msgspec.Struct, frozen=True):
    """One more token of answer number `choice`."""

    choice: int
    piece: Piece


class Finished(msgspec.Struct, frozen=True):
    """Answer number `choice` is complete; nothing more comes of it."""

    choice: int
    result: Result


Event = Queued | PromptProgress | Token | Finished


class Job:
    """One request and its events. `gone` tells whether whoever asked has left; the engine asks it every step.

    `owner`: the client it belongs to, "" for nobody in particular; one of `weight` 2 gets twice the share of one of 1.
    """

    most_ahead = 0  # bytes of answers that may wait to be read before it pauses; 0: any number

    def __init__(
        self,
        request: Request,
        *,
        id: str = "",
        gone: Callable[[], bool] | None = None,
        owner: str = "",
        weight: float = 1.0,
    ) -> None:
        self.request, self.id, self.gone, self.owner, self.weight = request, id, gone, owner, weight
        self.width = max(request.n, request.best_of, request.beams)  # sequences at once, guides not counted
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._open = set(range(request.n))  # answers not finished yet
        self._cancelled = threading.Event()
        self._read_left = request.n  # the same, as far as events were read
        self._n_told = self._n_read = 0  # bytes of answers, by the engine and by the reader
        self._paused, self.behind_since = False, 0.0  # by `time.perf_counter`
        self.listener: Callable[[], object] | None = None  # called after each event, by the engine
        self.waker: Callable[[], object] | None = None  # called when a reader who was behind has read
        self.observer: Callable[[list[Event]], None] | None = None  # sees what is read, such as to measure it

    # -- for the engine -----------------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Tell something. Never blocks. What comes after an answer's end is dropped."""
        if isinstance(event, (Token, Finished)) and event.choice not in self._open:
            return
        if type(event) is Finished:  # before anybody can read it, and ask for more in its place
            self._open.discard(event.choice)
        else:
            self._n_told += n_bytes(event)
        self._events.put(event)
        if self.listener is not None:
            self.listener()

    @property
    def finished(self) -> bool:
        """Whether every answer is complete."""
        return not self._open

    @property
    def behind(self) -> bool:
        """Whether its reader is so far behind that nothing more is made for it, until it has read half of that."""
        if self.most_ahead:
            ahead = self._n_told - self._n_read
            paused = ahead > (self.most_ahead // 2 if self._paused else self.most_ahead)
            if paused and not self._paused:
                self.behind_since = time.perf_counter()
            self._paused = paused
        return self._paused

    @property
    def unwanted(self) -> bool:
        """Whether it was cancelled, or nobody waits for it any more."""
        return self._cancelled.is_set() or (self.gone is not None and self.gone())

    # -- for those who wait -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ask the engine to end it: seen before the next step, in the queue, the prompt or the answer."""
        self._cancelled.set()

    @property
    def read_all(self) -> bool:
        """Whether the last event was read."""
        return self._read_left <= 0

    def read(self, timeout: float | None = None) -> list[Event]:
        """All events there are, at least one unless `timeout` seconds pass; an empty list after the last one."""
        if self.read_all:
            return []
        try:
            events = [self._events.get(timeout=timeout)]
        except queue.Empty:
            return []
        return self.drain(events)

    def drain(self, events: list[Event] | None = None) -> list[Event]:
        """All events there are now, without waiting, after those in `events`."""
        events = [] if events is None else events
        try:
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            pass
        self._read_left -= sum(type(event) is Finished for event in events)
        was_ahead = self._n_told - self._n_read
        self._n_read += sum(map(n_bytes, events))
        if self.waker is not None and self.most_ahead and was_ahead > self.most_ahead // 2:
            self.waker()
        if self.observer is not None:
            self.observer(events)
        return events

    def __iter__(self) -> Iterator[Event]:
        """Every event, until all answers are complete."""
        while not self.read_all:
            yield from self.read()

    def results(self) -> list[Result]:
        """Wait for all answers, in order of `choice`; raises what ended one of them, if an error did."""
        found = [event.result for event in self if type(event) is Finished]
        for result in found:
            raise_error(result)
        return sorted(found, key=lambda result: result.choice)


def n_bytes(event: Event) -> int:
    """About what an event takes in memory until it is read, if it is a token."""
    if type(event) is not Token:
        return 0
    top, after = event.piece.top, event.piece.after
    return PER_TOKEN + len(top.ids) + len(top.numbers) + len(after.ids) + len(after.numbers)


def n_parts(event: Event) -> int:
    """What an event holds: tokens, and others that were likely in their places."""
    return 1 + len(event.piece.top) + len(event.piece.after) if type(event) is Token else 0


def raise_error(result: Result) -> None:
    """Raise what ended an answer, if an error did."""
    error = result.error
    if error is not None:
        raise error if isinstance(error, LlamaKitError) else LlamaKitError(str(error)) from error
