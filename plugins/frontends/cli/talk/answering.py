"""One answer on its way: it is made on another thread, so that Ctrl-C is heard at once whatever that thread does."""

from __future__ import annotations

import queue
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.cli.talk.source import Answer, Piece, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llamakit.plugins.frontends.cli.talk.conversation import Turn
    from llamakit.plugins.frontends.cli.talk.source import Source

STOPPED = "stopped"
TICK = 0.1  # seconds
PATIENCE = 0.15  # seconds that a stopped answer gets to end before it is left to itself


class Stop:
    """A wish to stop, from a signal handler or another thread."""

    def __init__(self) -> None:
        self.wanted = threading.Event()
        self.items: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, *_: object) -> None:
        """Stop."""
        self.wanted.set()
        self.items.put(None)  # wakes up whoever reads


def ask(
    source: Source,
    turns: Sequence[Turn],
    begun: str,
    params: Mapping[str, Any],
    show: Callable[[Piece | Waiting], None],
    stop: Stop | None = None,
) -> Answer:
    """Answer the turns, handing all that comes to `show`; an answer that Ctrl-C ended has the reason "stopped".

    While nothing comes, `show` gets an empty `Waiting` ten times a second.
    """
    stop = stop or Stop()
    worker = threading.Thread(target=_work, args=(source, turns, begun, params, stop), name="answer", daemon=True)
    began, first, n = time.perf_counter(), 0.0, 0
    with interrupts(stop):
        worker.start()
        while True:
            item = _next(stop)
            if stop.wanted.is_set():
                break
            if isinstance(item, Answer):
                return item
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Piece):
                first, n = first or time.perf_counter(), n + item.n
            show(item)
    source.abort()
    worker.join(PATIENCE)
    seconds = time.perf_counter() - first
    return Answer(
        reason=STOPPED, n_generated=n, rate=(n - 1) / seconds if n > 1 and seconds else None,
        first_seconds=first - began if first else None,
    )  # fmt: skip


def _next(stop: Stop) -> Any:
    try:
        return stop.items.get(timeout=TICK)  # with a timeout, so that signals are heard on every system
    except queue.Empty:
        return Waiting("")


def _work(source: Source, turns: Sequence[Turn], begun: str, params: Mapping[str, Any], stop: Stop) -> None:
    stream = None
    try:
        stream = source.stream(turns, begun, params)
        while not stop.wanted.is_set():
            stop.items.put(next(stream))
    except StopIteration as end:
        stop.items.put(end.value)
    except BaseException as error:  # raised again on the thread that asked
        stop.items.put(error)
    finally:
        if stream is not None:
            stream.close()


@contextmanager
def interrupts(handler: Callable[..., None]) -> Iterator[None]:
    """Ctrl-C calls `handler` in here, instead of raising KeyboardInterrupt somewhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
