"""A server that behaves as it is told: slow, full, loading, cut off in mid-stream, wanting a key, refusing a field.

It speaks the wire format of `llamakit serve` as far as the page uses it, over the standard library alone, so that the
page's tests can have at will what a real server gives only by chance. Also a program: `python mock_server.py PORT`.
"""

from __future__ import annotations

import contextlib
import json
import mimetypes
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WEB = Path(__file__).resolve().parents[2] / "plugins" / "frontends" / "rest" / "web"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}
PROPS: dict[str, Any] = {
    "model": "tale-7b",
    "model_path": "tale-7b.Q4_K_M.gguf",
    "file_type": "Q4_K_M",
    "n_ctx": 4096,
    "n_ctx_train": 4096,
    "chat": True,
    "chat_template": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
    "reasoning": None,
    "infill": True,
    "grammar": True,
    "key_required": False,
    "build": "0.1.0",
    "limits": {"max_predict": 32768, "parallel": 4, "queue": 32},
    "default_generation_settings": {"temperature": 0.8, "top_k": 40},
    "models": 2,
}
TEXT = (
    "Once upon a time a fox invited a **stork** to dinner.\n\nShe served soup in a *flat* dish:\n\n"
    '```python\ndef moral(guest):\n    # manners\n    return "treat others <well> & wisely"\n```\n\n'
    "1. The fox laughed\n2. The stork stayed hungry\n\n| who | ate |\n|---|---:|\n| fox | 1 |\n| stork | 0 |\n\nThe end.\n"
)


def _number(default: float, low: float, high: float, text: str, **more: Any) -> dict[str, Any]:
    return {"type": "number", "default": default, "minimum": low, "maximum": high, "description": text, **more}


def _sampler(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    title = f"{name.title().replace('.', '')}Options"
    schema = {
        "$ref": f"#/$defs/{title}",
        "$defs": {title: {"title": title, "type": "object", "properties": properties, "required": []}},
    }
    defaults = {more.get("prefix", "") + key: value.get("default") for key, value in properties.items()}
    head = {"name": name, "title": "", "package": "llamakit", "version": "0.1.0", "chooses": False, "prefix": ""}
    return {**head, **more, "defaults": defaults, "schema": schema}


def samplers() -> dict[str, Any]:
    """What `GET /samplers` answers: built-in samplers, and one of a third party with every kind of option."""
    off = "1 = off."
    penalties = {
        "repeat_penalty": _number(1.0, 0, 100, f"Divide the logits of recent tokens by this; {off}"),
        "repeat_last_n": {
            "type": "integer",
            "default": 64,
            "minimum": -1,
            "maximum": 1048576,
            "description": "Window.",
        },
        "penalize_nl": {"type": "boolean", "default": True, "description": "Penalise the newline token too."},
    }
    mirostat = {
        "mirostat": {"enum": [0, 1, 2], "default": 0, "description": "Version of mirostat; 0 = off."},
        "mirostat_tau": _number(5.0, 0, 100, "Target surprise."),
    }
    pairs = {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}, "default": []}
    slop = {
        "strength": _number(0.5, 0, 2, "How hard to push back.", **{"x-ui": {"step": 0.1}}),
        "window": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 64}, {"type": "null"}], "default": None},
        "words": {"type": "array", "items": {"type": "string"}, "default": [], "description": "Banned words."},
        "mode": {"enum": ["soft", "hard"], "default": "soft"},
        "notes": {"type": "string", "default": "", "x-ui": {"widget": "text"}},
        "scope": {"enum": ["all", "start", "end", "line", "word"], "default": "all"},
        "extra": {"type": "object", "default": {}},
    }
    likely = "Keep the likeliest tokens up to this total probability; 1 = off."
    gone = {"disabled_by": [{"field": "mirostat", "op": ">", "value": 0}]}
    found = [
        _sampler("logit_bias", {"logit_bias": {**pairs, "description": "Pairs of a token id and a bias; false bans."}}),
        _sampler("penalties", penalties),
        _sampler("top_k", {"top_k": {"type": "integer", "default": 40, "minimum": 0, "maximum": 1048576}}),
        _sampler("top_p", {"top_p": _number(0.95, 0, 1, likely, **{"x-ui": gone})}),
        _sampler("temperature", {"temperature": _number(0.8, 0, 100, "Below 1 sharpens, above 1 flattens.")}),
        _sampler("mirostat", mirostat, chooses=True),
        _sampler("dist", {}, chooses=True),
        _sampler("acme.slop", slop, title="Slop ban", package="llamakit-acme", version="1.2", prefix="acme.slop."),
    ]
    return {"chain": ["logit_bias", "penalties", "top_k", "top_p", "temperature", "dist"], "samplers": found}


