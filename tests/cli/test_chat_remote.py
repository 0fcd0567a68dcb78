"""The chat against a server: what is sent, what is understood, and what happens when the server is not well."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from llamakit.plugins.frontends.cli.talk import answering
from llamakit.plugins.frontends.cli.talk.client import Client, LostConnectionError, NetworkError
from llamakit.plugins.frontends.cli.talk.remote import Remote
from llamakit.plugins.frontends.cli.talk.source import Piece, Waiting

from llamakit.errors import ContextLengthError, LlamaKitError, QueueFullError, UsageError
from tests.waiting import PATIENCE

HELLO = [{"role": "user", "content": "Hello"}]


def ask(remote: Remote, begun: str = "", stop: answering.Stop | None = None, **params: object):
    items: list[Piece | Waiting] = []
    answer = answering.ask(remote, HELLO, begun, params, items.append, stop)
    return answer, "".join(i.text for i in items if isinstance(i, Piece)), items


def remote_of(server, key: str | None = None) -> Remote:
    return Remote(Client(server.url, key), None)


def test_an_answer_comes_with_its_counts(chat_server):
    answer, text, _ = ask(remote_of(chat_server, "secret"), top_k=3, seed=-1, max_tokens=9, logprobs=4)
    assert text == "Once upon a time"
    assert (answer.reason, answer.seed, answer.n_prompt, answer.n_generated) == ("end of text", 42, 7, 4)
    assert (answer.rate, answer.n_cached) == (50.0, 3)
    body = chat_server.bodies[0]
    assert body["messages"] == HELLO
    assert (body["model"], body["stream"], body["top_k"], body["max_tokens"]) == ("tiny", True, 3, 9)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 4)
    assert "seed" not in body
    assert chat_server.keys == ["Bearer secret"]


def test_a_begun_answer_is_the_last_message(chat_server):
    ask(remote_of(chat_server), begun="Once ")
    assert chat_server.bodies[0]["messages"] == [*HELLO, {"role": "assistant", "content": "Once "}]


def test_a_lost_connection_keeps_what_came(chat_server):
    chat_server.break_after = 2
    answer, text, _ = ask(remote_of(chat_server))
    assert (text, answer.reason, answer.n_generated) == ("Once upon ", "connection lost", 2)
    chat_server.break_after = 0
    with pytest.raises(LostConnectionError):
        ask(remote_of(chat_server))


def test_stopping_cuts_the_connection_at_once(chat_server):
    chat_server.words, chat_server.pause = ["word "] * 10_000, 0.01
    stop = answering.Stop()
    threading.Timer(0.2, stop).start()
    answer, text, _ = ask(remote_of(chat_server), stop=stop)
    assert answer.reason == "stopped"
    assert 0 < answer.n_generated < 500  # 20 on an idle machine
    assert answer.n_generated == text.count("word")
    assert chat_server.gone.wait(PATIENCE)  # the server's work ends too


def test_stopping_works_before_the_first_word(chat_server):
    chat_server.words, chat_server.pause = [""] * 10_000, 0.05
    stop = answering.Stop()
    threading.Timer(0.1, stop).start()
    answer, text, _ = ask(remote_of(chat_server), stop=stop)
    assert (answer.reason, text) == ("stopped", "")
    assert chat_server.gone.wait(PATIENCE)  # before the last word


def test_a_full_server_is_asked_again(chat_server):
    full = {"error": {"code": "queue_full", "message": "too many requests wait"}}
    chat_server.errors = [(429, {"Retry-After": "0"}, full), (503, {"Retry-After": "0"}, full)]
    assert ask(remote_of(chat_server))[1] == "Once upon a time"
    chat_server.errors = [(429, {"Retry-After": "0"}, full)] * 9
    with pytest.raises(QueueFullError, match="too many requests wait"):
        ask(remote_of(chat_server))


def test_waiting_for_a_full_server_is_told_and_can_be_stopped(chat_server):
    chat_server.errors = [(429, {"Retry-After": "30"}, {"error": {"message": "full"}})]
    stop = answering.Stop()
    threading.Timer(0.3, stop).start()
    answer, _, items = ask(remote_of(chat_server), stop=stop)
    assert answer.reason == "stopped"
    assert any(isinstance(i, Waiting) and "asking again in" in i.text for i in items)


@pytest.mark.parametrize(
    ("status", "error", "kind", "words"),
    [
        (
            400,
            {"code": "context_length", "message": "too long", "found": "9 too many"},
            ContextLengthError,
            "9 too many",
        ),
        (400, {"code": "wrong_usage", "message": "top_k is odd", "hint": "even"}, UsageError, "even"),
        (401, {"message": "no key"}, NetworkError, "--api-key"),
        (404, {"message": "no model x"}, LlamaKitError, "no model x"),
        (500, {"message": None}, NetworkError, "status 500"),
    ],
)
def test_errors_say_what_the_server_said(chat_server, status, error, kind, words):
    chat_server.errors = [(status, {}, {"error": error})]
    with pytest.raises(kind, match=words):
        ask(remote_of(chat_server))


def test_what_the_server_has_is_known(chat_server):
    remote = remote_of(chat_server)
    assert (remote.model, remote.n_ctx) == ("tiny", 4096)
    assert remote.knobs()["top_k"].field.interval == "0..100"
    assert remote.render(HELLO) == ("[user] Hello\n", list(b"[user] Hello\n"))
    assert remote.count_text("abc") == 3
    remote.switch("large")
    ask(remote)
    assert chat_server.bodies[0]["model"] == "large"
    with pytest.raises(UsageError, match="large is nearest"):
        remote.switch("lrge")
    with pytest.raises(UsageError, match="no model 'other'"):
        Remote(Client(chat_server.url, None), "other")


@pytest.fixture
def raw_server() -> Iterator[Callable[[bytes], str]]:
    """Starts a server that answers every connection with the same bytes; returns its address."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(listener: socket.socket, response: bytes) -> None:
        listener.settimeout(0.02)
        while listener in listeners:
            try:
                connection = listener.accept()[0]
            except TimeoutError:
                continue
            with connection:
                connection.recv(65536)
                connection.sendall(response)
        listener.close()

    def start(response: bytes) -> str:
        listeners.append(socket.create_server(("127.0.0.1", 0)))
        threads.append(threading.Thread(target=serve, args=(listeners[-1], response)))
        threads[-1].start()
        return f"http://127.0.0.1:{listeners[-1].getsockname()[1]}"

    yield start
    listeners.clear()
    for thread in threads:
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "response",
    [
        b"", b"\x00\xff nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
        HEAD + b"data: {broken\n\n", HEAD + b"data: [1, 2]\n\n", HEAD + b'data: {"choices": 3}\n\n',
        HEAD + b'data: {"choices": [{"delta": "x"}]}\n\n', HEAD + b"data: \xff\xfe\n\n", HEAD,
        HEAD + b'data: {"error": "x"}\n\n', HEAD + b'data: {"usage": 3, "timings": []}\n\n',
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)  # fmt: skip
def test_whatever_a_server_sends_is_an_error_of_ours(raw_server, response):
    client = Client(raw_server(response), None)
    remote = Remote.__new__(Remote)
    remote.client, remote.model = client, ""
    with pytest.raises(LlamaKitError):
        answering.ask(remote, HELLO, "", {}, lambda item: None)
    with pytest.raises(LlamaKitError):
        client.get("/v1/models")


def test_an_event_may_be_cut_anywhere(raw_server):
    told = '{"choices": [{"delta": {"content": "é"}, "finish_reason": "length"}]}'
    event = f": a comment\r\ndata: {told}\r\n\r\ndata: [DONE]\r\n\r\n"
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in event.encode()) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    remote = Remote.__new__(Remote)
    remote.client, remote.model = Client(raw_server(head + chunks), None), ""
    answer, text, _ = ask(remote)
    assert (text, answer.reason) == ("é", "length")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "http://x:99999999"])
def test_an_address_that_is_none_is_named(url):
    with pytest.raises(UsageError, match="not an address"):
        Client(url, None)


def test_a_server_that_is_not_there_is_named():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(NetworkError, match="cannot reach") as caught:
        Remote(Client(f"http://127.0.0.1:{port}/v1", None), None)
    assert caught.value.exit_code == 7
