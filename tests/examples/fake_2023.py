"""A server that speaks the wire format of 2023 and knows no language: it answers with what it was told to say.

It stands in for the real one where a test is about a client: it cuts streams at any byte, breaks them, and keeps
what it was asked.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WEB = Path(__file__).parents[2] / "plugins/frontends/rest/web"
STATIC = {"/completion.js": "text/javascript", "/json-schema-to-grammar.mjs": "text/javascript"}


class Fake(ThreadingHTTPServer):
    """The server. `pieces`: what /completion says; `step`: bytes a write; `mode`: how a stream ends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        self.pieces = [" Hel", "lo", ",\n", "wörld 🙂", " end"]
        self.step = 1 << 20
        self.line_end = "\n"
        self.mode = "stop"  # or: error, error_line, cut, done, endless
        self.truncated = False
        self.gone = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def bodies(self, path: str = "/completion") -> list[Any]:
        return [body for asked, body, _ in self.asked if asked == path]

    def final(self, body: dict[str, Any], content: str) -> dict[str, Any]:
        settings = {"n_ctx": 512, "model": "fake", "seed": 1, "temp": body.get("temperature", 0.8)}
        return {
            "content": content, "generation_settings": settings, "model": "fake", "prompt": body.get("prompt", ""),
            "stop": True, "stopped_eos": False, "stopped_limit": True, "stopped_word": False, "stopping_word": "",
            "timings": {"predicted_n": len(self.pieces)}, "tokens_cached": 9, "tokens_evaluated": 4,
            "tokens_predicted": len(self.pieces), "truncated": self.truncated,
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Fake

    def log_message(self, *args: object) -> None:
        """Nothing: pytest shows what matters."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, None, dict(self.headers)))
        if self.path == "/model.json":
            self.answer({"model": "fake", "n_ctx": 512})
        elif self.path in STATIC:
            self.answer((WEB / self.path[1:]).read_bytes(), kind=STATIC[self.path])
        else:
            self.answer(b"File Not Found", 404, "text/plain")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            body = json.loads(raw)
        except ValueError:
            self.answer(b"500 Internal Server Error\n[json.exception.parse_error.101] parse error", 500, "text/plain")
            return
        self.server.asked.append((self.path, body, dict(self.headers)))
        if self.path == "/tokenize":
            self.answer({"tokens": list(range(len(body.get("content", "").split())))})
        elif self.path != "/completion":
            self.answer(b"File Not Found", 404, "text/plain")
        elif body.get("prompt") == "REFUSE":
            error = {"message": "top_k: 'x' is not a number", "type": "invalid_request_error", "param": "top_k"}
            self.answer({"error": error | {"code": "wrong_usage"}}, 400)
        elif not body.get("stream"):
            self.answer(self.server.final(body, "".join(self.server.pieces)))
        else:
            self.stream(body)

    def answer(self, body: Any, status: int = 200, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body, sort_keys=True).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            if self.server.mode == "endless":
                while True:
                    self.write([self.event({"content": "on", "stop": False})])
                    time.sleep(0.02)
            self.write(self.events(body))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.gone.set()

    def events(self, body: dict[str, Any]) -> list[str]:
        fake = self.server
        events = [self.event({"content": piece, "stop": False}) for piece in fake.pieces]
        ends = {
            "stop": [self.event(fake.final(body, ""))],
            "error": [f"event: error\ndata: {json.dumps({'error': {'message': 'it broke', 'code': 'backend'}})}\n\n"],
            "error_line": ['error: {"content": "", "message": "it broke"}\n\n'],
            "cut": [],
            "done": [": a comment\n\n", "data: [DONE]\n\n"],
        }
        return [event.replace("\n", fake.line_end) for event in events + ends[fake.mode]]

    @staticmethod
    def event(data: dict[str, Any]) -> str:
        return f"data: {json.dumps(data, ensure_ascii=False, sort_keys=True)}\n\n"

    def write(self, events: list[str]) -> None:
        raw = "".join(events).encode()
        for at in range(0, len(raw), self.server.step):
            part = raw[at : at + self.server.step]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
            if self.server.step < len(raw):
                time.sleep(0.0005)  # so that the parts travel one by one
