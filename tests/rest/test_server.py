"""The server as a process: start, signals, ports, and what waitress does for it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from llamakit.plugins.frontends.rest.listen import ListenError, listen, listen_on, url_of

from llamakit.errors import UsageError
from tests.waiting import PATIENCE, until

SECONDS = 60  # that a busy machine may take for what takes moments


class Process:
    """`llamakit serve` as a person starts it; `lines` is what it has written to standard error."""

    def __init__(self, *args, cwd=None, first=""):
        """`first`: code that runs before."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("LLAMAKIT_")} | {"NO_COLOR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{first}\nfrom llamakit.cli import main; main()", "serve", *map(str, args)],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd, env=environ,
        )  # fmt: skip
        self.lines = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()

    def wait_for(self, text):
        """The first line that holds a text."""
        with self._more:
            found = self._more.wait_for(lambda: any(text in line for line in self.lines), SECONDS)
            assert found, self.lines
            return next(line for line in self.lines if text in line)

    @property
    def port(self):
        return int(re.search(r":(\d+)", self.wait_for("http://"))[1])

    def end(self):
        """Exit code and everything it said."""
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code, "\n".join(self.lines)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()
        self.process.stdout.close()


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection, connection.getresponse()


def test_start_answer_and_stop(small_model):
    with Process("-m", small_model, "--port", "0", "-v", "-c", "256", "--n-gpu-layers", "9", "-np", "4") as server:
        server.wait_for("Ctrl-C stops")
        shown = "\n".join(server.lines)
        assert "layers    all run on the CPU (backend cpu): -ngl 9 does nothing without a GPU" in shown
        assert re.search(r"^model     \S.*llama, context 256\nbackend   cpu", shown, re.MULTILINE)
        assert re.search(r"^memory    .* weights, .* KV \(4 sequences, f16\), .* free$", shown, re.MULTILINE)
        assert re.search(r"^samplers  \d+", shown, re.MULTILINE)
        assert max(len(line) for line in server.lines if not line.startswith("warning")) <= 80
        assert re.search(r"^ready in \d+\.\d s; Ctrl-C stops$", shown, re.MULTILINE)
        secret = "Lily and the very secret bear"
        connection, response = ask(server.port, "POST", "/completion", {"prompt": secret, "n_predict": 4})
        answer = json.load(response)
        connection.close()
        assert (response.status, answer["tokens_predicted"]) == (200, 4)
        line = server.wait_for("POST /completion")
        assert re.fullmatch(r"\d\d:\d\d:\d\d POST /completion  200  [\d.e+]+ ms.*  [0-9a-f]{24}", line)
        server.process.send_signal(signal.SIGTERM)
        code, text = server.end()
    assert code == 0
    assert "secret" not in text
    assert "Traceback" not in text
    assert server.process.stdout.closed


def test_streams_in_flight_are_finished_when_it_is_told_to_stop(small_model):
    options = ("--grace", "600", "-np", "9", "--max-predict", "100000000")
    with Process("-m", small_model, "--port", "0", *options) as server:
        server.wait_for("ready")
        port, ends, body = server.port, [], {"prompt": "Once", "stream": True, "ignore_eos": True}
        endless = ask(port, "POST", "/completion", body | {"n_predict": -1})  # else all may end before what comes late

        def read():
            connection, response = ask(port, "POST", "/completion", body | {"n_predict": 400})
            started.release()
            data = response.read()
            connection.close()
            ends.append(json.loads(data.split(b"data: ")[-1]))

        started = threading.Semaphore(0)
        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert started.acquire(timeout=SECONDS)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("s left; Ctrl-C again cuts them")
        connection, response = ask(port, "POST", "/completion", {"prompt": "late"})
        late = json.load(response)
        connection.close()
        assert (response.status, late["error"]["code"]) == (503, "unavailable")
        assert int(response.headers["Retry-After"]) > 0
        for thread in threads:
            thread.join(SECONDS)
        for each in reversed(endless):
            each.close()
        code, text = server.end()
    assert code == 0
    assert [end["stopped_limit"] for end in ends] == [True] * 8
    assert "Traceback" not in text


