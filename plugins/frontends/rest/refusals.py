"""What is refused before it is a request, such as a chunk without a size: answered in JSON like every error.

It shares with `server` the parts of waitress that are not documented: `channel_class`, `parser_class` and
`error_task_class`.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import waitress.channel
import waitress.parser
import waitress.task
import waitress.utilities
from llamakit.plugins.frontends.rest.errors import TooLargeError, body_of

from llamakit.errors import LlamaKitError, QueueFullError, UsageError

LONGEST_CHUNK_LINE = 1024  # bytes of a chunk's size and extensions, and of the trailer behind the last one


class Full(waitress.utilities.Error):  # type: ignore[misc]
    """Nothing more of a body is taken while others hold the memory there is for them."""

    code, reason = 429, "Too Many Requests"


class JSONErrorTask(waitress.task.ErrorTask):  # type: ignore[misc]
    """Answers what waitress found wrong with a request's head or framing, and closes the connection."""

    def execute(self) -> None:
        """Write the answer."""
        error: Any = self.request.error
        body = msgspec.json.encode(body_of(as_ours(error)))
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Parser(waitress.parser.HTTPRequestParser):  # type: ignore[misc]
    """A parser that refuses what another program on the way could read in another way, and framing without end."""

    path = ""  # what waitress logs when the client leaves before its refusal, unless `parse_header` gets to set it
    dropped = False
    held = 0  # bytes of the body that count in the server's memory for requests, until the request is answered

    def parse_header(self, header_plus: bytes) -> None:
        """Read the first line and the headers."""
        _check_framing(header_plus)
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise waitress.parser.ParsingError(f"The target is not a URL: {error}") from None

    def received(self, data: bytes) -> int:
        """Take more bytes; how many of them belong to this request."""
        consumed: int = super().received(data)
        if self.empty:  # blank lines before a request: dropped at once
            return consumed
        if self.completed:  # nothing to wait for; waitress would, after it has asked for the rest
            self.expect_continue = False
        if self.headers_finished and not self.error and self.adj.llamakit_memory.take(consumed) is None:
            self.held += consumed
            if self.dropped:  # its connection ended on another thread meanwhile
                self.let_go()
        elif self.headers_finished and not self.error:
            self.error, self.completed = Full("The requests at work hold all the memory there is for them"), True
        body = self.body_rcv
        if not self.chunked or self.completed or body is None:
            return consumed
        if len(body.control_line) > LONGEST_CHUNK_LINE or len(body.trailer) > LONGEST_CHUNK_LINE:
            self.error = waitress.utilities.BadRequest("A chunk's size line or trailer is too long")
            self.completed = True
        return consumed

    def close(self) -> None:
        """Nobody answers it, or it is answered; its body's file goes."""
        self.let_go()
        super().close()

    def let_go(self) -> None:
        """The body counts no more: it is dropped, or whoever answers counts it."""
        held: int = self.__dict__.pop("held", 0)  # at once: two threads may come here
        self.adj.llamakit_memory.give(held)


def _check_framing(header_plus: bytes) -> None:
    """Refuse headers that leave open where the body ends: RFC 9112, 6.1 and 6.3."""
    encodings, lengths = [], []
    version = header_plus.partition(b"\r\n")[0].rstrip()[-3:]
    for line in header_plus.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"transfer-encoding":
            encodings.append(value.strip(b" \t").lower())
        elif name.strip().lower() == b"content-length":
            lengths.append(value)
    if not encodings:
        return
    if encodings != [b"chunked"] or version != b"1.1":
        raise waitress.parser.TransferEncodingNotImplemented("Transfer-Encoding can only be chunked, once")
    if lengths:
        raise waitress.parser.ParsingError("Content-Length and Transfer-Encoding are both given")


class Channel(waitress.channel.HTTPChannel):  # type: ignore[misc]
    """A connection whose refusals are JSON, and that knows for how long it has kept us waiting.

    `since`: when it last began to wait for a request, or to send one; `pace`: when, and at how many bytes received, the
    pace of a body was measured last; `blocked`: since when its client has read nothing, None while it reads.
    """

    error_task_class = JSONErrorTask
    parser_class = Parser

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        self.since, self.n_received = time.monotonic(), 0
        self.pace: tuple[float, int] | None = None
        self.blocked: float | None = None
        stays = server.llamakit_connections.admit(addr, server.active_channels)
        super().__init__(server, sock, addr, adj, map=map)
        if not stays:
            self.handle_close()

    def received(self, data: bytes) -> Any:
        """Count, then read."""
        if self.request is None:
            self.since, self.pace = time.monotonic(), None
        self.n_received += len(data)
        return super().received(data)

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send, and note whether the client takes it."""
        sent: int = super().send(data, do_close=do_close)
        if sent == len(data):
            self.blocked = None
        elif sent or self.blocked is None:
            self.blocked = time.monotonic()
        return sent

    def service(self) -> None:
        """Answer a request; the wait for the next one begins after it."""
        for request in self.requests[:1]:  # from now on `memory.Share` counts it
            request.let_go()
        super().service()
        self.since = time.monotonic()

    def handle_close(self) -> None:
        """The end, for whatever reason."""
        request, left = self.request, [*self.requests]
        if request is not None:
            request.dropped = True
            request.close()  # the file of a body that did not come to its end
            left.append(request)
        for each in left:
            each.let_go()
        super().handle_close()


def as_ours(error: Any) -> LlamaKitError:
    """One of waitress's errors as one of ours; what it says of a defect stays in the log."""
    if error.code == 500:
        shown = LlamaKitError("the server made a mistake", found="the server's log tells more")
        shown.code = "internal"
        return shown
    if isinstance(error, Full):
        return QueueFullError(error.body[:1].lower() + error.body[1:], hint="try again later", retry_after=2)
    cls = TooLargeError if error.code in (413, 431) else UsageError
    return cls(f"this is not a request that can be read: {error.body[:1].lower()}{error.body[1:200]}")
