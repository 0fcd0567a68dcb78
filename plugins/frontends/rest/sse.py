"""Answers that come in pieces: server-sent events, or lines of JSON.

The response's first bytes are the first event, nothing is sent before; each piece is one write to the socket.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from llamakit.plugins.frontends.rest.long_json import json_pieces

from llamakit.errors import LlamaKitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import falcon
    from llamakit.plugins.frontends.rest.generation import Exchange

log = logging.getLogger("llamakit.rest")
EVENT_STREAM = "text/event-stream"


def event(value: Any, *, name: str = "", order: Any = None) -> bytes:
    """One server-sent event with `value` as JSON; `name` gives it an `event:` line."""
    data = b"data: " + msgspec.json.encode(value, order=order) + b"\n\n"
    return f"event: {name}\n".encode() + data if name else data


def event_pieces(value: Any, order: Any = None) -> Iterator[bytes | bytearray]:
    """One event whose value may be long, in pieces."""
    yield b"data: "
    yield from json_pieces(value, order)
    yield b"\n\n"


def stream(
    exchange: Exchange,
    resp: falcon.Response,
    make_events: Callable[[], Iterator[bytes]],
    on_error: Callable[[LlamaKitError], bytes],
    content_type: str = EVENT_STREAM,
) -> None:
    """Answer with what `make_events()` yields: events, several in one where that is quicker, long ones in several.

    The exchange is ended with the stream: at its end, when the client leaves, and when it is never begun. `on_error`
    gives the event for an error in the middle; it is the last one.
    """
    resp.content_type = content_type
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")  # proxies of the nginx family pass each piece on at once
    exchange.streams = True
    resp.stream = EventStream(make_events, on_error, exchange, exchange.id)


class Closes(Protocol):
    """What is ended with a stream."""

    def close(self) -> None:
        """End it; any number of times."""


class EventStream:
    """The iterable that the WSGI server sends; `close` is called by it, whatever happened."""

    def __init__(
        self,
        make_events: Callable[[], Iterator[bytes]],
        on_error: Callable[[LlamaKitError], bytes],
        resources: Closes,
        id: str,
    ) -> None:
        self._make_events, self._on_error, self._resources, self._id = make_events, on_error, resources, id
        self._events: Iterator[bytes] | None = None
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        try:
            if self._events is None:
                self._events = self._make_events()
            for piece in self._events:
                if piece:
                    return piece
        except LlamaKitError as error:
            return self._last(error)
        except Exception:
            log.exception("request %s: a stream ended with a defect", self._id)
            return self._last(LlamaKitError("the server made a mistake", found=f"its log tells more at {self._id}"))
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the jobs and give the model back; any number of times."""
        self._ended = True
        events, self._events = self._events, None
        try:
            if events is not None and hasattr(events, "close"):
                events.close()
        finally:
            self._resources.close()

    def __del__(self) -> None:
        self.close()

    def _last(self, error: LlamaKitError) -> bytes:
        piece = self._on_error(error)
        self.close()
        return piece
