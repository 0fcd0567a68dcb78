"""A server on all addresses of this machine: without a key it does not start unless that is asked for, and then strange
names lead nowhere, files stay where they are and one address does not take all connections; with keys, nothing that is
not open answers without one."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
from collections import Counter
from typing import Any

ANY = "0.0.0.0"
STRANGE = (
    "evil.example", "localhost.evil.example", "evil.example:80", "127.0.0.1.evil.example", "127.1", "0x7f.1",
    "2130706433",
    "[::ffff:127.0.0.1]", "localhost@evil.example", "localhost,evil.example", "localhost/evil", "*", " ", "localhost:x",
)  # fmt: skip
SECRET = b"root:"  # how /etc/passwd begins
CONNECTIONS = 1200


def refuses(model: str, port: int, environment: dict[str, str]) -> str:
    """What is wrong with how a server on all addresses without a key starts; empty if it does not."""
    command = [sys.executable, "-m", "llamakit", "serve", "-m", model, "--host", ANY, "--port", str(port)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return "a server on all addresses without a key goes on"
    return "" if done.returncode == 2 and "without an API key" in done.stderr else f"{done.returncode}: {done.stderr}"


def own_address() -> str:
    """An address of this machine that is not loopback; loopback where it has none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def ask(address: str, port: int, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body; 0 where the connection was closed."""
    connection = http.client.HTTPConnection(address, port, timeout=60)
    with contextlib.closing(connection):
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            body = b"{}" if method in ("POST", "PUT", "PATCH") else b""
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            with connection.getresponse() as response:
                return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""


def routes(document: dict[str, Any], *, closed: bool = False) -> list[tuple[str, str]]:
    """Methods and paths of a server's description, with "x" in place of parameters; `closed`: that want a key."""
    return [
        (method.upper(), re.sub(r"\{.*?\}", "x", path))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if not closed or operation.get("security") != []
    ]


def open_to_all(server: Any, paths: tuple[str, ...]) -> tuple[list[str], Counter[int]]:
    """Attack a server without a key from this machine's own address; the faults, and the statuses of all answers."""
    faults: list[str] = []
    seen: Counter[int] = Counter()
    address = own_address()
    for method, path in routes(server.request("GET", "/openapi.json")[1]):
        for name in STRANGE:
            status, _ = ask(address, server.port, method, path, {"Host": name})
            seen[status] += 1
            if status not in (0, 400, 403):
                faults.append(f"{method} {path} answers {status} to the name {name!r}")
    for path in paths:
        for method in ("GET", "HEAD", "POST"):
            status, body = ask(address, server.port, method, path, {})
            seen[status] += 1
            if SECRET in body or status not in (0, 200, 400, 403, 404, 405, 501):
                faults.append(f"{method} {path[:60]} answers {status}: {body[:80]!r}")
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            with contextlib.suppress(OSError):
                sock = stack.enter_context(socket.create_connection((address, server.port), timeout=5))
                sock.sendall(b"GET /health HTTP/1.1\r\nX: ")
        if server.request("GET", "/health")[0] != 200:
            faults.append(f"{CONNECTIONS:,} connections of one address leave none for /health")
    return faults, seen


def with_a_key(server: Any, key: str) -> tuple[list[str], Counter[int]]:
    """The same of one with a key: what is not told to be open wants it."""
    faults: list[str] = []
    seen: Counter[int] = Counter()
    document = json.loads(ask(server.host, server.port, "GET", "/openapi.json", {"Authorization": f"Bearer {key}"})[1])
    for method, path in routes(document, closed=True):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"x-api-key": key[:-1]}, {"Cookie": key}):
            status, _ = ask(own_address(), server.port, method, path, headers)
            seen[status] += 1
            if status not in (401, 429):
                faults.append(f"{method} {path} answers {status} without a key")
    return faults, seen
