"""Large bodies are looked at one at a time: many threads would leave the engine a turn in as many."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from llamakit.plugins.frontends.rest import body


@pytest.mark.parametrize(("size", "most"), [(body.LARGE + 1000, 1), (1000, 4)])
def test_so_many_bodies_are_decoded_at_once(serve, monkeypatch, size, most):
    server, decode, lock = serve(), body.decode_object, threading.Lock()
    now, peak = 0, 0

    def counted(data):
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.2)
        with lock:
            now -= 1
        return decode(data)

    monkeypatch.setattr(body, "decode_object", counted)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.post, "/tokenize", {"content": "a" * size}) for _ in range(4)]
        assert {each.result()[0] for each in asked} == {200}
    assert (peak == 1) == (most == 1)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/completion", "/embedding"])
def test_ids_are_counted_before_they_are_looked_at(server, path):
    """A message was made for each of them, in case it were wrong."""
    name = "input" if path.endswith("embeddings") else "content" if path == "/embedding" else "prompt"
    status, answer = server.post(path, {name: [5] * 200_000})
    assert status == 400
    assert "the text is too long: it has 200,000 tokens or more" in str(answer)
    status, answer = server.post(path, {name: [5, 6, 1 << 20]})
    assert status == 400
    assert "token 1048576 is outside the vocabulary" in str(answer)
    assert f"{name}[2]" in str(answer)
