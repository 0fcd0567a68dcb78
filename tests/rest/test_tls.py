"""TLS: the server speaks it itself, in front of waitress."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import threading
from contextlib import suppress

import pytest
from llamakit.plugins.frontends.rest.tls import make_context

from llamakit.errors import UsageError
from tests.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def secure(serve_module, pem):
    return serve_module(tls=make_context(*map(str, pem)), api_key=["k"], max_predict=100_000_000)


def connect(client, pem):
    context = ssl.create_default_context(cafile=pem[0])
    return http.client.HTTPSConnection(client.host, client.port, timeout=PATIENCE, context=context)


def test_answers_and_streams(secure, pem):
    assert secure.url == f"https://127.0.0.1:{secure.port}"
    connection = connect(secure, pem)
    headers = {"Authorization": "Bearer k", "Origin": secure.url}
    for _ in range(3):  # kept alive
        connection.request("POST", "/tokenize", json.dumps({"content": "Once upon"}), headers)
        response = connection.getresponse()
        assert (response.status, bool(json.load(response)["tokens"])) == (200, True)
    body = {"prompt": "Once", "n_predict": 200, "stream": True, "ignore_eos": True}
    connection.request("POST", "/completion", json.dumps(body), headers)
    data = connection.getresponse().read()
    assert json.loads(data.split(b"data: ")[-1])["tokens_predicted"] == 200
    connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="one loopback address only")
def test_several_addresses(serve, pem):
    server = serve(tls=make_context(*map(str, pem)), host="127.0.0.1,127.0.0.2")
    unnamed = ssl.create_default_context(cafile=pem[0])
    unnamed.check_hostname = False  # the certificate has the first address only
    for host in ("127.0.0.1", "127.0.0.2"):
        connection = http.client.HTTPSConnection(host, server.port, timeout=PATIENCE, context=unnamed)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()


def test_without_a_key_and_from_elsewhere_it_is_refused(secure, pem):
    for headers, status in (({}, 401), ({"x-api-key": "k", "Origin": "https://evil.example"}, 403)):
        connection = connect(secure, pem)
        connection.request("POST", "/tokenize", "{}", headers)
        assert connection.getresponse().status == status
        connection.close()


def test_a_large_body_and_a_large_answer(secure, pem):
    connection = connect(secure, pem)
    text = "Once upon a time there was a little girl. " * 20000
    connection.request("POST", "/tokenize", json.dumps({"content": text}), {"x-api-key": "k"})
    assert len(json.load(connection.getresponse())["tokens"]) > 100_000
    connection.close()


def test_a_client_that_leaves_is_noticed(secure, pem):
    connection = connect(secure, pem)
    body = {"prompt": "Once", "n_predict": -1, "stream": True, "ignore_eos": True}
    connection.request("POST", "/completion", json.dumps(body), {"x-api-key": "k"})
    response = connection.getresponse()
    response.read1()
    assert secure.server.gate.answering == 1
    response.close()
    connection.close()
    until(lambda: not secure.server.gate.answering)


def test_who_speaks_no_tls_is_hung_up_on(secure, pem):
    for data in (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01", b"\0" * 1000):
        with socket.create_connection((secure.host, secure.port), timeout=PATIENCE) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                assert b"HTTP" not in sock.recv(1000)
    connection = connect(secure, pem)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


def test_many_at_once(secure, pem):
    found = []

    def ask():
        connection = connect(secure, pem)
        connection.request("POST", "/completion", json.dumps({"prompt": "Once", "n_predict": 20}), {"x-api-key": "k"})
        found.append(json.load(connection.getresponse())["tokens_predicted"])
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 32


def test_what_cannot_be_used_is_told(tmp_path, pem):
    cert, key = map(str, pem)
    (tmp_path / "text.pem").write_text("no certificate")
    for files, said in (
        ((str(tmp_path / "missing.pem"), key), "no file"), ((cert, str(tmp_path / "missing.pem")), "no file"),
        (("", key), "without its certificate"), ((cert, ""), "cannot be used"),
        ((str(tmp_path / "text.pem"), key), "cannot be used"), ((cert, cert), "cannot be used"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            make_context(*files)