def test_a_second_signal_cuts_the_answers(small_model):
    with Process("-m", small_model, "--port", "0", "--grace", "600", "--max-predict", "100000000") as server:
        server.wait_for("ready")
        body = {"prompt": "Once", "n_predict": -1, "stream": True, "ignore_eos": True}
        connection, response = ask(server.port, "POST", "/completion", body)
        assert response.read1().startswith(b"data: ")
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        server.wait_for("1 answer running")
        server.process.send_signal(signal.SIGINT)
        last = response.read().split(b"data: ")[-1]  # ends as a whole: an event and the last chunk
        connection.close()
        code, text = server.end()
    assert json.loads(last)["error"]["code"] == "unavailable"
    assert code == 0
    assert time.monotonic() - began < 60  # long before the 600 seconds that it was given
    assert "Traceback" not in text


PATIENT = "from llamakit.plugins.frontends.rest import connections as c; c.HEADER_SECONDS = c.PACE_SECONDS = 600.0"


def test_it_stops_at_once_with_idle_and_half_sent_connections(stories260k):
    """Each of them may take ten minutes."""
    with Process("-m", stories260k, "--port", "0", first=PATIENT) as server, ExitStack() as stack:
        server.wait_for("ready")
        idle = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        half = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        half.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0
        for sock in (idle, half):
            with suppress(ConnectionResetError):  # as systems end connections of which something was not read
                assert sock.recv(10) == b""


def test_while_the_model_loads_the_port_answers(serve, stories260k, monkeypatch):
    held = threading.Event()
    from llamakit.session import Session

    original = Session.service

    def service(self):
        assert held.wait(SECONDS)
        return original.func(self)

    monkeypatch.setattr(Session, "service", property(service))
    client = serve(wait=False)
    loading = threading.Thread(target=client.state.pool.load, daemon=True)
    loading.start()
    assert client.request("GET", "/")[0] == 200
    assert client.get("/health")[0] == 503
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(client.post("/tokenize", {"content": "Once upon a time"})[0])
    )
    asking.start()
    held.set()
    asking.join(SECONDS)
    assert answers == [200]  # it waited for the model
    loading.join(SECONDS)  # or the server would end beneath it
    monkeypatch.undo()
    assert client.get("/health")[0] == 200


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["-m", "missing.gguf"], 3, "missing.gguf"),
        (["--models", "a="], 2, "both a name and a file are needed"),
        (["-m", "{model}", "--port", "70000"], 2, "port is 70000; possible: 0..65535"),
        (["-m", "{model}", "--host", "no.such.host.invalid"], 2, "no such host is known"),
        (["-m", "{model}", "--host", "192.0.2.1"], 4, "it is not an address of this machine"),
        (["-m", "{model}", "--api-key-file", "missing.txt"], 2, "missing.txt cannot be read"),
        (["-m", "{model}", "--max-body", "many"], 2, "max_body cannot be 'many'"),
        (["-m", "{model}", "--kv-memory", "9T"], 4, "not enough memory: 9216.00 GiB for keys and values"),
        (["-m", "{model}", "--lora", "missing.gguf"], 3, "missing.gguf"),
        (["-m", "{model}", "--no-such-option"], 2, "no-such-option"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(stories260k, tmp_path, args, code, said):
    with Process("--port", "0", *(arg.format(model=stories260k) for arg in args), cwd=tmp_path) as server:
        found, text = server.end()
    assert (found, "Traceback" in text) == (code, False), text
    assert said in text
    assert text.count("error:") == 1


def test_a_port_in_use_is_told_with_who_has_it(server):
    with pytest.raises(ListenError, match="the port is in use") as error:
        listen("127.0.0.1", server.port)
    assert error.value.exit_code == 4
    assert "llamakit answers there, status 200 at /health" in error.value.found
    assert "--port" in error.value.hint


def test_a_port_in_use_by_something_silent():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ListenError) as error:
        listen("127.0.0.1", other.getsockname()[1])
    assert "does not answer" in error.value.found


def test_listen():
    sock = listen("localhost", 0, stall_seconds=7)
    assert url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
    sock.close()
    with pytest.raises(UsageError):
        listen("bad..name", 0)


def test_several_addresses_are_one_server(serve):
    """127.0.0.0/8 is this machine's own on Linux."""
    try:
        server = serve(host="127.0.0.1,127.0.0.2,localhost", connections_per_address=3)
    except ListenError:
        pytest.skip("this system has one loopback address only")
    hosts = ("127.0.0.1", "127.0.0.2")
    assert server.server.urls == [f"http://{host}:{server.port}" for host in hosts]
    for host in hosts:
        connection = http.client.HTTPConnection(host, server.port, timeout=PATIENCE)
        connection.request("POST", "/completion", json.dumps({"prompt": "Once", "n_predict": 3}))
        assert json.loads(connection.getresponse().read())["tokens_predicted"] == 3
        connection.close()
    server.server.stop()
    for host in hosts:
        with pytest.raises(OSError):
            socket.create_connection((host, server.port), timeout=PATIENCE)


