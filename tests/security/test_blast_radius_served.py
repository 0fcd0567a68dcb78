"""The same over HTTP: a hostile grammar gets its own 400, and `/health` says what the engine does."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time

import pytest

WIDE = "([a-z ]{1,1000}){1,1000}"
AMBIGUOUS = {  # each lets the text be split in so many ways that following it meets a limit
    "gbnf": {"grammar": f"root ::= {WIDE}"},
    "regex": {"regex": WIDE},
    "schema": {"json_schema": {"type": "string", "pattern": f"^{WIDE}$"}},
    "lark": {"lark": 'start: (x~1..1000)~1..1000\nx: "a".."z" | " "'},
    "structural tag": {"structural_tag": {"type": "structural_tag", "format": {"type": "regex", "pattern": WIDE}}},
}


def neighbour(server, stop, found):
    """Answers to the same question until `stop`: all alike, none an error."""
    while not stop.is_set():
        found.append(server.post("/completion", {"prompt": "Once upon", "n_predict": 40, "seed": 3, "temperature": 1}))


@pytest.mark.parametrize("kind", AMBIGUOUS)
@pytest.mark.parametrize("shape", [{}, {"stream": True}, {"n": 2}], ids=["whole", "stream", "several"])
def test_a_grammar_that_is_too_ambiguous_ends_its_own_request(server, kind, shape):
    stop, found = threading.Event(), []
    thread = threading.Thread(target=neighbour, args=(server, stop, found))
    thread.start()
    try:
        body = {"prompt": "Once", "n_predict": 64, "ignore_eos": True, **AMBIGUOUS[kind], **shape}
        for _ in range(2):
            status, _, data = server.request("POST", "/completion", body)
            assert status in (200, 400), data
            if b"too ambiguous" in data:
                assert status == 400 or shape.get("stream")
                assert b"invalid_request_error" in data
            else:
                assert status == 200, data
    finally:
        stop.set()
        thread.join()
    assert all(status == 200 for status, _ in found), found
    assert len({body["content"] for _, body in found}) == 1
    assert server.get("/health")[0] == 200


def test_the_grammar_of_the_report_is_refused_as_the_requests_fault(server):
    body = {"prompt": "Once", "n_predict": 64, "ignore_eos": True, "grammar": f"root ::= {WIDE}"}
    status, answer = server.post("/completion", body)
    assert status == 400
    assert "too ambiguous" in answer["error"]["message"]
    assert answer["error"]["param"] == "grammar"


def test_beams_that_have_nothing_left(server):
    banned = [[token, False] for token in range(512)]
    for more in ({"beams": 3}, {"n": 2}, {"grammar": 'root ::= "\\u4e00"', "beams": 2}):
        status, _ = server.post("/completion", {"prompt": "Once", "n_predict": 4, "logit_bias": banned, **more})
        assert status in (200, 400)
    assert server.post("/completion", {"prompt": "Once", "n_predict": 4})[0] == 200


class TroubledService:
    """A service of which `/health` is told some trouble."""

    def __init__(self, trouble, dead):
        self.trouble, self.dead, self.spoilt = trouble, dead, None


@pytest.mark.parametrize(("dead", "code"), [(True, "engine_ended"), (False, "backend_stuck")])
def test_health_says_what_the_engine_does(serve, dead, code, monkeypatch):
    server = serve()
    session = server.state.pool.loaded()
    with monkeypatch.context() as patch:
        patch.setitem(session.__dict__, "service", TroubledService("no step for 301 seconds", dead))
        status, body = server.get("/health")
    assert (status, body["error"]["code"]) == (503, code)
    assert server.get("/health")[0] == 200


MORTAL = """
import sys
from llamakit.engine.service import Service
take, recover = Service._take_inbox, Service._recover
def deadly(self):
    if self._inbox:
        self._inbox.clear()
        raise SystemExit(1)
def interrupted(self, error):
    recover(self, error)
    raise KeyboardInterrupt
Service._take_inbox, Service._recover = deadly, interrupted
from llamakit.cli import main
sys.argv[0] = "llamakit"
main()
"""


def test_a_server_whose_engine_dies_again_and_again_ends_with_an_error(small_model, tmp_path, serving):
    port = serving.free_port()
    command = [sys.executable, "-c", MORTAL, "serve", "-m", str(small_model), "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=serving.environment())
    try:
        assert ask_until_it_ends(process, port) == 5
    finally:
        process.kill()
        process.wait()
    log = (tmp_path / "log").read_text()
    assert "the engine's thread ended again and again" in log


def ask_until_it_ends(process, port):
    """Requests, each of which ends the engine's thread, until the server ends; its exit status."""
    end, failed = time.monotonic() + 60, 0
    while process.poll() is None and time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("POST", "/completion", json.dumps({"prompt": "Once", "n_predict": 4}).encode())
            failed += connection.getresponse().status >= 500
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    assert failed
    return process.wait(30)
