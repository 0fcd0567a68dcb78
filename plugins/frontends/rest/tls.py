"""TLS in front of waitress, which speaks none: decrypts on the public socket and passes bytes on to a private one.

One thread with asyncio carries all connections. Bytes are passed on as they come, so streams stay streams; a reader
that stalls holds back its own connection only, and the end of either side ends the other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.plugins.frontends.rest.connections import Connections

log = logging.getLogger("llamakit.rest")
HANDSHAKE_SECONDS = 10.0
PIECE = 64 << 10
PREFIX = "llamakit-tls-"


def make_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """TLS 1.2 or newer with the certificate chain and key of two PEM files (or one that holds both)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for file, param in ((cert_file, "ssl_cert_file"), (key_file, "ssl_key_file")):
        if file and not Path(file).is_file():
            raise UsageError(f"no file {file}", param=param)
    if not cert_file:
        raise UsageError("a TLS key was given without its certificate", hint="--ssl-cert-file", param="ssl_cert_file")
    try:
        context.load_cert_chain(cert_file, key_file or None, password=_no_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"{cert_file} and {key_file or 'no key file'} cannot be used for TLS: {reason}",
            hint="a PEM file of the certificate chain, and one of its private key without a password",
            param="ssl_cert_file",
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key is locked with a password")


def private_socket() -> socket.socket:
    """A listening socket that only this user reaches: a Unix one in a folder of its own, else one of 127.0.0.1."""
    if not hasattr(socket, "AF_UNIX"):
        return socket.create_server(("127.0.0.1", 0))
    remove_left()
    folder = tempfile.mkdtemp(prefix=PREFIX)  # mode 0700
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{folder}/http")
    sock.listen(1024)
    return sock


def remove_private(sock: socket.socket) -> None:
    """Close a private socket and remove what it has left on the disk."""
    path = sock.getsockname() if sock.fileno() >= 0 and sock.family not in (socket.AF_INET, socket.AF_INET6) else ""
    sock.close()
    if path:
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)
            Path(path).parent.rmdir()


def remove_left() -> None:
    """Remove the folders of servers that were killed: those of this user whose socket nobody listens on."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid() or not (folder / "http").is_socket():
                continue
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(f"{folder}/http")
                except ConnectionRefusedError:
                    (folder / "http").unlink()
                    folder.rmdir()


class TLSFront:
    """Passes connections of the sockets `public` on to `inner`, decrypted."""

    def __init__(
        self, public: Sequence[socket.socket], inner: socket.socket, context: ssl.SSLContext, connections: Connections
    ) -> None:
        self.public, self.context, self._connections = public, context, connections
        self._open: dict[int, _Peer] = {}
        self._family, self._address = inner.family, inner.getsockname()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="llamakit-tls", daemon=True)

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Close all connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.set_exception_handler(_quiet)
        servers = [
            await asyncio.start_server(
                self._connection, sock=sock, ssl=self.context, limit=PIECE,
                ssl_handshake_timeout=HANDSHAKE_SECONDS, ssl_shutdown_timeout=2.0,
            ) for sock in self.public
        ]  # fmt: skip
        await self._stop.wait()
        for server in servers:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a connection on while it has a place; here it is known where it comes from."""
        peer = writer.get_extra_info("peername")
        if len(self._open) >= self._connections.most or self._connections.is_crowded(peer, self._open):
            writer.transport.abort()
            return
        self._open[id(writer)] = _Peer(peer)
        try:
            await self._pass_on(reader, writer)
        finally:
            del self._open[id(writer)]

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = socket.socket(self._family)
        inner.setblocking(False)
        try:
            await self._loop.sock_connect(inner, self._address)
            inner_reader, inner_writer = await asyncio.open_connection(sock=inner, limit=PIECE)
        except BaseException as error:  # the end of the server among them
            inner.close()
            writer.close()
            if isinstance(error, OSError):
                return
            raise
        copies = [
            asyncio.ensure_future(_copy(reader, inner_writer)),
            asyncio.ensure_future(_copy(inner_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            for each in (writer, inner_writer):
                each.close()


class _Peer:
    """Who is at the other end."""

    def __init__(self, addr: object) -> None:
        self.addr = addr


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until one side ends."""
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Handshakes that come to nothing are no news."""
    error = context.get("exception")
    if not isinstance(error, (OSError, asyncio.TimeoutError, asyncio.CancelledError)):
        log.error("TLS: %s", context.get("message"), exc_info=error if isinstance(error, Exception) else None)
