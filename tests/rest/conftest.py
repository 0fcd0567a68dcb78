"""Real servers in this process, on a free port of 127.0.0.1, with the smallest real model."""

from __future__ import annotations

import http.client
import json
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
from llamakit.plugins.frontends.rest.keys import read_keys
from llamakit.plugins.frontends.rest.listen import listen_on
from llamakit.plugins.frontends.rest.options import ServeOptions
from llamakit.plugins.frontends.rest.server import Server
from llamakit.plugins.frontends.rest.startup import make_state

from llamakit.gguf import GGUFWriter, open_gguf
from llamakit.options import build_options
from llamakit.registry import Registry

TIMEOUT = 60


class Client:
    """A running server: `url`, `host`, `port`, `state`, and requests to it."""

    def __init__(self, server):
        self.server, self.state, self.url = server, server.state, server.url
        self.host, self.port = server.socks[0].getsockname()[:2]

    def request(self, method, path, body=None, headers=None):
        """(status, headers, bytes). A `body` that is not bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            with connection.getresponse() as response:
                return response.status, response.headers, response.read()
        finally:
            connection.close()

    def get(self, path, headers=None):
        """(status, decoded JSON)."""
        status, _, data = self.request("GET", path, None, headers)
        return status, json.loads(data)

    def post(self, path, body=None, headers=None):
        """(status, decoded JSON)."""
        status, _, data = self.request("POST", path, {} if body is None else body, headers)
        return status, json.loads(data)

    @contextmanager
    def open(self, path, body, headers=None):
        """The response of a POST whose body is not read yet."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        try:
            connection.request(
                "POST", path, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
            )
            with connection.getresponse() as response:  # a response that ends with its connection owns the socket
                yield response
        finally:
            connection.close()

    def stream(self, path, body, headers=None):
        """The raw bytes of a streamed answer, event by event."""
        with self.open(path, body, headers) as response:
            assert response.status == 200, response.read()
            buffer = b""
            while data := response.read1():
                buffer += data
                while b"\n\n" in buffer:
                    event, _, buffer = buffer.partition(b"\n\n")
                    yield event + b"\n\n"
            assert not buffer

    def events(self, path, body, headers=None):
        """The decoded data of each event."""
        for event in self.stream(path, body, headers):
            data = b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
            yield data.decode() if data == b"[DONE]" else json.loads(data)


@contextmanager
def running(models, settings=None, wait=True, tls=None, **options):
    """A server with `models` (name -> file); `options` are fields of ServeOptions, `settings` those of a Session."""
    options.setdefault("host", "127.0.0.1")
    made = build_options(ServeOptions, {"parallel": 8, "queue": 64} | options)
    keys = read_keys(made)
    socks = listen_on(made.hosts, 0)
    merged = {"backend": "cpu", "threads": 2, "n_seq": made.parallel, "max_queue": made.queue}
    merged |= {"max_predict": made.max_predict} | (settings or {})
    try:
        state = make_state(made, Registry.discover(), models, merged, keys)
        server = Server(state, socks[0], keys, tls, socks[1:])
    except BaseException:
        for sock in socks:
            sock.close()
        raise
    server.start()
    try:
        if wait:
            state.pool.load()
        yield Client(server)
    finally:
        server.stop()


def starter(stack, small_model, backend="cpu"):
    """A function that starts servers which `stack` stops."""

    def start(models=None, settings=None, **options):
        models, settings = models or {"stories": small_model}, {"backend": backend} | (settings or {})
        return stack.enter_context(running(models, settings, **options))

    return start


@pytest.fixture
def serve(small_model, backend_name):
    """Start a server: `serve(api_key=["k"], settings={"ctx_size": 128})`; stopped at the end of the test."""
    with ExitStack() as stack:
        yield starter(stack, small_model, backend_name)


@pytest.fixture(scope="module")
def serve_module(small_model, backend_name):
    """The same; stopped at the end of the module."""
    with ExitStack() as stack:
        yield starter(stack, small_model, backend_name)


@pytest.fixture(scope="module")
def server(small_model, backend_name):
    """One server for all tests of a module."""
    with running({"stories": small_model}, {"backend": backend_name}) as client:
        yield client


class Native:
    """Requests to the API of the 2023 server."""

    def __init__(self, client):
        self.client, self.state = client, client.state

    def post(self, path, headers=None, body=None, **fields):
        """The answer to a POST of `fields`, or of the bytes `body`, read to its end."""
        status, received, data = self.client.request("POST", path, fields if body is None else body, headers)
        return SimpleNamespace(status=status, headers=received, data=data, json=lambda: json.loads(data))

    def refused(self, path="/completion", **fields):
        """The error that a request gets with status 400."""
        reply = self.post(path, **fields)
        assert reply.status == 400, (fields, reply.data)
        return reply.json()["error"]

    def complete(self, **fields):
        """A whole answer."""
        reply = self.post("/completion", **fields)
        assert reply.status == 200, reply.data
        return reply.json()

    def stream(self, **fields):
        """The data of each event; nothing else may be in the stream."""
        reply = self.post("/completion", stream=True, **fields)
        assert reply.status == 200, reply.data
        *events, rest = reply.data.decode().split("\n\n")
        assert rest == ""
        assert all(event.startswith("data: ") for event in events)
        return [json.loads(event[6:]) for event in events]

    def ids(self, text):
        """The tokens of a text."""
        return self.post("/tokenize", content=text).json()["tokens"]

    def detokenize(self, tokens):
        """The text of tokens."""
        return self.post("/detokenize", tokens=tokens).json()["content"]


@pytest.fixture(scope="module")
def native(server):
    """A client of the 2023 API."""
    return Native(server)


@pytest.fixture(scope="session")
def templated(small_model, tmp_path_factory):
    """A copy of the model with a chat template and more metadata: `templated(source, **{"general.name": "x"})`."""

    def make(source, **more):
        file = tmp_path_factory.mktemp("templated") / "model.gguf"
        with open_gguf(small_model) as model, GGUFWriter(file) as writer:
            for key in model.metadata:
                writer.add(key, model.metadata[key], *model.metadata.value_type(key))
            for key, value in {"tokenizer.chat_template": source, **more}.items():
                writer.add(key, value)
            for name, info in model.tensors.items():
                writer.add_tensor(name, model.raw(name), info.type, info.shape)
        return file

    return make


class WithoutGrammar:
    """A registry in which the sampler `grammar` is not installed."""

    def __init__(self, registry):
        self._registry = registry

    def samplers(self):
        """All others."""
        return {name: cls for name, cls in self._registry.samplers().items() if name != "grammar"}

    def __getattr__(self, name):
        return getattr(self._registry, name)


@pytest.fixture
def without_grammar(serve):
    """A server that has no sampler `grammar`."""
    server = serve()
    server.state.registry = WithoutGrammar(server.state.registry)
    return server
