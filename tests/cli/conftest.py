"""A small server of OpenAI's chat API and LlamaKit's own routes, for the chat to talk to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOP_K = {
    "$ref": "#/$defs/TopK",
    "$defs": {
        "TopK": {
            "type": "object",
            "properties": {
                "top_k": {"type": "integer", "minimum": 0, "maximum": 100, "default": 40, "description": "Keep k."}
            },
        }
    },
}


class ChatServer:
    """Answers with `words`, one event each, `pause` seconds apart; `break_after` words the connection is cut."""

    def __init__(self) -> None:
        self.words: list[str] = ["Once ", "upon ", "a ", "time"]
        self.pause = 0.0
        self.break_after: int | None = None
        self.errors: list[tuple[int, dict[str, str], dict[str, Any]]] = []  # (status, headers, body), answered first
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.gone = threading.Event()  # the client closed a stream before its end
        server = self

        class Handler(_Handler):
            chat = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._json({
            "/v1/models": {"data": [{"id": "tiny"}, {"id": "large"}]},
            "/props": {"n_ctx": 4096},
            "/samplers": {"samplers": [{"name": "top_k", "prefix": "", "schema": TOP_K}]},
        }.get(self.path))  # fmt: skip

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/apply-template":
            self._json({"prompt": "".join(f"[{m['role']}] {m['content']}\n" for m in body["messages"])})
        elif self.path == "/tokenize":
            self._json({"tokens": list(body["content"].encode())})
        else:
            self.chat.bodies.append(body)
            self.chat.keys.append(self.headers.get("Authorization"))
            if self.chat.errors:
                status, headers, error = self.chat.errors.pop(0)
                self._json(error, status, headers)
            else:
                self._stream()

    def _json(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if body is None:
            status, body = 404, {"error": {"code": "not_found", "message": "no such path"}}
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for i, word in enumerate(self.chat.words):
                if i == self.chat.break_after:
                    return
                self._event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
                time.sleep(self.chat.pause)
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            n = len(self.chat.words)
            self._event({
                "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": n},
                "timings": {"predicted_per_second": 50.0, "cache_n": 3},
                "llamakit": {"seed": 42, "stop_reason": "end of text"},
            })  # fmt: skip
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.chat.gone.set()

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.close()
