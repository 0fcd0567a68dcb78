"""waitress, set up for many streams: a thread for each, small buffers, and an end that loses no answer.

This module, `connections`, `loop`, `refusals` and `threads` touch what waitress does not document (`active_channels`, a
channel's `requests` and `socket`, `task_dispatcher`, `maintenance`, `trigger`); tests/rest/test_server.py and
tests/security/test_connections.py test each use, and pyproject pins the major version.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import waitress.server
from llamakit.plugins.frontends.rest.app import make_app
from llamakit.plugins.frontends.rest.connections import Connections, most_connections
from llamakit.plugins.frontends.rest.gate import Gate
from llamakit.plugins.frontends.rest.keys import Keys
from llamakit.plugins.frontends.rest.listen import url_of
from llamakit.plugins.frontends.rest.loop import Loop
from llamakit.plugins.frontends.rest.refusals import Channel
from llamakit.plugins.frontends.rest.security import Security, is_loopback
from llamakit.plugins.frontends.rest.threads import Threads
from llamakit.plugins.frontends.rest.tls import TLSFront

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from llamakit.plugins.frontends.rest.state import ServerState

HEADER_LIMIT = 32 << 10  # bytes of a request's headers
WATERMARK = 64 << 10  # bytes that a stream may be ahead of its reader before its thread waits
BODY_SLACK = 64 << 10  # above our own limit, so that ours answers, in JSON
STALL_SECONDS = 60.0
SPARE_CONNECTIONS = 16  # more than there are places, so that /health is reached while all are taken
CUT_SECONDS = 2.0  # for streams to say that they were cut, and for the last bytes to leave


class Server:
    """A server on listening sockets, `sock` and `more`. `start` returns at once; `stop` ends it."""

    def __init__(
        self, state: ServerState, sock: socket.socket, keys: Keys | None = None, tls: ssl.SSLContext | None = None,
        more: Sequence[socket.socket] = (),
    ) -> None:  # fmt: skip
        options = state.options
        self.state, self.socks = state, (sock, *more)
        most = most_connections(4 * options.places + 256, 3 if tls else 1)
        state.admission.places = max(1, min(options.places, most - SPARE_CONNECTIONS))
        loopback = all(is_loopback(each.getsockname()[0]) for each in self.socks)
        security = Security(options, keys or Keys(()), loopback=loopback)
        self.gate = Gate(make_app(state, security), state)
        threads = Threads(options.threads)
        self._server: Any = waitress.server.create_server(
            self.gate, _dispatcher=threads, sockets=[sock], threads=options.threads,
            channel_request_lookahead=1, connection_limit=2 * most + 64, backlog=1024, asyncore_use_poll=True,
            asyncore_loop_timeout=1, cleanup_interval=1, outbuf_high_watermark=WATERMARK,
            max_request_header_size=HEADER_LIMIT, max_request_body_size=options.body_limit + BODY_SLACK,
            log_socket_errors=False, clear_untrusted_proxy_headers=True, ident="llamakit",
        )  # fmt: skip
        self._server.channel_class, self._server.adj.llamakit_memory = Channel, state.memory
        self.connections = self._server.llamakit_connections = Connections(options, most)
        self._server.maintenance = lambda now: self._look(threads)
        self._front = TLSFront(tls) if tls else None
        self._turns = Loop(self._server, more, self._front.plain if self._front else None)
        self._loop = threading.Thread(target=self._turns.run, name="llamakit-http", daemon=True)

    @property
    def url(self) -> str:
        """Where it is reached, such as "http://127.0.0.1:8080"; of several addresses the first."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """All addresses that it listens on."""
        return [url_of(each, "https" if self._front else "http") for each in self.socks]

    def start(self) -> None:
        """Answer requests, on threads of its own."""
        if self._front is not None:
            self._front.start()
        self._loop.start()

    def stop(
        self,
        grace: float = 0.0,
        tick: Callable[[int, float], None] = lambda answers, left: None,
        cut: Callable[[], bool] = lambda: False,
    ) -> int:
        """Take no new work, let answers go on for `grace` seconds or until `cut()`, then end everything; works once.

        `tick(answers, seconds left)` is called some twenty times a second meanwhile. Returns how many answers were cut.
        """
        if not self._loop.is_alive():
            return 0
        self.state.draining.set()
        end = time.monotonic() + grace
        while self.gate.answering and time.monotonic() < end and not cut():
            tick(self.gate.answering, end - time.monotonic())
            time.sleep(0.05)
        left = self.gate.answering
        self.state.pool.close()  # the engines end what is left with an error, which its streams pass on
        self._wait(lambda: not self.gate.answering)
        if self.gate.answering:
            self._hang_up()
            self._wait(lambda: not self.gate.answering)
        self._server.task_dispatcher.shutdown(timeout=CUT_SECONDS)
        self._wait(lambda: not any(channel.total_outbufs_len for channel in self._channels()))
        self._close()
        return left

    def _look(self, threads: Threads) -> None:
        """What the loop does every second."""
        self.connections.look(self._server.active_channels)
        if threads.look():
            self.state.memory.freed()
        self.state.memory.look()

    def _channels(self) -> list[Any]:
        """The open connections. The loop's thread changes their dict, so copying it may take another try."""
        while True:
            with suppress(RuntimeError):
                return list(self._server.active_channels.values())

    def _hang_up(self) -> None:
        """Cut the connections that still wait for an answer, and those whose readers have stalled."""
        for channel in self._channels():
            if channel.requests or channel.total_outbufs_len:
                channel.will_close = True
                with suppress(OSError, AttributeError):
                    channel.socket.shutdown(socket.SHUT_RDWR)
        self._turns.look_at_all()

    def _close(self) -> None:
        """End the loop, which runs as long as any socket is open: it closes them itself, so nothing is closed twice."""
        self._server.trigger.pull_trigger(self._close_all)
        self._loop.join(CUT_SECONDS)
        if self._front is not None:
            self._front.stop()
        for sock in self.socks:
            sock.close()

    def _close_all(self) -> None:
        """On the loop's thread."""
        for channel in self._channels():
            channel.handle_close()
        self._turns.stop_listening()
        self._server.close()

    @staticmethod
    def _wait(done: Callable[[], bool], seconds: float = CUT_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            time.sleep(0.01)
