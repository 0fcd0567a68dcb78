"""The loop of the server's thread: waits until there is something to read or write, and has it done.

waitress's own asks every connection before every wait, and takes one new connection between two of them, so a thousand
that do nothing slow down all others. Here a connection is looked at when something happened to it: bytes came or left,
or a thread changed what it waits for. What goes wrong with one ends neither the loop nor the listening socket.

Like `server`, it touches what waitress does not document: `_map`, `readable`, `writable`, `accept`, `handle_accept`.
"""

from __future__ import annotations

import errno
import logging
import select
import time
from contextlib import suppress
from ctypes import c_double
from typing import TYPE_CHECKING, Any

import waitress.wasyncore

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

log = logging.getLogger("llamakit.rest")
MOST_ACCEPTED = 64  # new connections a turn, so that those that are there have theirs
SECONDS = 1.0  # at most, between two looks at everything
CALM = 0.02  # seconds to wait after an error, should it come again at once
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Loop:
    """Waits for the sockets of a waitress server. `changed` and `look_at_all` are for any thread."""

    def __init__(
        self,
        server: Any,
        more: Sequence[socket.socket] = (),
        decrypt: Callable[[socket.socket], socket.socket] | None = None,
    ) -> None:
        """`more`: listening sockets beside the server's own; `decrypt`: makes of a connection the one that is read."""
        self._server, self._map, self._decrypt = server, server._map, decrypt
        self._listeners = [Listener(sock, server, self._accept_from) for sock in more]
        self._own = tuple(self._map)  # the listening sockets and the trigger: asked before every wait
        self._waited: dict[int, int] = {}  # for what is waited, by descriptor
        self._changed: set[int] = set()  # descriptors to look at before the next wait
        self._next = c_double(0.0)  # changed in place, as the numbers of `stats.Counters` are
        server.handle_accept = self._accept

    def run(self) -> None:
        """Until all sockets are closed."""
        if not hasattr(select, "poll"):  # Windows
            self._server.run()
            return
        self._poll = select.poll()
        while self._map:
            try:
                self._turn()
            except BaseException:
                log.exception("the server's loop goes on after an error")
                time.sleep(CALM)

    def changed(self, fd: int) -> None:
        """What a connection waits for may have changed; called after the change."""
        if fd not in self._changed:  # else whoever put it there wakes the loop
            self._changed.add(fd)
            self._server.pull_trigger()

    def look_at_all(self) -> None:
        """Any connection may have changed."""
        self._next.value = 0.0
        self._server.pull_trigger()

    def _turn(self) -> None:
        """One wait, and what came of it."""
        self._changed.update(self._own)
        if time.monotonic() >= self._next.value:
            self._next.value = time.monotonic() + SECONDS
            self._changed.update(self._map)
        for _ in range(len(self._changed)):
            self._look(self._changed.pop())
        found = self._poll.poll(0 if self._changed else int(SECONDS * 1000))
        # New connections come last: they may get the descriptors of those that are closed here.
        for fd, flags in sorted(found, key=lambda each: each[0] in self._own):
            self._changed.add(fd)
            if (each := self._map.get(fd)) is not None:
                waitress.wasyncore.readwrite(each, flags)

    def _look(self, fd: int) -> None:
        """Wait for what a connection wants now, for nothing if it is closed."""
        each, flags = self._map.get(fd), 0
        if each is not None:
            flags = select.POLLIN | select.POLLPRI if each.readable() else 0
            if each.writable() and not each.accepting:
                flags |= select.POLLOUT
        if flags == self._waited.get(fd, 0):
            return
        if flags:
            self._poll.register(fd, flags)
            self._waited[fd] = flags
        else:
            self._poll.unregister(fd)
            del self._waited[fd]

    def stop_listening(self) -> None:
        """Close the further listening sockets; on the loop's thread."""
        for each in self._listeners:
            each.close()

    def _accept(self) -> None:
        self._accept_from(self._server)

    def _accept_from(self, listener: Any) -> None:
        """Take the connections that wait, as many as a turn may."""
        server = self._server
        for _ in range(MOST_ACCEPTED):
            sock = None
            try:
                found = listener.accept()
                if found is None:
                    return
                sock, address = found
                server.set_socket_options(sock)
                if self._decrypt is not None:
                    sock = self._decrypt(sock)
                made = server.channel_class(server, sock, server.fix_addr(address), server.adj, map=self._map)
                made.server = Waker(server, self, sock.fileno())
                self._changed.add(sock.fileno())
            except OSError as error:  # the client has gone already, or the system gives no more descriptors
                if sock is not None:
                    sock.close()
                if error.errno in SCARCE:
                    time.sleep(CALM)
                    return
            except Exception:
                log.exception("a connection could not be taken")
                if sock is not None:
                    with suppress(OSError):
                        sock.close()


class Listener(waitress.wasyncore.dispatcher):  # type: ignore[misc]
    """A listening socket beside the server's own. Its connections are the server's."""

    def __init__(self, sock: socket.socket, server: Any, accept: Callable[[Any], None]) -> None:
        super().__init__(sock, map=server._map)
        self.accepting, self._server, self._take = True, server, accept

    def readable(self) -> bool:
        """Whether there is room for more connections."""
        return not self._server.in_connection_overflow

    def writable(self) -> bool:
        """Never."""
        return False

    def handle_accept(self) -> None:
        """Take the connections that wait."""
        self._take(self)


class Waker:
    """The server as one connection sees it: to wake the loop tells which connection it is about."""

    def __init__(self, server: Any, loop: Loop, fd: int) -> None:
        self._server, self._loop, self._fd = server, loop, fd

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def pull_trigger(self) -> None:
        """Have the loop look at the connection."""
        self._loop.changed(self._fd)
