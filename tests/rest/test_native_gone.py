"""Clients that leave: their work ends within a step, in the queue, in the prompt and in the answer, streamed or not."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from llamakit.errors import LlamaKitError
from tests.waiting import PATIENCE, until

STEP = 0.01  # seconds that a step is made to last: 90,000 of them take a quarter of an hour, which no test waits for
PROMPTS = {"prompt": [1] + [400] * 480, "answer": [1, 400]}


@pytest.fixture
def slow(serve, monkeypatch):
    """A server for one sequence at a time, with small and slow steps."""
    client = serve(parallel=1, settings={"batch_size": 4, "max_predict": 100_000})
    runner = client.state.pool.loaded().engine.runner
    original = runner.run

    def run(*args: Any, **more: Any) -> Any:
        time.sleep(STEP)
        return original(*args, **more)

    monkeypatch.setattr(runner, "run", run)
    return client


def send(client: Any, **fields: Any) -> socket.socket:
    """A request on a raw socket."""
    body = json.dumps({"n_predict": 90_000, "ignore_eos": True} | fields).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connection = socket.create_connection((client.host, client.port), timeout=PATIENCE)
    connection.sendall(head + body)
    return connection


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["prompt", "answer"])
def test_work_ends_when_its_client_leaves(slow, where, stream):
    service = slow.state.pool.loaded().service
    with closing(send(slow, prompt=PROMPTS[where], stream=stream)) as connection:
        if where == "prompt":
            until(lambda: service.n_running)
            time.sleep(10 * STEP)
        elif stream:
            assert connection.recv(100)
            until(lambda: connection.recv(4096))
        else:
            until(lambda: service.n_running)
            time.sleep(20 * STEP)
        assert service.busy
    until(lambda: not service.busy)
    assert service.engine.n_running == 0
    assert slow.post("/completion", {"prompt": "a", "n_predict": 1})[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_waiting_request_ends_when_its_client_leaves(slow, stream):
    service = slow.state.pool.loaded().service
    with closing(send(slow, prompt="a", stream=True)) as first:
        assert first.recv(100)
        with closing(send(slow, prompt="b", stream=stream)):
            until(lambda: service.n_waiting == 1)
        until(lambda: service.n_waiting == 0)
        assert service.n_running == 1  # the first goes on
        assert first.recv(100)
    until(lambda: not service.busy)


def test_many_clients_that_leave_at_random(slow):
    service = slow.state.pool.loaded().service
    free = service.call(lambda: service.engine.space.pool.n_free + len(service.engine.space.tree))
    for n in range(12):
        with closing(send(slow, prompt=[1, 400 + n], stream=n % 2 == 0)):
            time.sleep(STEP * (n % 5))
    until(lambda: not service.busy)
    assert service.call(lambda: service.engine.space.pool.n_free + len(service.engine.space.tree)) == free
    assert slow.post("/completion", {"prompt": "a", "n_predict": 1})[0] == 200


def test_a_request_that_is_cancelled_by_its_id_gives_what_it_has(slow):
    service = slow.state.pool.loaded().service
    found: list[Any] = []
    body = {"prompt": "a", "n_predict": 90_000, "ignore_eos": True}
    thread = threading.Thread(
        target=lambda: found.append(slow.post("/completion", body, {"X-Request-Id": "mine"})), daemon=True
    )
    thread.start()
    until(lambda: service.n_running)
    time.sleep(20 * STEP)
    assert not service.cancel("mine")  # what a client calls it is for its own eyes
    (slot,) = slow.get("/slots")[1]
    assert service.cancel(slot["id"])
    thread.join(PATIENCE)
    status, answer = found[0]
    assert status == 200
    assert answer["stop_type"] == "cancelled"
    assert answer["tokens_predicted"] > 0
    assert not any(answer[f"stopped_{kind}"] for kind in ("eos", "word", "limit"))


class TestStreams:
    """`sse.EventStream`, without a server."""

    def make(self, events: Any, ended: list[str]) -> Any:
        from contextlib import ExitStack

        from llamakit.plugins.frontends.rest.sse import EventStream

        resources = ExitStack()
        resources.callback(ended.append, "ended")
        return EventStream(events, lambda error: f"error: {error.message}".encode(), resources, "id")

    def test_one_that_is_never_begun_ends_its_jobs(self):
        ended: list[str] = []
        stream = self.make(lambda: iter([b"a"]), ended)
        stream.close()
        stream.close()
        assert ended == ["ended"]
        assert list(stream) == []

    def test_one_that_is_forgotten_ends_its_jobs(self):
        ended: list[str] = []
        stream = self.make(lambda: iter([b"a"]), ended)
        del stream
        assert ended == ["ended"]

    def test_pieces_without_bytes_are_not_written(self):
        ended: list[str] = []
        assert list(self.make(lambda: iter([b"", b"a", b"", b"b", b""]), ended)) == [b"a", b"b"]
        assert ended == ["ended"]

    @pytest.mark.parametrize(
        ("error", "last"),
        [(LlamaKitError("no"), b"error: no"), (ZeroDivisionError(), b"error: the server made a mistake")],
    )
    def test_an_error_is_the_last_event(self, error, last):
        def events() -> Any:
            yield b"a"
            raise error

        ended: list[str] = []
        assert list(self.make(events, ended)) == [b"a", last]
        assert ended == ["ended"]

    def test_leaving_early_ends_the_generator_first(self):
        ended: list[str] = []

        def events() -> Any:
            try:
                yield b"a"
                yield b"b"
            finally:
                ended.append("generator")

        stream = self.make(events, ended)
        assert next(stream) == b"a"
        stream.close()
        assert ended == ["generator", "ended"]
