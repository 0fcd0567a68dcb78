"""Clients that are slow on purpose, or many: the server answers everybody else, `/health` first of all."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
from llamakit.plugins.frontends.rest import connections
from llamakit.plugins.frontends.rest.connections import Connections, address_of, client_of, most_connections
from llamakit.plugins.frontends.rest.keys import Keys, owner_of
from llamakit.plugins.frontends.rest.options import ServeOptions
from llamakit.plugins.frontends.rest.security import Security
from llamakit.plugins.frontends.rest.threads import AT_REST, Threads

from tests.waiting import PATIENCE, until

ENDLESS = {"prompt": "Once", "n_predict": 100_000, "stream": True, "ignore_eos": True, "n_probs": 50}


@pytest.fixture
def sockets(server):
    """Open a socket to the server and send something: `sockets(b"GET")`."""
    with contextlib.ExitStack() as stack:

        def make(data=b"", receive=0, client=server):
            sock = stack.enter_context(socket.socket())
            if receive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            sock.settimeout(PATIENCE)
            sock.connect((client.host, client.port))
            sock.sendall(data)
            return sock

        yield make


def healthy(client, seconds=50.0):
    began = time.monotonic()
    assert client.get("/health")[0] == 200
    return time.monotonic() - began < seconds


def ended(sock, seconds=PATIENCE):
    """Whether the server closes a connection."""
    sock.settimeout(seconds)
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def trickle(sock, piece, seconds=PATIENCE):
    """Send a piece every tenth of a second, until the server ends the connection."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            sock.sendall(piece)
            time.sleep(0.1)
    except OSError:
        return
    raise AssertionError("the server still listens")


def test_half_a_header_is_not_waited_for(sockets, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    for data in (b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-"):
        assert ended(sockets(data)), data


def test_a_header_that_comes_letter_by_letter_is_not_waited_for(sockets, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    trickle(sockets(b"GET /health HTTP/1.1\r\n"), b"X: 1\r\n")


def test_a_body_that_trickles_is_not_waited_for(sockets, monkeypatch):
    monkeypatch.setattr(connections, "PACE_SECONDS", 1.0)
    head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    trickle(sockets(head), b"x")


@pytest.mark.parametrize("body", [b"", b'{"content":"x"}'])
def test_who_offers_to_wait_before_a_body_is_answered(sockets, body):
    """Without a body the server asked for one, and waited for it until it gave the connection up."""
    asked = b"HTTP/1.1 100 Continue\r\n\r\n"
    rest = b"Host: localhost\r\nExpect: 100-continue\r\n"
    head = b"POST /tokenize HTTP/1.1\r\n" + rest + b"Content-Length: %d\r\n\r\n" % len(body)
    for first, then in ((head + body, b""), (head, body), (b"GET /health HTTP/1.1\r\n" + rest + b"\r\n", b"")):
        sock, data = sockets(first), b""
        while not data.removeprefix(asked):
            part = sock.recv(1000)
            assert part, "it was given up"
            data += part
            if data == asked and then:
                sock.sendall(then)
        assert data.removeprefix(asked).startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))


@pytest.mark.parametrize(("seconds", "waits"), [(0.9, True), (1.1, False)])
def test_a_slow_but_steady_body_is_waited_for(server, sockets, monkeypatch, seconds, waits):
    """A kilobyte comes in so many seconds of a clock that only the body moves."""
    now, body = [time.monotonic()], json.dumps({"prompt": "Once", "n_predict": 1, "user": "x" * 20_000}).encode()
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: now[0]))
    until(lambda: not server.server._channels())  # those of other tests
    sock = sockets(f"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    until(server.server._channels)
    (channel,) = server.server._channels()
    head = channel.n_received
    for start in range(0, len(body), 1000):
        with contextlib.suppress(OSError):
            sock.sendall(body[start : start + 1000])
        until(lambda start=start: channel.n_received >= head + min(start + 1000, len(body)) or not channel.connected)
        server.server.connections.look({0: channel})
        now[0] += seconds
    assert channel.connected is waits
    if waits:
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_bodies_that_come_slowly_count_before_they_are_whole(serve, sockets, monkeypatch):
    monkeypatch.setattr(connections, "PACE_SECONDS", 600.0)
    small = serve(request_memory="4M")
    head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
    held = [sockets(head + b"x" * 1_500_000, client=small) for _ in range(2)]
    until(lambda: small.state.memory.taken >= 3_000_000)
    assert small.state.memory.taken <= 4 << 20
    with contextlib.suppress(OSError):  # it is refused while it is sent
        late = sockets(head + b"x" * 1_500_000, client=small)
    assert b" 429 " in late.recv(1000)
    assert healthy(small)
    assert small.post("/completion", {"prompt": "Once", "n_predict": 1})[0] == 200
    for sock in held:
        sock.close()
    until(lambda: not small.state.memory.taken)


@pytest.mark.parametrize(
    "data",
    [b"\r\n" * 500, b"\r\n" * 10 + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
     b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" * 2,
     b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}" * 3],
    ids=["blank lines", "blank lines first", "a request behind the last one", "bodies behind the last one"],
)  # fmt: skip
def test_what_is_dropped_counts_no_more(server, sockets, data):
    """Blank lines counted for ever: memory was never given back, and all of it would have been taken in the end."""
    for _ in range(5):
        sock = sockets(data)
        sock.shutdown(socket.SHUT_WR)
        ended(sock)
    until(lambda: not server.state.memory.taken)


@pytest.fixture
def small_buffers(server, monkeypatch):
    """What is written to a client that does not read fills up at once."""
    listening = server.server._server
    before = listening.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2  # the system doubles what is set
    listening.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    monkeypatch.setattr(listening.adj, "outbuf_high_watermark", 4096)
    yield
    listening.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before)


