"""`llamakit chat --url` beside servers that mean no good: errors of ours, soon, and nothing steers the terminal."""

from __future__ import annotations

import http.server
import io
import json
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout, suppress

import pytest
from llamakit.plugins.frontends.cli.talk import client

from llamakit import cli

EVIL = "\x1b]0;pwned\x07\x9b31m\u202e"
BAD = [chr(code) for code in (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x202E)]
JSON, EVENTS = "application/json", "text/event-stream"
CHAT = "/v1/chat/completions"
TYPED = "Hello\n/set\n/lora\n/prompt\n/context\n/model\n/probs 3\nAgain\n/quit\n"
DEEP = b"[" * 200_000
END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def dump(value):
    return json.dumps(value).encode()


def events(*told):
    """The bytes of a stream."""
    parts = [each if isinstance(each, bytes) else dump(each) for each in told]
    return b"".join(b"data: " + part + b"\n\n" for part in [*parts, b"[DONE]"])


def said(text="hi", **more):
    return {"choices": [{"delta": {"content": text}}], **more}


def stream(*told):
    """A server whose answer is these events."""
    return {CHAT: (200, EVENTS, events(*told))}


def also(path, value):
    """One that answers, and tells something odd elsewhere."""
    return stream(said(), END) | {path: (200, JSON, value if isinstance(value, bytes) else dump(value))}


SERVERS = {
    "models that are no JSON": {"/v1/models": (200, JSON, b"x")},
    "models that nest deeply": {"/v1/models": (200, JSON, DEEP)},
    "models without names": also("/v1/models", {"data": [{"id": None}, {"id": ["a"]}]}),
    "a model's name": also("/v1/models", {"data": [{"id": EVIL, "meta": {"n_ctx": EVIL}}]}),
    "a context that is none": also("/v1/models", b'{"data":[{"id":"a","n_ctx":1e308}]}'),
    "somewhere else": {"/v1/models": (302, JSON, b"")},
    "an error": {CHAT: (400, JSON, dump({"error": {"message": EVIL, "hint": EVIL, "found": [EVIL]}}))},
    "an error that nests deeply": {CHAT: (400, JSON, DEEP)},
    "an error that is no text": {CHAT: (500, JSON, b"\xff")},
    "counts that are texts": stream(said(usage={"prompt_tokens": "x", "completion_tokens": [],
                                               "prompt_tokens_details": {"cached_tokens": {}}}), END),
    "counts that are large": stream(said(usage={"prompt_tokens": 10**400, "completion_tokens": -5}), END),
    "times that are texts": stream(said(timings={"predicted_per_second": "x", "prompt_per_second": {}, "cache_n": "q",
                                                "prompt_ms": "y"}), END),
    "times below zero": stream(said(timings={"predicted_per_second": -1, "cache_n": -3, "prompt_ms": -5}), END),
    "a seed that is none": stream(said(llamakit={"seed": EVIL, "stop_reason": {"a": EVIL}}), END),
    "a reason": stream(said(), {"choices": [{"delta": {}, "finish_reason": EVIL}]}),
    "a reason that is none": stream(said(), {"choices": [{"delta": {}, "finish_reason": ["a"]}]}),
    "content that is a number": stream(said(5), END),
    "content that is a list": stream(said([1]), END),
    "probabilities": stream({"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [
        {"token": EVIL, "logprob": -5, "top_logprobs": [{"token": EVIL, "logprob": 0}]}]}}]}, END),
    "an event that nests deeply": stream(DEEP),
    "half a character": stream(b'{"choices":[{"delta":{"content":"\\ud800"}}]}', END),
    "waiting": stream({"queue": {"ahead": EVIL}}, {"loading": {"progress": 1e300}},
                      {"prompt_progress": {"processed": EVIL, "total": 1e308}}, said(), END),
    "options that are none": also("/samplers", {"samplers": [
        {"schema": {"properties": {EVIL: {"type": "number", "description": EVIL, "enum": 5}}}}, 7,
        {"schema": {"properties": 5}}, {"schema": {"$ref": 5, "$defs": {"5": []}}},
        {"schema": {"properties": {"a": 5}}},
        {"prefix": EVIL, "schema": {"properties": {"a": {"type": []}, EVIL: {"description": EVIL}}}}]}),
    "adapters": also("/lora-adapters", [{"name": EVIL, "scale": EVIL}, {"id": []}, 5]),
    "a prompt": also("/apply-template", {"prompt": EVIL}) | {"/tokenize": (200, JSON, b'{"tokens": ["x", {}]}')},
    "a prompt that is none": also("/apply-template", {"prompt": 5}) | {"/tokenize": (200, JSON, b"[1]")},
}  # fmt: skip
ENDLESS = {
    "models": {"/v1/models": (200, JSON, b" " * 65_536)}, "a line": {CHAT: (200, EVENTS, b"data: " + b"x" * 65_536)},
    "an event": {CHAT: (200, EVENTS, b"data: " + b"x" * 65_536 + b"\n")},
    "comments": {CHAT: (200, EVENTS, b": " + b"x" * 65_536 + b"\n")},
}  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by `plan`: path to status, type and body. What is `endless` is sent again and again."""

    plan: dict = {}
    endless = ""

    def log_message(self, *args):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self):
        status, kind, body = self.plan.get(self.path, (404, JSON, b"{}"))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Location", "file:///etc/passwd")
        self.end_headers()
        with suppress(OSError):
            for _ in range(100_000 if self.path == self.endless else 1):
                self.wfile.write(body)
        self.close_connection = True


@pytest.fixture(scope="module")
def hostile():
    """Start to answer by a plan: `hostile(plan)` gives the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def answer(plan, endless=""):
            Handler.plan = {"/v1/models": (200, JSON, b'{"data": [{"id": "tiny"}]}')} | plan
            Handler.endless = endless
            return f"http://127.0.0.1:{server.server_address[1]}"

        yield answer
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Nothing is kept in the user's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


def chat(url, monkeypatch, *more):
    """Exit code, and what is shown."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TYPED.encode())))
    with redirect_stdout(out), redirect_stderr(out):
        code = cli.run(["chat", "--no-history", "--timings", "--url", url, *more])
    return code, out.buffer.getvalue().decode()


@pytest.mark.parametrize("more", [("-p", "Hello"), ()], ids=["one message", "a talk"])
@pytest.mark.parametrize("name", SERVERS)
def test_servers_that_say_what_they_should_not(hostile, monkeypatch, name, more):
    code, shown = chat(hostile(SERVERS[name]), monkeypatch, *more)
    assert code in (0, 2, 6, 7), shown
    assert "internal error" not in shown
    assert not any(c in shown for c in BAD), repr(shown)


@pytest.mark.parametrize("name", ENDLESS)
def test_servers_that_do_not_end(hostile, monkeypatch, name):
    monkeypatch.setattr(client, "MAX_EVENT", 1 << 20)
    monkeypatch.setattr(client, "MAX_BODY", 1 << 20)
    (path,) = ENDLESS[name]
    code, shown = chat(hostile(ENDLESS[name], path), monkeypatch, "-p", "Hello")
    assert code == 7, shown


def test_a_server_that_names_a_long_time_to_wait():
    for told, seconds in (("9" * 5000, 60), ("0", 0), ("\u00b2", 2), ("-1", 2), ("x", 2), ("", 2), ("7", 7)):
        assert client.error_of({"error": "full"}, 503, told).retry_after == seconds
