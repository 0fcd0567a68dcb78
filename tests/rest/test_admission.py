"""More clients than there is room for: a full queue, a full server, and readers that do not read."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest
from llamakit.plugins.frontends.rest import connections
from llamakit.plugins.frontends.rest.admission import Admission

from llamakit.errors import QueueFullError
from tests.waiting import PATIENCE, until

ENDLESS = {"prompt": "Once", "n_predict": 10_000_000, "stream": True, "ignore_eos": True}


def test_places_are_counted():
    admission = Admission(2)
    with admission.slot():
        assert admission.taken == 1
        with admission.slot():  # the same request
            assert admission.taken == 1
    assert admission.taken == 0
    held, release = threading.Barrier(3), threading.Event()

    def hold():
        with admission.slot():
            held.wait(PATIENCE)
            release.wait(PATIENCE)

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    held.wait(PATIENCE)
    assert (admission.taken, admission.full, admission.enter()) == (2, True, False)
    with pytest.raises(QueueFullError, match="2 are being answered") as error, admission.slot():
        pass
    assert error.value.retry_after > 0
    release.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert (admission.taken, admission.full) == (0, False)


def test_an_error_gives_the_place_back():
    admission = Admission(1)
    with pytest.raises(KeyError), admission.slot():
        raise KeyError
    assert admission.taken == 0


def opened(client, body, path="/completion", receive=None):
    """A socket on which a request was sent."""
    sock = socket.socket()
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.settimeout(PATIENCE)
    sock.connect((client.host, client.port))
    data = json.dumps(body).encode()
    sock.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return sock


@pytest.fixture
def full(serve):
    """A server whose four places are taken by endless streams."""
    client = serve(parallel=2, queue=64, max_predict=10_000_000)
    client.state.admission.places = 4
    socks = [opened(client, ENDLESS) for _ in range(4)]
    until(lambda: client.state.admission.taken == 4)
    yield client
    for sock in socks:
        sock.close()
    until(lambda: client.state.admission.taken == 0)
    assert client.post("/tokenize", {"content": "x"})[0] == 200  # and there is room again


def test_a_full_server_says_so_in_the_shape_of_each_api(full):
    for path in ("/completion", "/tokenize", "/v1/chat/completions", "/v1/messages", "/api/generate"):
        status, headers, data = full.request("POST", path, {})
        if status == 404:
            continue  # an API that is not there
        assert status == 429, (path, data)
        assert int(headers["Retry-After"]) > 0
        assert json.loads(data)["error"]
    for path in ("/health", "/", "/metrics", "/v1/models"):
        assert full.request("GET", path)[0] == 200, path


def test_a_full_queue_is_429_with_retry_after(serve):
    client = serve(parallel=1, queue=1, settings={"n_seq": 1, "max_queue": 1}, max_predict=10_000_000)
    service = client.state.pool.loaded().service
    socks = [opened(client, ENDLESS)]
    until(lambda: service.n_running == 1)
    socks.append(opened(client, ENDLESS))
    until(lambda: service.n_waiting == 1)
    for path in ("/completion", "/v1/completions"):
        status, headers, data = client.request("POST", path, {"prompt": "Once", "model": "stories"})
        assert (status, json.loads(data)["error"]["code"]) == (429, "queue_full"), data
        assert int(headers["Retry-After"]) > 0
        assert json.loads(data)["error"]["type"] == "rate_limit_error"
    for sock in socks:
        sock.close()
    until(lambda: not service.busy)
    assert client.post("/completion", {"prompt": "Once", "n_predict": 2})[0] == 200


class Flood:
    """A stream that never ends and never waits."""

    def on_post(self, req, resp):
        resp.content_type = "text/event-stream"
        resp.stream = iter(lambda: b"data: " + b"x" * 65536 + b"\n\n", None)


def test_64_readers_that_stall_do_not_hold_up_the_others(serve, monkeypatch):
    monkeypatch.setattr(connections, "PACE_SECONDS", 600.0)  # until those are given up that read nothing
    client = serve()
    client.server.gate.app.add_route("/flood", Flood())
    before = resident()
    stalled = [opened(client, {}, "/flood", receive=2048) for _ in range(64)]
    until(lambda: client.state.admission.taken == 64)
    until(lambda: len({channel.total_outbufs_len for channel in client.server._channels()} - {0}) > 0)
    time.sleep(0.5)
    assert client.state.admission.taken == 64  # each is stuck, with its thread
    assert resident() - before < 128 << 20  # and a buffer with a bound
    assert client.get("/health")[0] == 200
    status, answer = client.post("/completion", {"prompt": "Once", "n_predict": 8})
    assert (status, answer["tokens_predicted"]) == (200, 8)
    assert len(list(client.events("/completion", {"prompt": "Once", "n_predict": 8, "stream": True}))) >= 2
    assert client.state.admission.taken == 64  # nobody waited for one of them
    for sock in stalled[:32]:
        sock.close()
    until(lambda: client.state.admission.taken == 32)
    client.server.stop()  # the others are hung up on
    until(lambda: client.state.admission.taken == 0)
    for sock in stalled[32:]:
        sock.close()


def resident():
    """Bytes of memory that this process has."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0
