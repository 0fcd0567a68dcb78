"""The socket that the server listens on, made before the model loads, so that a port in use is told at once."""

from __future__ import annotations

import errno
import http.client
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from llamakit.errors import LlamaKitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG = 1024
ANY_ADDRESS = ("", "0.0.0.0", "::")  # all that the machine has
SEND_BUFFER = (
    128 << 10
)  # bytes that the system takes of an answer before its reader must read; accepted sockets inherit


class ListenError(LlamaKitError):
    """An address that cannot be listened on."""

    code = "cannot_listen"
    exit_code = 4


def listen_on(hosts: Sequence[str], port: int, stall_seconds: float = 60.0) -> list[socket.socket]:
    """A listening socket for each address, all with the same port.

    An address that two names mean, or that 0.0.0.0 or :: covers, has one.
    """
    wanted = {}  # (family, address)
    for host in hosts:
        family, address = _resolve(host, port)
        wanted[family, address[0]] = None
    every = {family for family, address in wanted if address in ANY_ADDRESS}
    found: list[socket.socket] = []
    try:
        for family, address in wanted:
            if family in every and address not in ANY_ADDRESS:
                continue
            taken = found[0].getsockname()[1] if found else port
            found.append(listen(address, taken, stall_seconds, alone=len(wanted) == 1))
    except BaseException:
        for each in found:
            each.close()
        raise
    return found


def listen(host: str, port: int, stall_seconds: float = 60.0, *, alone: bool = True) -> socket.socket:
    """A listening TCP socket; with `alone`, "::" takes IPv4 too.

    Where the system can, a client that leaves an answer unread for `stall_seconds` is cut off.
    """
    family, address = _resolve(host.strip("[]"), port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # there it would let two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_seconds * 1000))
        if family == socket.AF_INET6 and host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not alone))
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _explain(error, host, port) from None
    return sock


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    """Where a browser on this machine reaches the socket."""
    host, port = sock.getsockname()[:2]
    host = "127.0.0.1" if host in ANY_ADDRESS else host
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    """Address family and address; IPv4 where a name has both, since more clients try it first."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"cannot listen on {host}: no such host is known", param="host") from None
    best = min(found, key=lambda info: info[0] != socket.AF_INET)
    return best[0], best[4]  # type: ignore[return-value]


def _explain(error: OSError, host: str, port: int) -> LlamaKitError:
    place = f"cannot listen on {host}:{port}"
    if error.errno == errno.EADDRINUSE:
        hint = f"--port {port + 1 if port < 65535 else 8080}, or --port 0 for any free one"
        return ListenError(f"{place}: the port is in use", found=_who(host, port), hint=hint, param="port")
    if error.errno == errno.EACCES:
        hint = "--port 8080, or a port above 1023"
        return ListenError(f"{place}: this user may not use that port", hint=hint, param="port")
    if error.errno == errno.EADDRNOTAVAIL:
        hint = "--host 127.0.0.1, or --host 0.0.0.0 for all addresses"
        return ListenError(f"{place}: it is not an address of this machine", hint=hint, param="host")
    return ListenError(f"{place}: {error.strerror or error}", param="host")


def _who(host: str, port: int) -> str:
    """What answers there already, as far as it says."""
    connection = http.client.HTTPConnection("127.0.0.1" if host in ANY_ADDRESS else host, port, timeout=1)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        name = response.getheader("Server") or "a server without a name"
        return f"{name.partition(' ')[0]} answers there, status {response.status} at /health"
    except (OSError, http.client.HTTPException, ValueError):
        return "another program that does not answer /health"
    finally:
        with suppress(OSError):
            connection.close()