@dataclass
class Script:
    """What the server does. Tests change it while it runs."""

    text: str = TEXT
    reasoning: str = ""
    delay: float = 0.0  # seconds before each piece
    piece: int = 4  # characters a token
    queue: list[int] = field(default_factory=list)  # places told before the answer
    loading: list[float] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)  # tokens read
    step: float = 0.05  # seconds for each of the above
    busy: int = 0  # how many requests are turned away with 429
    retry_after: int = 1
    key: str = ""
    refuse: dict[str, Any] | None = None  # an error object for 400
    too_long: int = 0  # a context of so many characters: longer requests are refused
    kill_after: int = -1  # the connection is cut after so many pieces
    error_after: int = -1  # an error event after so many pieces
    loading_health: bool = False
    ignored: str = ""
    stop_reason: str = "stop"
    ended_by: str = ""  # in our own words, where that is another one
    props: dict[str, Any] = field(default_factory=lambda: dict(PROPS))
    samplers: dict[str, Any] = field(default_factory=samplers)
    log: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)  # "all", "cancelled" or "gone", for each stream

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """The bodies of the requests to a path so far."""
        return [entry["body"] for entry in self.log if entry["path"] == path]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    script: Script
    prefix: str

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        """Files, and what the page asks about the server."""
        path = self._path()
        if path is None:
            return self._json(404, {"error": {"code": "not_found", "message": "no such path"}})
        if path in {"", "index.html"} or path.startswith("ui/") or path.endswith((".js", ".mjs")):
            return self._file(path or "index.html")
        if not self._allowed():
            return None
        return self._data(path)

    def do_POST(self) -> None:
        """Answers."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._path() or ""
        parsed = json.loads(body) if body else {}
        self.script.log.append({"path": path, "body": parsed})
        if not self._allowed():
            return None
        if path.startswith("requests/"):
            self.script.cancelled.append(path.split("/")[1])
            return self._json(200, {"cancelled": True})
        if path == "tokenize":
            return self._json(200, {"tokens": [1] * (len(parsed["content"]) // 4)})
        if path == "apply-template":
            text = "".join(f"<|{m['role']}|>{m['content']}" for m in parsed["messages"])
            return self._json(200, {"prompt": text})
        return self._answer(path, parsed)

    def _path(self) -> str | None:
        path = self.path.partition("?")[0]
        return path.removeprefix(self.prefix) if path.startswith(self.prefix) else None

    def _allowed(self) -> bool:
        key = self.script.key
        if not key or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self._json(401, {"error": {"code": "wrong_key", "message": "the API key is missing or wrong"}})
        return False

    def _file(self, path: str) -> None:
        file = (WEB / path).resolve()
        if WEB not in file.parents or not file.is_file():
            return self._json(404, {"error": {"code": "not_found", "message": f"no file {path}"}})
        kind = "text/javascript" if file.suffix in {".js", ".mjs"} else mimetypes.guess_type(file)[0] or "text/plain"
        return self._send(200, file.read_bytes(), kind, HEADERS)

    def _data(self, path: str) -> None:
        s = self.script
        if s.loading_health:
            return self._json(503, {"error": {"code": "loading", "message": "loading model"}, "progress": 0.62})
        answers: dict[str, Any] = {
            "props": s.props,
            "samplers": s.samplers,
            "health": {"status": "ok"},
            "v1/models": {
                "data": [
                    {"id": s.props["model"], "loaded": True, "size": 4 << 30, "n_ctx": s.props["n_ctx"]},
                    {"id": "tiny", "loaded": False, "size": 26 << 20, "n_ctx": 512},
                ]
            },
            "lora-adapters": [
                {"id": 0, "name": "fairy-tales", "scale": 0.8, "rank": 8},
                {"id": 1, "name": "json", "scale": 0},
            ],
        }
        if path not in answers:
            return self._json(404, {"error": {"code": "not_found", "message": f"no path {path}"}})
        return self._json(200, answers[path])

    def _answer(self, path: str, body: dict[str, Any]) -> None:
        s = self.script
        if s.busy > 0:
            s.busy -= 1
            error = {"code": "busy", "message": "the server is busy", "found": "queue 32/32"}
            return self._json(429, {"error": error}, {"Retry-After": str(s.retry_after)})
        if s.refuse:
            return self._json(400, {"error": s.refuse})
        size = len(json.dumps(body.get("messages", body.get("prompt", ""))))
        if s.too_long and size > s.too_long and not body.get("context_shift"):
            error = {
                "code": "context_length",
                "message": f"the prompt does not fit: {size // 4} tokens, the context is {s.too_long // 4}",
                "found": "too many tokens", "hint": "a shorter text",
            }  # fmt: skip
            return self._json(400, {"error": error})
        return self._stream(path, body)

    def _stream(self, path: str, body: dict[str, Any]) -> None:
        s = self.script
        request_id = f"req-{len(s.log)}"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-Request-Id", request_id)
        if s.ignored:
            self.send_header("X-Ignored-Fields", s.ignored)
        self.end_headers()
        chat = path == "v1/chat/completions"
        try:
            self._progress(chat)
            self._tokens(chat, body, request_id)
        except (BrokenPipeError, ConnectionResetError):
            s.ended.append("gone")
            self.close_connection = True

    def _progress(self, chat: bool) -> None:
        s = self.script
        base: dict[str, Any] = {"choices": []} if chat else {"content": "", "stop": False}
        events = [{"queue": {"ahead": n}} for n in s.queue] + [{"loading": {"progress": p}} for p in s.loading]
        total = max(s.prompt, default=0)
        for n, done in enumerate(s.prompt):
            events.append({"prompt_progress": {"total": total, "cached": 0, "processed": done, "ms": 100 * (n + 1)}})
        for event in events:
            self._event({**base, **event})
            time.sleep(s.step)

    def _tokens(self, chat: bool, body: dict[str, Any], request_id: str) -> None:
        s = self.script
        for number, piece in enumerate(_pieces(s.reasoning, s.piece)) if chat else ():
            self._event({"choices": [{"index": 0, "delta": {"reasoning_content": piece}, "finish_reason": None}]})
            time.sleep(s.delay if number else 0)
        pieces = _pieces(s.text, s.piece)
        for number, piece in enumerate(pieces):
            if request_id in s.cancelled:
                s.ended.append("cancelled")
                break
            if number == s.kill_after:
                s.ended.append("killed")
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                raise BrokenPipeError
            if number == s.error_after:
                self._event({"error": {"code": "backend", "message": "the backend stopped", "hint": "try again"}})
                return self._end()
            self._event(_token_event(chat, body, piece))
            time.sleep(s.delay)
        else:
            s.ended.append("all")
        self._last(chat, body, len(pieces))
        return self._end()

    def _last(self, chat: bool, body: dict[str, Any], n: int) -> None:
        s = self.script
        prompt = len(json.dumps(body.get("messages", body.get("prompt", "")))) // 4
        timings = {
            "prompt_n": prompt, "cache_n": 0, "prompt_ms": 80.0, "predicted_n": n, "predicted_ms": 1000.0,
            "predicted_per_second": float(n), "queue_ms": 1.0, "draft_n": 10, "draft_n_accepted": 7,
        }  # fmt: skip
        details = {"seed": body.get("seed", 42), "stop_reason": s.ended_by or s.stop_reason, "samplers": s.samplers["chain"],
                   "adapters": body.get("lora", []), "ignored": []}  # fmt: skip
        if not chat:
            self._event({"content": "", "stop": True, "stopped_limit": s.stop_reason == "length", "timings": timings,
                         "tokens_evaluated": prompt, "tokens_predicted": n, "llamakit": details,
                         "generation_settings": {"seed": 42}})  # fmt: skip
            return
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": s.stop_reason}]})
        usage = {"prompt_tokens": prompt, "completion_tokens": n, "prompt_tokens_details": {"cached_tokens": 0}}
        self._event({"choices": [], "usage": usage, "timings": timings, "llamakit": details, "model": s.props["model"]})
        self._write("data: [DONE]\n\n")

    def _event(self, event: dict[str, Any]) -> None:
        self._write(f"data: {json.dumps(event)}\n\n")

    def _write(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", headers or {})

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _token_event(chat: bool, body: dict[str, Any], piece: str) -> dict[str, Any]:
    others = [(piece, 0.6), (" fox", 0.25), (" wolf", 0.1), ("\n", 0.0004)]
    if len(piece) % 2 or "s" in piece:
        others = [(" other", 0.7), (piece, 0.04), (" bird", 0.2)]
    if not chat:
        event: dict[str, Any] = {"content": piece, "stop": False}
        if body.get("n_probs"):
            probs = [{"tok_str": text, "prob": p} for text, p in others]
            event["completion_probabilities"] = [{"content": piece, "probs": probs}]
        return event
    choice: dict[str, Any] = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
    if body.get("logprobs"):
        from math import log

        top = [{"token": text, "logprob": log(p), "bytes": list(text.encode())} for text, p in others]
        mine = next(entry for entry in top if entry["token"] == piece)
        choice["logprobs"] = {"content": [{**mine, "top_logprobs": top}]}
    return {"choices": [choice]}


class Server(ThreadingHTTPServer):
    """Threads end with the program; a client that leaves is not an error."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, and remember it."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that ends."""
        self.connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """End every connection, as a killed process does."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut."""


class MockServer:
    """A running server: `with MockServer() as server: server.url, server.script`."""

    def __init__(self, port: int = 0, prefix: str = "/", script: Script | None = None, host: str = "127.0.0.1") -> None:
        self.script, self.prefix, self.host = script or Script(), prefix, host
        self.port = port
        self.start()

    def start(self) -> None:
        """Listen; again on the same port after `stop`."""
        handler = type("BoundHandler", (Handler,), {"script": self.script, "prefix": self.prefix})
        self.server = Server((self.host, self.port), handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stop at once, with all connections."""
        self.server.shutdown()
        self.server.cut()
        self.server.server_close()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.host}:{self.port}{self.prefix}"

    def __enter__(self) -> MockServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


if __name__ == "__main__":
    with MockServer(int(sys.argv[1]), script=Script(delay=0.05, prompt=[100, 200, 300], step=0.3)) as running:
        print(running.url)
        threading.Event().wait()
