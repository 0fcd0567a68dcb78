"""Log lines: for people, for programs, and never with what was asked."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from llamakit.plugins.frontends.rest import logs
from llamakit.plugins.frontends.rest.options import ServeOptions

from tests.waiting import until

NAMES = ("llamakit", "waitress", "waitress.queue", logs.requests.name)


@pytest.fixture
def written(monkeypatch):
    """Set the logs up; returns a function that gives what was written since."""
    kept = [(logging.getLogger(n), logging.getLogger(n).level, logging.getLogger(n).propagate) for n in NAMES]

    def set_up(**options):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        logs.set_up(ServeOptions(**options))
        return stream

    yield set_up
    for logger, level, propagate in kept:
        logger.handlers, logger.propagate = [], propagate
        logger.setLevel(level)


def test_a_json_line_for_each_request(written, serve):
    stream = written(log_format="json")
    client = serve()
    client.post("/completion", {"prompt": "the secret prompt", "n_predict": 3}, {"X-Request-Id": "one"})
    client.get("/nope?secret=1")
    until(lambda: stream.getvalue().count('"method"') == 2)  # a line is written when its answer has been sent
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    first, second = (line for line in lines if line["logger"] == "llamakit.rest.requests")
    assert (first["id"], first["method"], first["path"], first["status"]) == ("one", "POST", "/completion", 200)
    assert first["ms"] > 0
    assert first["tokens"] == 3
    assert (second["path"], second["status"], second["tokens"]) == ("/nope", 404, None)
    assert "secret" not in stream.getvalue()


def test_text_lines_only_if_asked(written):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/x\n12:00:00 forged\x1b[2J"}
    stream = written()
    logs.log_request(environ, "200 OK", 0.0015)
    assert stream.getvalue() == ""
    stream = written(verbose=True)
    logs.log_request(environ, "200 OK", 0.0015)
    (line,) = stream.getvalue().splitlines()
    assert "GET /x\\n12:00:00 forged\\x1b[2J  200  1.5 ms" in line


def test_levels_and_tracebacks(written):
    stream = written()
    log = logging.getLogger("llamakit.rest")
    log.warning("look out")
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("it broke")
    text = stream.getvalue()
    assert "warning: look out" in text
    assert "error: it broke" in text
    assert "KeyError" in text
    stream = written(log_format="json")
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("it broke")
    assert "KeyError" in json.loads(stream.getvalue().splitlines()[-1])["traceback"]


def test_waitress_is_quiet_about_clients_that_leave(written):
    stream = written()
    logging.getLogger("waitress").info("Client disconnected while serving /completion")
    logging.getLogger("waitress.queue").warning("Task queue depth is 3")
    assert stream.getvalue() == ""
    logging.getLogger("waitress").error("something else")
    assert "something else" in stream.getvalue()
