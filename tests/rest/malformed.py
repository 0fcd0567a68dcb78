"""Requests that no client should send: each is a name, raw bytes for a socket, and how the client leaves."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MESSAGES = [{"role": "user", "content": "a"}]
FIM = {"input_prefix": "a", "input_suffix": "b", "n_predict": 2}
# A right body for each endpoint, from which wrong ones are made; short answers, so that a wrong field that means
# nothing costs little.
BODIES: dict[str, dict[str, Any]] = {
    "/completion": {"prompt": "a", "n_predict": 2},
    "/tokenize": {"content": "a"},
    "/detokenize": {"tokens": [1, 2]},
    "/embedding": {"content": "a"},
    "/infill": FIM,
    "/apply-template": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/embeddings": {"input": "a"},
    "/v1/responses": {"input": "a", "max_output_tokens": 2},
    "/v1/messages": {"model": "m", "messages": MESSAGES, "max_tokens": 2},
    "/v1/messages/count_tokens": {"model": "m", "messages": MESSAGES},
    "/api/generate": {"model": "m", "prompt": "a", "stream": False, "options": {"num_predict": 2}},
    "/api/chat": {"model": "m", "messages": MESSAGES, "stream": False, "options": {"num_predict": 2}},
    "/api/embed": {"model": "m", "input": "a"},
    "/api/show": {"model": "m"},
    "/lora-adapters": {"id": 0, "scale": 1.0},
}
# The fields of 2023's README and of the other APIs; those of /openapi.json come on top.
FIELDS = (
    "prompt", "stream", "n_predict", "n_keep", "temperature", "top_k", "top_p", "tfs_z", "typical_p", "repeat_penalty",
    "repeat_last_n", "presence_penalty", "frequency_penalty", "penalize_nl", "mirostat", "mirostat_tau",
    "mirostat_eta", "grammar", "seed", "ignore_eos", "logit_bias", "stop", "n_probs", "content", "tokens", "model",
    "messages", "max_tokens", "n", "best_of", "echo", "logprobs", "suffix", "response_format", "tools", "tool_choice",
    "stream_options", "input", "options", "system", "samplers", "min_p", "json_schema", "cache_prompt", "id", "lora",
    "format", "keep_alive", "strict", "stop_sequences", "user", "metadata", "encoding_format", "dimensions",
)  # fmt: skip
LENGTHS = {
    "n_predict",
    "max_tokens",
    "max_output_tokens",
    "max_completion_tokens",
    "options",
    "n",
    "best_of",
    "n_beams",
}
PATHS = (
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/\\..\\..\\etc", "//etc/passwd",
    "/%00", "/a%00.js", "/%c0%ae%c0%ae/x", "/%ff%fe", "/%", "/%zz", "/" + "a" * 5000, "/?" + "q=1&" * 2000, "/ui/../x",
    "/completion/../tokenize", "/completion/", "/v1/completions?stream=%00", "/slots/99999999999999999999?action=save",
    "/slots/-1?action=erase", "/v1/models/%00", "/v1/models/" + "%2e%2e%2f" * 20, "/CON", "/.git/config", "/~root",
    "/*",
)  # fmt: skip


@dataclass
class Nasty:
    """One request. `leave`: "read" waits for the answer, "half" closes the sending side first, "reset" just goes."""

    name: str
    raw: bytes
    leave: str = "read"
    may_run: bool = False  # it may be a right request for a long answer


def http(method: str, path: str, body: bytes = b"", headers: tuple[str, ...] = (), length: str | None = None) -> bytes:
    """A request, its Content-Length right unless told otherwise."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body) if length is None else length}"] if length != "" else []
    return "\r\n".join([*lines, *headers, "", ""]).encode("utf-8", "surrogateescape") + body


def wrong_value(rng: random.Random) -> str:
    """JSON, or nearly, that some field will not like."""
    depth = rng.choice([5, 63, 64, 65, 200, 5000])
    return rng.choice(
        [
            "1" + "0" * rng.choice([19, 40, 400, 5000]), "-1", "-9223372036854775808", "9223372036854775808",
            "4294967296",
            "2147483647", "1e308", "1e999", "-1e999", "1e-320", "0.5", "-0.0", "NaN", "Infinity", "-Infinity", "true",
            "false", "null", '""', '"a"', '"\\ud800"', '"\\u0000"', f'"{"x" * rng.choice([1000, 70000])}"', "[]", "{}",
            "[[]]", "[{}]", "[null]", "[-1]", "[99999999]", "[1.5]", '["a",-1]', '[["a"]]', "[[1,2,3]]", '[[0,"x"]]',
            '{"a":1}', '{"":{}}', '{"type":"text"}', '{"type":"json_schema","json_schema":{"schema":[]}}',
            '[{"role":"user"}]', '[{"role":7,"content":[{"type":"image_url"}]}]', '[{"content":null}]',
            '[{"role":"tool","content":"x","tool_call_id":[]}]', "[" * depth + "]" * depth,
            '{"a":' * depth + "1" + "}" * depth, "[" + "1," * rng.choice([100, 20000]) + "1]", "01", "+1", "'a'",
            "0x10",
            "undefined", "[1,]", '{"a":1,}', "\"\\x\"", '"\t"', '{"a":1,"a":2}', "{\"num_predict\":\"x\"}",
            '{"num_ctx":-1,"stop":[[]],"temperature":"hot"}', "1.0", '"1"', "[true]", '{"__proto__":{"x":1}}',
        ]
    )  # fmt: skip