def test_an_answer_that_nobody_reads_is_given_up(server, sockets, small_buffers, monkeypatch):
    monkeypatch.setattr(connections, "PACE_SECONDS", 1.0)
    data = json.dumps(ENDLESS).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    before = server.server.connections.n_slow
    socks = [sockets(head + data, receive=4096) for _ in range(4)]
    while server.server.connections.n_slow < before + 4:
        assert healthy(server)
        time.sleep(0.2)
    until(lambda: not server.server.gate.answering)
    del socks


def test_more_half_open_connections_than_there_is_room_for(server, sockets, monkeypatch):
    """1,540 half-sent headers stopped the server."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 600.0)  # none is ended since it is slow
    most = server.server.connections.most
    limit = connections.most_connections(4096) - 200
    if most + 40 > limit:
        server.server.connections.most = 300
    try:
        many = [sockets(b"GET /health HTTP/1.1\r\nHost: local") for _ in range(server.server.connections.most + 40)]
        assert healthy(server)
        assert server.post("/completion", {"prompt": "Once", "n_predict": 2})[0] == 200
        assert ended(many[0])  # the oldest made room
    finally:
        server.server.connections.most = most


def test_the_oldest_that_waits_for_nothing_makes_room():
    rules = Connections(ServeOptions(), 3)

    def channel(since, **fields):
        made = SimpleNamespace(addr=("127.0.0.1", 1), since=since, requests=[], total_outbufs_len=0, closed=False)
        made.handle_close = lambda: setattr(made, "closed", True)
        return SimpleNamespace(**{**vars(made), **fields}) if fields else made

    old, new = channel(1.0), channel(2.0)
    busy = channel(0.0, requests=[1])
    assert rules.admit(("127.0.0.1", 2), {1: busy, 2: new, 3: old})
    assert old.closed
    assert not new.closed
    assert not rules.admit(("127.0.0.1", 2), {1: busy, 2: busy, 3: busy})


def test_an_address_has_a_share_of_the_connections():
    rules = Connections(ServeOptions(), 100)
    others = {i: SimpleNamespace(addr=("203.0.113.7", i)) for i in range(25)}
    assert rules.is_crowded(("203.0.113.7", 99), others)
    assert not rules.is_crowded(("203.0.113.8", 99), others)
    local = {i: SimpleNamespace(addr=("127.0.0.1", i)) for i in range(90)}
    assert not rules.is_crowded(("127.0.0.1", 99), local)
    few = Connections(ServeOptions(connections_per_address=3), 100)
    assert few.is_crowded(("127.0.0.1", 99), dict(list(local.items())[:3]))
    assert not few.is_crowded(("127.0.0.1", 99), dict(list(local.items())[:2]))
    assert address_of(("fe80::1%eth0", 1, 0, 0)) == "fe80::1"
    assert address_of("") == address_of(("no address", 1)) == ""
    mapped = {i: SimpleNamespace(addr=("::ffff:127.0.0.1", i, 0, 0)) for i in range(90)}
    assert not rules.is_crowded(("::ffff:127.0.0.1", 99, 0, 0), mapped)  # as this machine comes to [::]
    assert address_of(("::ffff:203.0.113.7", 1, 0, 0)) == "203.0.113.7"


def test_a_network_of_ipv6_counts_as_one():
    """Who has one of its addresses has all 2^64: each had a share, and twenty wrong keys, of its own."""
    rules = Connections(ServeOptions(), 100)
    others = {i: SimpleNamespace(addr=(f"2606:4700:1:2::{i:x}", i, 0, 0)) for i in range(25)}
    assert rules.is_crowded(("2606:4700:1:2:ffff::1", 99, 0, 0), others)
    assert not rules.is_crowded(("2606:4700:1:3::1", 99, 0, 0), others)
    assert client_of("2606:4700:1:2:ffff::1") == client_of("2606:4700:1:2::7") != client_of("2606:4700:1:3::7")
    assert client_of("fd00::1") != client_of("fd00::2")  # of a network at home, where each is somebody


def test_owners_and_wrong_keys_go_by_the_same_rule():
    request = SimpleNamespace(context=SimpleNamespace(), remote_addr="2606:4700:1:2::7")
    assert owner_of(request) == client_of("2606:4700:1:2::8")
    security = Security(ServeOptions(), Keys(["k"]), loopback=True)
    found = []
    for i in range(22):
        asked = SimpleNamespace(remote_addr=f"2606:4700:1:2::{i:x}", get_header=lambda name: "wrong")
        found.append(type(security._refused(asked, SimpleNamespace(set_header=lambda *each: None))).__name__)
    assert found == ["AuthenticationError"] * 20 + ["QueueFullError"] * 2


def test_descriptors_bound_the_connections(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 256))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, value: None)
    assert most_connections(4096) == 160
    assert most_connections(4096, 3) == 53
    assert most_connections(10) == 10


def test_few_descriptors_and_little_memory(small_model, tmp_path, serving):
    """200 descriptors made the server spin when connections came; 3.5 GB of addresses, die at its start."""
    import subprocess
    import sys

    port = serving.free_port()
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200));"
        "resource.setrlimit(resource.RLIMIT_AS, (3_500_000_000, 3_500_000_000));"
        "sys.argv[0] = 'llamakit'; from llamakit.cli import main; main()"
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", "-m", str(small_model), "--port", str(port)],
            stdout=log, stderr=log, env=serving.environment(),
        )  # fmt: skip
    client = SimpleNamespace(host="127.0.0.1", port=port)
    try:
        until(lambda: ask(client, "/health"))
        assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) < 32  # there were 336
        socks = []
        for _ in range(300):
            with contextlib.suppress(OSError):
                socks.append(socket.create_connection((client.host, client.port), timeout=5))
        before = cpu_seconds(process.pid)
        time.sleep(2)
        assert cpu_seconds(process.pid) - before < 1
        assert ask(client, "/health")
        for sock in socks:
            sock.close()
        assert ask(client, "/health")
    finally:
        process.kill()
        process.wait()


def ask(client, path):
    """Whether a GET is answered with 200."""
    connection = http.client.HTTPConnection(client.host, client.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status == 200
    except OSError:
        return False
    finally:
        connection.close()


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize(
    "framing",
    [
        "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nContent-Length: 5", "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked", "Content-Length: 5, 5", "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5", "Content-Length: 0x5",
    ],
)  # fmt: skip
def test_framing_that_can_be_read_in_two_ways_ends_the_connection(sockets, framing):
    smuggled = "0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sock = sockets(f"POST /completion HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n{smuggled}".encode())
    data = b""
    with contextlib.suppress(OSError):
        while part := sock.recv(65536):
            data += part
    assert data[:12] in (b"HTTP/1.0 400", b"HTTP/1.1 400", b"HTTP/1.0 501", b"HTTP/1.1 501"), data
    assert data.count(b"HTTP/1.") == 1, data


def test_chunk_extensions_without_end_are_refused(server, sockets):
    head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for data in (b"1;" + b"x" * 5000, b"0\r\n" + b"X: y\r\n" * 1000):
        sock = sockets(head + data)
        assert sock.recv(200).startswith(b"HTTP/1.1 400")
        sock.close()
    good = sockets(head + b'f;name="value"\r\n{"prompt":"Hi",\r\nf\r\n"n_predict": 1}\r\n0\r\n\r\n')
    assert good.recv(200).startswith(b"HTTP/1.1 200")
    assert healthy(server)


def test_threads_come_and_go_with_the_work(monkeypatch):
    pool, release, done = Threads(40), threading.Event(), []
    pool.set_thread_count(40)
    assert len(pool.threads) == AT_REST

    class Task:
        def service(self):
            release.wait(PATIENCE)
            done.append(1)

    for _ in range(60):
        pool.add_task(Task())
    assert len(pool.threads) == 40
    release.set()
    until(lambda: len(done) == 60)
    until(lambda: not pool.active_count)
    pool._busy.value -= 100
    assert not pool.look()
    until(lambda: len(pool.threads) == AT_REST)
    assert pool.threads == set(range(AT_REST)), "those that were there from the start stay"
    assert pool.look()
    assert not pool.look()
    assert pool.shutdown()
    assert not pool.threads


def test_a_thread_at_rest_holds_nothing_of_its_last_task():
    """Connections that had ended stayed in memory, with what lay around them."""
    pool, done = Threads(40), threading.Event()
    pool.set_thread_count(40)

    class Task:
        def service(self):
            done.set()

    task = Task()
    gone = weakref.ref(task)
    pool.add_task(task)
    del task
    assert done.wait(PATIENCE)
    until(lambda: gone() is None)
    pool.shutdown()


def test_no_memory_for_more_threads(monkeypatch):
    pool, release = Threads(40), threading.Event()
    pool.set_thread_count(40)
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("waitress-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = []
    task = SimpleNamespace(service=lambda: (release.wait(PATIENCE), done.append(1)))
    for _ in range(20):
        pool.add_task(task)
    release.set()
    until(lambda: len(done) == 20 and len(pool.threads) == AT_REST)  # those to start are tried later
    assert pool.most == AT_REST
    pool.shutdown()


def test_starting_threads_does_not_hold_up_the_loop(monkeypatch):
    """330 requests that came together had `/health` wait for a second."""
    pool, release, done, start = Threads(400), threading.Event(), [], threading.Thread.start
    pool.set_thread_count(400)
    may_start = threading.Semaphore(0)

    def take_long(thread):
        if thread.name.startswith("waitress-"):
            assert may_start.acquire(timeout=PATIENCE)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", take_long)
    task = SimpleNamespace(service=lambda: (release.wait(2 * PATIENCE), done.append("answer")))
    look = SimpleNamespace(service=lambda: done.append("look"), requests=[SimpleNamespace(path="/v1/health")])
    for _ in range(100):
        pool.add_task(task)
    until(lambda: len(pool.queue) == 100 - AT_REST)  # all the others wait for their threads
    pool.add_task(look)
    may_start.release()
    until(lambda: done)
    assert done == ["look"]
    release.set()
    may_start.release(100)
    until(lambda: len(done) == 101)
    pool.shutdown()


def test_a_server_at_rest_has_few_threads(serve):
    before = threading.active_count()
    serve()
    assert threading.active_count() - before < 24
