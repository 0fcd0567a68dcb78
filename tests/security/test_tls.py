"""Behind TLS everybody has their own address: limits, shares and wrong keys go by it, and nobody can claim another.

All addresses of 127.0.0.0/8 are this machine's on Linux, so a client may come from any of them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from llamakit.plugins.frontends.rest import tls
from llamakit.plugins.frontends.rest.tls import TLSFront, make_context

from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="one loopback address only, and no /proc")
LONG = {"prompt": "Once", "n_predict": 100_000, "ignore_eos": True, "stream": True}
SHORT = {"prompt": "Once", "n_predict": 1}


@pytest.fixture
def secure(serve, pem):
    """Start a server that speaks TLS: `secure(settings={"per_client": 1})`."""
    return lambda **options: serve(tls=make_context(*map(str, pem)), max_predict=100_000, **options)


@pytest.fixture
def visit(pem):
    """A connection from an address of this machine: `visit(server, "127.0.0.9")`; closed at the end of the test."""
    with contextlib.ExitStack() as stack:
        context = ssl.create_default_context(cafile=pem[0])

        def connect(server, address):
            connection = http.client.HTTPSConnection(
                server.host, server.port, timeout=PATIENCE, context=context, source_address=(address, 0)
            )
            stack.callback(lambda: connection.answer.close() if hasattr(connection, "answer") else None)
            return stack.enter_context(contextlib.closing(connection))

        yield connect


def ask(connection, path, body=None, headers=None):
    """The answer's status. It is read, but for a stream, which goes on until the connection is closed."""
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers or {})
    connection.answer = response = connection.getresponse()
    if not (body or {}).get("stream"):
        response.read()
    else:
        response.read1()
    return response.status


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_clients_without_keys_are_told_apart_by_their_addresses(secure, visit):
    """All were one client, named localhost: the first with an endless answer kept all others out."""
    server = secure(settings={"per_client": 1})
    assert ask(visit(server, "127.0.0.5"), "/completion", LONG) == 200
    assert ask(visit(server, "127.0.0.5"), "/completion", SHORT) == 429
    assert ask(visit(server, "127.0.0.6"), "/completion", SHORT) == 200
    assert ask(visit(server, "127.0.0.6"), "/completion", LONG) == 200
    owners = {group.job.owner for group in server.state.pool.loaded().service.engine.running}
    assert owners == {"127.0.0.5", "127.0.0.6"}


def test_wrong_keys_are_counted_by_address(secure, visit):
    server = secure(api_key=["k"])
    guesser = visit(server, "127.0.0.5")
    found = [ask(guesser, "/props", headers={"x-api-key": f"guess-{i}"}) for i in range(25)]
    assert found == [401] * 20 + [429] * 5
    assert ask(visit(server, "127.0.0.6"), "/props", headers={"x-api-key": "guess"}) == 401


def test_connections_are_counted_by_address(secure, visit):
    server = secure(connections_per_address=2)
    first = [visit(server, "127.0.0.5") for _ in range(2)]
    assert [ask(each, "/health") for each in first] == [200, 200]
    with pytest.raises(OSError):
        ask(visit(server, "127.0.0.5"), "/health")
    assert ask(visit(server, "127.0.0.6"), "/health") == 200


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "Remote-Addr", "Client-IP"]
)
def test_nobody_can_claim_another_address(secure, visit, name):
    server = secure(settings={"per_client": 1})
    assert ask(visit(server, "127.0.0.5"), "/completion", LONG) == 200
    for value in ("127.0.0.9", "for=127.0.0.9", "127.0.0.9, 127.0.0.5"):
        assert ask(visit(server, "127.0.0.5"), "/completion", SHORT, {name: value}) == 429


