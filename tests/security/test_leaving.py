"""Work ends when its client leaves: vectors of many texts are not made for nobody."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from llamakit.engine.request import Embed
from llamakit.errors import UnavailableError
from llamakit.session import Session
from tests.waiting import until

MANY = 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ["Once upon a time there was a girl."] * MANY}),
        ("/embedding", {"input": ["Once upon a time there was a girl."] * MANY, "pooling": "none"}),
        ("/api/embed", {"input": ["Once upon a time there was a girl."] * MANY}),
    ],
)
def test_vectors_are_not_made_for_a_client_that_left(server, path, body, monkeypatch):
    engine = server.state.pool.loaded().engine
    free = engine.space.pool.n_free
    left, begun, batches = threading.Event(), threading.Event(), []
    original = engine.embedder._run

    def run(engine, work):
        begun.set()
        assert left.wait(60)
        batches.append(len(work.texts) - work.next)
        return original(engine, work)

    monkeypatch.setattr(engine.embedder, "_run", run)
    data = json.dumps(body).encode()
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        assert begun.wait(60)
    until(lambda: not server.server._channels())  # the server knows
    left.set()
    until(lambda: not engine.embedder._queue and not server.state.memory.taken)
    assert len(batches) == 1, "only the batch that was running"
    assert batches[0] > 100
    assert engine.space.pool.n_free + len(engine.space.tree) >= free
    assert server.post(path, body | {"input": ["Once"]})[0] == 200


def test_vectors_of_one_that_waits_are_not_begun(small_model):
    with Session(small_model, backend="cpu", threads=1, n_seq=2) as session:
        embed = Embed(prompts=[session.tokenize("Once")], pooling="mean")
        for gone in (lambda: True, lambda: 1 / 0):  # what cannot tell is taken for a client that left
            with pytest.raises(UnavailableError, match="has left"):
                session.service.embed(embed, gone=gone)
        assert len(session.service.embed(embed, gone=lambda: False).values) == 1