def with_field(body: dict[str, Any], field: str, value: str) -> bytes:
    """A body in which a field has a value that may be no JSON."""
    rest = json.dumps({key: old for key, old in body.items() if key != field})
    return f"{rest[:-1]}{', ' if len(rest) > 2 else ''}{json.dumps(field)}: {value}}}".encode("utf-8", "surrogatepass")


class Maker:
    """Makes them at random; the same seed makes the same ones. `fields`: those of each path, from its description."""

    def __init__(self, seed: int, fields: dict[str, list[str]]) -> None:
        self.rng = random.Random(seed)
        self.paths = sorted({*fields, *BODIES})
        self.fields = {path: sorted({*fields.get(path, []), *FIELDS}) for path in self.paths}
        self.kinds: list[Callable[[], Nasty]] = [
            self.truncated, self.damaged, self.bad_utf8, self.nested, self.headers, self.method, self.chunked,
            self.leaving,
            self.path, self.garbage, self.length,
        ]  # fmt: skip

    def all(self, n: int) -> list[Nasty]:
        """Every field of every endpoint at least once with a wrong value, the rest of every other kind in turn."""
        every = [self.wrong_field(path, field) for path in self.paths for field in self.fields[path]]
        self.rng.shuffle(every)
        every = every[: n * 3 // 5]
        return every + [self.kinds[i % len(self.kinds)]() for i in range(n - len(every))]

    def body(self) -> tuple[str, bytes]:
        path = self.rng.choice(self.paths)
        return path, json.dumps(BODIES.get(path, {})).encode()

    def wrong_field(self, path: str, field: str) -> Nasty:
        value = wrong_value(self.rng)
        body = with_field(BODIES.get(path, {}), field, value)
        return Nasty(f"{path} {field}={value[:60]}", http("POST", path, body), may_run=field in LENGTHS)

    def truncated(self) -> Nasty:
        path, body = self.body()
        return Nasty(f"truncated {path}", http("POST", path, body[: self.rng.randrange(len(body))]))

    def damaged(self) -> Nasty:
        path, body = self.body()
        raw = bytearray(body)
        for _ in range(self.rng.randint(1, 4)):
            raw[self.rng.randrange(len(raw))] = self.rng.choice(b'{}[]",:\\\x00\x1f019eE-+.tfn \xff')
        return Nasty(f"damaged {path} {bytes(raw)[:60]!r}", http("POST", path, bytes(raw)), may_run=True)

    def bad_utf8(self) -> Nasty:
        path, body = self.body()
        bad = self.rng.choice(
            [b"\xff", b"\xc3\x28", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\x80"]
        )
        raw = self.rng.choice(
            [body.replace(b'"a"', b'"' + bad + b'"'), bad + body, body.decode().encode("utf-16"), bad * 9]
        )
        return Nasty(f"bad UTF-8 {path}", http("POST", path, raw))

    def nested(self) -> Nasty:
        path, _ = self.body()
        depth = self.rng.choice([64, 1000, 100_000])
        opened = self.rng.choice([b"[", b'{"a":', b'{"prompt":[', b'[{"a":'])
        closed = b"]" * depth if opened == b"[" and self.rng.random() < 0.5 else b""
        return Nasty(f"nested {depth} {path}", http("POST", path, opened * depth + closed))

    def headers(self) -> Nasty:
        path, body = self.body()
        header = self.rng.choice(
            [
                "X-Long: " + "a" * 300_000, "A" * 70_000 + ": b", "\r\n".join(f"X-{i}: {i}" for i in range(5000)),
                "Host: evil.example", "Host: ", "Authorization: Bearer " + "x" * 5000, "Authorization: \udcff\udcfe",
                "Content-Type: \x00", "Content-Type: multipart/form-data", "Content-Encoding: gzip", "X-Null: a\x00b",
                "Expect: 100-continue", "Expect: 900-dance", "Transfer-Encoding: gzip", "Upgrade: h2c", "no colon here",
                ": no name", " folded: x", "X-Request-Id: \u2028<script>", "Origin: null", "Origin: \udcff",
                "Range: bytes=-1-",
                "Content-Length: 3", "Content-Length: 0x10", "Cookie: " + "a=b;" * 20_000, "X-Forwarded-For: ;;;\x7f",
                "Accept: */*;q=NaN", "If-None-Match: " + '"' * 99, "If-Modified-Since: yesterday", "Last-Event-ID: -1",
                "Connection: upgrade, \x01", "Transfer-Encoding: chunked, chunked", "Accept-Encoding: " + "x," * 9999,
            ]
        )  # fmt: skip
        path = self.rng.choice([path, "/", "/health", "/v1/models", "/props"])
        method = self.rng.choice(["POST", "GET", "OPTIONS", "HEAD"])
        waits = header.startswith("Transfer-Encoding")  # for chunks that do not come
        return Nasty(f"header {method} {path} {header[:40]!r}", http(method, path, body, (header,)), may_run=waits)

    def method(self) -> Nasty:
        path = self.rng.choice(
            [*self.paths, "/", "/health", "/metrics", "/props", "/v1/models", "/model.json", "/nope"]
        )
        methods = [
            "PUT",
            "DELETE",
            "PATCH",
            "TRACE",
            "CONNECT",
            "HEAD",
            "GET",
            "OPTIONS",
            "FOO",
            "get",
            "P\u00d6ST",
            "",
            "BREW",
        ]
        method = self.rng.choice(methods)
        return Nasty(f"method {method} {path}", http(method, path, b"{}"))

    def chunked(self) -> Nasty:
        path, body = self.body()
        good = b"%x\r\n%s\r\n" % (len(body), body)
        raw = self.rng.choice(
            [
                b"zz\r\n" + body, b"-1\r\n" + body, b"ffffffffffffffffffff\r\n" + body, b"5\r\nabc\r\n0\r\n\r\n",
                good + b"0\r\nTrailer: x\r\n\r\n", good + b"x\r\n", b"\r\n\r\n", b"0\r\n\r\n" + body,
                b"1;" + b"e=v;" * 5000 + b"\r\na\r\n0\r\n\r\n", b"0x5\r\nabcde\r\n0\r\n\r\n",
                b" 5\r\nabcde\r\n0\r\n\r\n",
                b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n", b"\xff\xff\r\n",
            ]
        )  # fmt: skip
        extra = self.rng.choice([(), ("Content-Length: 5",)])
        # Some of these leave the server waiting for more: closing the sending side tells it that no more comes.
        return Nasty(
            f"chunked {path} {raw[:20]!r}", http("POST", path, raw, ("Transfer-Encoding: chunked", *extra),
            length=""), "half",
            may_run=True,
        )  # fmt: skip

    def leaving(self) -> Nasty:
        path, body = self.body()
        if path == "/completion":
            body = b'{"prompt": "a", "n_predict": 500, "stream": true}'
        raw = http("POST", path, body)
        cut = self.rng.choice([len(raw), len(raw) - 1, self.rng.randrange(1, len(raw))])
        leave = self.rng.choice(["half", "reset"])
        return Nasty(f"leaves ({leave}) {path} after {cut} of {len(raw)}", raw[:cut], leave, may_run=True)

    def path(self) -> Nasty:
        path = self.rng.choice(PATHS)
        method = self.rng.choice(["GET", "POST", "HEAD", "OPTIONS", "DELETE"])
        return Nasty(f"path {method} {path[:60]}", http(method, path, b"{}"))

    def garbage(self) -> Nasty:
        raw = self.rng.choice(
            [
                self.rng.randbytes(self.rng.choice([1, 100, 5000])), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"\r\n" * 500,
                b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"POST /completion HTTP/1.0\r\n\r\n{}", b"GET  /  HTTP/1.1\r\nHost:\r\n\r\n", b"A" * 400_000,
                b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\nHost: x\n\n",
                b"\x00" * 99 + b"\r\n\r\n",
            ]
        )  # fmt: skip
        return Nasty(f"garbage {raw[:30]!r}", raw, "half")

    def length(self) -> Nasty:
        path, body = self.body()
        length = self.rng.choice(
            ["-1", "1e3", "99999999999999999999", "999999999999", "0", "", "abc", "+5", "5 5", "5,5", "\u0663"]
        )
        return Nasty(f"Content-Length {length!r} {path}", http("POST", path, body, length=length), "half", may_run=True)
