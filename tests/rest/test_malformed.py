"""Two thousand requests that no client should send leave the server answering, and get errors that say why."""

from __future__ import annotations

import importlib.util
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
N_REQUESTS = 2000
N_CLIENTS = 8
RUNNING = 1.0  # seconds that a request which may be right is waited for


def _module(path: Path) -> Any:
    """A helper that is not a test: imported by its path, since test folders are no packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


malformed = _module(HERE / "malformed.py")


@pytest.fixture(scope="module")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    log = tmp_path_factory.mktemp("malformed") / "log"
    with _module(HERE.parent / "serving.py").Server(small_model, log, "--max-predict", "32") as server:
        yield server


def described_fields(server: Any) -> dict[str, list[str]]:
    """The fields of each POST body, from the server's own description."""
    status, document = server.request("GET", "/openapi.json")
    assert status == 200
    found = {}
    for path, operations in document["paths"].items():
        if "post" in operations and "{" not in path:
            content = operations["post"].get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            found[path] = sorted(properties(schema, document))
    return found


def properties(schema: dict[str, Any], document: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        node: Any = document
        for part in schema["$ref"].split("/")[1:]:
            node = node[part]
        return properties(node, document)
    inner = [properties(part, document) for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, [])]
    return set(schema.get("properties", {})).union(*inner)


def send(server: Any, nasty: Any) -> bytes | None:
    """What the server answers: b"" where it just closes, None where a request that may be right goes on."""
    connection = socket.create_connection((server.host, server.port), timeout=PATIENCE)
    try:
        end = time.monotonic() + (RUNNING if nasty.may_run else PATIENCE)
        try:
            connection.sendall(nasty.raw)
            if nasty.leave == "half":
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it refused before all was sent; the answer may be there all the same
        if nasty.leave == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return b""
        return receive(connection, end, nasty)
    finally:
        connection.close()


def receive(connection: socket.socket, end: float, nasty: Any) -> bytes | None:
    answer = b""
    while True:
        connection.settimeout(max(0.01, end - time.monotonic()))
        try:
            part = connection.recv(1 << 16)
        except TimeoutError:
            if nasty.may_run:
                return None
            raise AssertionError(f"no answer in {PATIENCE:.0f} s") from None
        except OSError:
            return answer
        if not part:
            return answer
        answer += part


def fault(nasty: Any, answer: bytes | None) -> str:
    """What is wrong with an answer; empty if nothing."""
    if not answer:
        return ""
    if not answer.startswith((b"HTTP/1.", b"<")):
        return f"no HTTP: {answer[:60]!r}"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status == 100:
        return fault(nasty, body)
    if status == 501 and (b"Transfer-Encoding" in nasty.raw or b'"not_supported"' in body):
        return ""  # as RFC 9112 asks for where an encoding is not known, and of what is switched off
    lost = not body and b"\r\nConnection: close" in head
    if lost and status in (*range(400, 500), 501):
        return ""  # a connection closed with bytes unread is reset, and what was under way may be lost
    if status >= 500 and status != 503:
        return f"{status}: {body[:300]!r}"
    if status < 400 or nasty.raw.startswith(b"HEAD "):
        return ""
    return error_fault(head, body)


def error_fault(head: bytes, body: bytes) -> str:
    """What is wrong with an error's body: it is JSON in the shape of one of the APIs."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"no error object: {head[:40]!r} {body[:200]!r}"
    if isinstance(error, str):
        return "" if error else "an empty error"
    if not error.get("message") or not error.get("type"):
        return f"an error without message or type: {error}"
    return "Traceback" if "Traceback" in error["message"] else ""


def attack(server: Any, requests: list[Any]) -> tuple[list[str], Counter[str]]:
    """Send them all from some threads; the faults, and how many answers had which status."""
    faults: list[str] = []
    seen: Counter[str] = Counter()

    def client(mine: list[Any]) -> None:
        for nasty in mine:
            try:
                answer = send(server, nasty)
                what = fault(nasty, answer)
            except (AssertionError, OSError) as error:
                what, answer = str(error) or repr(error), b""
            seen["goes on" if answer is None else answer[9:12].decode(errors="replace") or "closed"] += 1
            if what:
                faults.append(f"{nasty.name}: {what}")

    threads = [threading.Thread(target=client, args=(requests[i::N_CLIENTS],)) for i in range(N_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults, seen


def test_malformed_requests_leave_the_server_answering(server: Any) -> None:
    right = {"prompt": "Once upon a time", "n_predict": 8, "seed": 1}
    before = server.request("POST", "/completion", right)[1]["content"]
    requests = malformed.Maker(2023, described_fields(server)).all(N_REQUESTS)
    assert len(requests) == N_REQUESTS
    faults, seen = attack(server, requests)
    assert server.process.poll() is None, server.output()[-3000:]
    assert faults == []
    assert seen["400"] > N_REQUESTS / 4, seen  # they are wrong indeed
    assert server.request("GET", "/health")[0] == 200
    assert server.request("POST", "/completion", right)[1]["content"] == before
    assert "Traceback" not in server.output()


def test_faults_are_found() -> None:
    """The checks above notice what they look for."""
    nasty = malformed.Nasty("x", b"POST / HTTP/1.1\r\n\r\n")
    for answer, part in (
        (b"HTTP/1.1 500 X\r\n\r\n{}", "500"),
        (b"HTTP/1.1 400 X\r\n\r\nBad Request", "no error object"),
        (b'HTTP/1.1 400 X\r\n\r\n{"error": {"message": ""}}', "without message"),
        (b"SSH-2.0", "no HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 X\r\n\r\n", "502"),
    ):
        assert part in fault(nasty, answer)
    assert fault(nasty, b'HTTP/1.1 400 X\r\n\r\n{"error": {"message": "a", "type": "b"}}') == ""
    assert fault(nasty, b"HTTP/1.1 200 OK\r\n\r\n") == ""