def test_one_address_of_several_that_cannot_be_had_leaves_none():
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError):
            listen_on(["127.0.0.1", "127.0.0.2"], port)
        listen("127.0.0.1", port).close()


def test_all_addresses_cover_each_of_them():
    socks = listen_on(["127.0.0.1", "0.0.0.0", "localhost"], 0)
    assert [sock.getsockname()[0] for sock in socks] == ["0.0.0.0"]
    for sock in socks:
        sock.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_listen_on_ipv6():
    try:
        sock = listen("::1", 0)
    except ListenError:
        pytest.skip("no IPv6 address here")
    assert url_of(sock) == f"http://[::1]:{sock.getsockname()[1]}"
    sock.close()


def test_the_request_id_is_the_clients_or_a_new_one(server):
    for asked, kept in (("abc-1.2_Z", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("é", False)):
        _, headers, _ = server.request("GET", "/health", None, {"X-Request-Id": asked.encode("utf-8")})
        assert (headers["X-Request-Id"] == asked) == kept
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", headers["X-Request-Id"])


def test_unknown_paths_and_methods_are_json_errors(server):
    for method, path, status in (
        ("GET", "/nope", 404), ("POST", "/nope", 404), ("POST", "/", 404), ("GET", "/v1/nope", 404),
        ("GET", "/completion", 405), ("DELETE", "/completion", 405), ("BREW", "/completion", 400),
        ("GET", "/%ff%00/..%2f", 404),
    ):  # fmt: skip
        found, headers, data = server.request(method, path)
        assert (found, headers["Content-Type"]) == (status, "application/json"), (method, path, data)
        error = json.loads(data)["error"]
        assert set(error) == {"code", "message", "param", "found", "hint", "type"}
        assert error["message"]
        assert error["code"]
        if status == 405:
            assert "POST" in headers["Allow"]


def test_options_is_answered_everywhere_with_nothing(server):
    for path in ("/completion", "/nope", "/"):
        status, headers, data = server.request("OPTIONS", path)
        assert (status, data, headers["Content-Type"]) == (200, b"", "application/json")


def test_head_is_get_without_the_body(server):
    for path in ("/health", "/", "/v1/models"):
        status, headers, data = server.request("HEAD", path)
        assert (status, data) == (200, b"")
        assert int(headers["Content-Length"]) > 0


def test_a_defect_is_logged_and_its_traceback_stays_here(serve, monkeypatch, caplog):
    from llamakit.tokenizer import Tokenizer

    client = serve()

    def broken(*args, **kwargs):
        raise RuntimeError("the secret /etc/shadow")

    monkeypatch.setattr(Tokenizer, "encode", broken, raising=False)
    session = client.state.pool.loaded()
    session.__dict__["tokenizer"] = _Broken(session.tokenizer)
    status, answer = client.post("/tokenize", {"content": "x"}, {"X-Request-Id": "this-one"})
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (500, "internal", "server_error")
    assert "this-one" in answer["error"]["found"]
    assert "secret" not in json.dumps(answer)
    assert "this-one" in caplog.text
    assert "the secret" in caplog.text


class _Broken:
    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def encode(self, *args, **kwargs):
        raise RuntimeError("the secret /etc/shadow")

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


def test_a_client_that_leaves_frees_its_place(serve):
    client = serve(max_predict=100_000_000)
    body = {"prompt": "Once", "n_predict": -1, "stream": True, "ignore_eos": True}
    with client.open("/completion", body) as response:
        response.read1()
        assert client.server.gate.answering == 1
    until(lambda: not client.server.gate.answering)
    assert client.state.admission.taken == 0


def test_the_parts_of_waitress_that_it_does_not_document(server):
    """`server.Server` reaches into these; a change of waitress shows here first."""
    inner = server.server._server
    with socket.create_connection((server.host, server.port)):
        until(server.server._channels)
        (channel, *_) = server.server._channels()
        assert (channel.requests, channel.total_outbufs_len, channel.will_close) == ([], 0, False)
        assert channel.socket.fileno() > 0
        assert callable(channel.handle_close)
    assert callable(inner.task_dispatcher.shutdown)
    assert callable(inner.trigger.pull_trigger)
    assert (inner.adj.channel_request_lookahead, inner.adj.asyncore_use_poll) == (1, True)
    assert inner.adj.threads == server.state.options.threads > server.state.admission.places
