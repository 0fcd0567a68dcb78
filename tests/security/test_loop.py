"""The thread that reads and writes for all connections: idle ones cost nothing, and nothing ends it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time

import pytest
from llamakit.plugins.frontends.rest.refusals import Channel

from tests.waiting import until


@pytest.fixture
def idle(server):
    """Sixty connections that send nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=30))
        until(lambda: len(server.server._server.active_channels) >= 60)
        yield


def test_connections_that_do_nothing_are_not_asked_at_every_turn(server, idle, monkeypatch):
    asked, readable = [], Channel.readable
    monkeypatch.setattr(Channel, "readable", lambda channel: asked.append(channel.n_received) or readable(channel))
    began = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection(server.host, server.port, timeout=60)) as connection:
        for _ in range(100):
            connection.request("GET", "/health")
            with connection.getresponse() as response:
                assert response.read()
    looks = time.monotonic() - began + 2  # one a second, and those at both ends
    assert len([n for n in asked if n == 0]) <= 60 * looks


def test_connections_that_wait_are_taken_many_at_a_time(server, monkeypatch):
    until(lambda: not server.server._server.active_channels)
    turns, turn, all_wait = [], server.server._turns._turn, threading.Event()
    monkeypatch.setattr(server.server._turns, "_turn", lambda: (all_wait.wait(60), turns.append(1), turn()))
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=60))
        all_wait.set()
        until(lambda: len(server.server._server.active_channels) == 40)
    assert len(turns) < 40  # one each were forty at least


def test_an_error_in_what_the_loop_does_does_not_end_it(server, monkeypatch):
    raised = []

    def fails(now):
        raised.append(now)
        raise RuntimeError("a defect")

    monkeypatch.setattr(server.server._server, "maintenance", fails)
    until(lambda: raised)
    assert server.get("/health")[0] == 200
    monkeypatch.undo()
    assert server.post("/completion", {"prompt": "Once", "n_predict": 1})[0] == 200


def test_an_error_with_one_connection_leaves_the_server_listening(server, monkeypatch):
    def fails(peer, channels):
        raise RuntimeError("a defect")

    monkeypatch.setattr(server.server.connections, "admit", fails)
    with pytest.raises((http.client.HTTPException, OSError)):
        server.get("/health")
    monkeypatch.undo()
    assert server.get("/health")[0] == 200
