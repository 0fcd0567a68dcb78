"""TLS in front of waitress, which speaks none: a client's connection goes in, a decrypted one comes out.

The server uses what comes out as if it were the client's own connection, with the client's address. It is one end of a
pair of sockets that nothing listens on, so nobody else can get there, or claim to be somebody else.

One thread with asyncio carries all connections. Bytes are passed on as they come, so streams stay streams; a reader
that stalls holds back its own connection only, and the end of either side ends the other.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

from llamakit.errors import UsageError

log = logging.getLogger("llamakit.rest")
HANDSHAKE_SECONDS = 10.0
LAST_SECONDS = 15.0  # for the last bytes to reach a slow reader, once the server has closed the connection
FEW_SECONDS, FEW = 2.0, 256  # the same while more than so many connections end
PIECE = 64 << 10


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


class TLSFront:
    """Decrypts connections, on a thread of its own from `start` to `stop`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        self._n_ending = 0
        self._thread = threading.Thread(target=self._run, name="llamakit-tls", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, once the last bytes of connections that the server has closed are out; the others are cut off."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2 * FEW_SECONDS + 1.0)

    def plain(self, client: socket.socket) -> socket.socket:
        """The connection of a client, decrypted: closing it closes the client's. For any thread, and does not wait."""
        near, far = socket.socketpair()
        for each in (client, far):
            each.setblocking(False)
        self._loop.call_soon_threadsafe(self._begin, client, far)
        return near

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.set_exception_handler(_quiet)
        await self._stop.wait()
        if self._open:
            await asyncio.wait(self._open, timeout=FEW_SECONDS)

    def _begin(self, client: socket.socket, far: socket.socket) -> None:
        task = self._loop.create_task(self._pass_on(client, far))
        self._open.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError):
            log.error("TLS: a connection ended with an error", exc_info=error)

    async def _pass_on(self, client: socket.socket, far: socket.socket) -> None:
        """Pass bytes on between a client and the server's end until one of them ends."""
        with client, far:  # the transports close them in order, if it comes to that
            server_reader, server_writer = await asyncio.open_connection(sock=far, limit=PIECE)
            first = asyncio.ensure_future(server_reader.read(PIECE))
            shake = asyncio.ensure_future(self._shake_hands(client))
            copies: list[asyncio.Future[None]] = []
            try:
                await asyncio.wait((first, shake), return_when=asyncio.FIRST_COMPLETED)
                if not shake.done():
                    return  # the server has closed it already, to make room
                reader, writer = shake.result()
                copies = [
                    asyncio.ensure_future(_copy(reader, server_writer)),
                    asyncio.ensure_future(_copy(server_reader, writer, first)),
                ]
                await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
                server_writer.close()
                await self._end(writer)
            finally:
                for each in (first, shake, *copies):
                    each.cancel()
                await asyncio.gather(first, shake, *copies, return_exceptions=True)
                server_writer.transport.abort()

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        """Close a client's connection once it has what was written. Nobody can hold very many that way."""
        writer.close()
        self._n_ending += 1
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(LAST_SECONDS if self._n_ending <= FEW else FEW_SECONDS):
                    await writer.wait_closed()
        finally:
            self._n_ending -= 1
            writer.transport.abort()

    async def _shake_hands(self, client: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """What a client sends, and what is sent to it, decrypted; OSError if it does not speak TLS."""
        reader = asyncio.StreamReader(PIECE, self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol, client, ssl=self.context, ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=LAST_SECONDS,
        )  # fmt: skip
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: asyncio.Future[bytes] | None = None
) -> None:
    """Pass bytes on until one side ends; `first`: those that are read already."""
    with suppress(OSError):
        data = await (first or reader.read(PIECE))
        while data:
            writer.write(data)
            await writer.drain()
            data = await reader.read(PIECE)


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Handshakes that come to nothing are no news."""
    error = context.get("exception")
    if not isinstance(error, (OSError, asyncio.CancelledError)):
        log.error("TLS: %s", context.get("message"), exc_info=error if isinstance(error, Exception) else None)