@pytest.mark.parametrize(
    "data",
    [b"PROXY TCP4 127.0.0.9 127.0.0.1 1 2\r\n", b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c\x7f\0\0\x09\x7f\0\0\x01\0\1\0\2"],
    ids=["version 1", "version 2"],
)
def test_the_protocol_of_proxies_is_not_spoken(secure, pem, data):
    """Neither before TLS, where it ends the connection, nor within, where it is no request."""
    server = secure()
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    context = ssl.create_default_context(cafile=pem[0])
    for within in (False, True):
        with socket.create_connection((server.host, server.port), timeout=PATIENCE) as plain:
            found = b""
            with contextlib.suppress(OSError):
                if not within:
                    plain.sendall(data)
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
                    sock.sendall(data + request)
                    while part := sock.recv(65536):
                        found += part
            assert not found if not within else b" 400 " in found, found


def test_nothing_but_the_public_address_listens(secure):
    """There was a socket in a temporary folder, which stayed where a server was killed."""
    before, folder = listening(), Path(tempfile.gettempdir())
    files = set(folder.glob("*llamakit*"))
    secure()
    assert set(folder.glob("*llamakit*")) == files
    assert len(listening() - before) == 1


def sockets():
    """Inodes of the sockets of this process."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            name = str(each.readlink())
            found |= {name[8:-1]} if name.startswith("socket:") else set()
    return found


def listening():
    """Those that listen."""
    found = set()
    for kind, inode, state, listens in (("tcp", 9, 3, "0A"), ("tcp6", 9, 3, "0A"), ("unix", 6, 3, "00010000")):
        lines = Path(f"/proc/self/net/{kind}").read_text().splitlines()[1:]
        found |= {line.split()[inode] for line in lines if line.split()[state] == listens}
    return found & sockets()


def test_connections_that_make_room_are_ended_before_they_shook_hands(secure):
    """Else each kept its descriptors for the ten seconds that there are to shake hands."""
    server = secure()
    server.server.connections.most = 4
    before = descriptors()
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=PATIENCE))
        until(lambda: server.server.connections.n_slow >= 36)
        until(lambda: descriptors() <= before + 40 + 4 * 3 + 4)
    until(lambda: descriptors() <= before)


def test_what_was_said_last_arrives_when_the_server_stops(secure, visit):
    server = secure()
    connection = visit(server, "127.0.0.5")
    connection.request("POST", "/completion", json.dumps(LONG))
    with connection.getresponse() as response:
        response.read1()
        thread = threading.Thread(target=server.server.stop)
        thread.start()
        data = b""
        while part := response.read1():
            data += part
        thread.join()
    last = json.loads(data.split(b"data: ")[-1])
    assert "shuts down" in json.dumps(last), last


def test_a_reader_that_stalls_does_not_hold_up_the_end(secure, visit):
    server = secure()
    connection = visit(server, "127.0.0.5")
    connection.request("POST", "/completion", json.dumps(LONG | {"n_probs": 400}))
    time.sleep(1.0)
    began = time.monotonic()
    server.server.stop()
    assert time.monotonic() - began < PATIENCE
    assert not [thread for thread in threading.enumerate() if thread.name == "llamakit-tls"]


def test_a_connection_that_cannot_be_decrypted_leaves_nothing(pem, caplog):
    front = TLSFront(make_context(*map(str, pem)))
    before = descriptors()
    front.start()
    try:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\x16\x03\x01" + bytes(500)):
            client, server = socket.socketpair()
            with client, front.plain(server) as near:
                near.settimeout(20)
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                assert near.recv(100) == b""
    finally:
        front.stop()
    until(lambda: descriptors() <= before)
    assert not caplog.records


def test_a_slow_reader_gets_all_of_an_answer_whose_connection_the_server_closes(pem, monkeypatch):
    """What two seconds do not carry was cut off, without an error that the reader could see."""
    assert tls.LAST_SECONDS > 10
    monkeypatch.setattr(tls, "LAST_SECONDS", PATIENCE)  # for a machine that stands still meanwhile
    front, size = TLSFront(make_context(*map(str, pem))), 160_000
    front.start()
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        with listener, socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(listener.getsockname())
            accepted = listener.accept()[0]
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            near = front.plain(accepted)
            near.setblocking(True)
            answer = threading.Thread(target=lambda: (near.recv(9), near.sendall(bytes(size)), near.close()))
            answer.start()
            found = 0
            with ssl.create_default_context(cafile=pem[0]).wrap_socket(plain, server_hostname="127.0.0.1") as client:
                client.sendall(b"x")
                while part := client.recv(4096):
                    found += len(part)
                    time.sleep(0.07)  # 60 kB a second, which takes longer than two seconds
            answer.join()
        assert found == size
    finally:
        front.stop()
