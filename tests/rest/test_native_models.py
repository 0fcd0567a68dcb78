"""The native API with several models, adapters' and samplers' settings, and models that load while a client waits."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def two(serve, small_model, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(small_model.read_bytes()[:5000])
    return serve(models={"first": small_model, "second": small_model, "broken": broken}, settings={"max_predict": 40})


def test_a_request_names_its_model(two):
    for name, found in [("", "first"), (None, "first"), ("first", "first"), ("second", "second")]:
        status, answer = two.post("/completion", {"prompt": "a", "n_predict": 1, "model": name})
        assert (status, answer["model"], answer["generation_settings"]["model"]) == (200, found, found)
    status, answer = two.post("/completion", {"prompt": "a", "model": "secnd"})
    assert (status, answer["error"]["param"]) == (404, "model")
    assert "second" in answer["error"]["found"]
    assert two.get("/model.json?model=second")[1]["model"] == "second"
    assert two.post("/tokenize", {"content": "a", "model": "nobody"})[0] == 404


def test_a_stream_tells_how_far_the_model_is_loaded(two):
    body = {"prompt": "a", "n_predict": 3, "model": "second", "stream": True, "temperature": 0}
    events = list(two.events("/completion", body | {"return_progress": True}))
    assert events[0] == {"loading": {"progress": 0.0}}
    texts = [event["content"] for event in events if "content" in event]
    assert events[-1]["stop"] is True
    plain = list(two.events("/completion", body))
    assert [event["content"] for event in plain] == texts


@pytest.mark.parametrize("progress", [False, True])
def test_a_model_that_does_not_load_is_an_error(two, progress):
    body = {"prompt": "a", "model": "broken", "stream": True, "return_progress": progress}
    status, _, data = two.request("POST", "/completion", body)
    assert b"broken.gguf" in data
    assert b"/tmp" not in data
    if progress:
        *_, last, rest = data.decode().split("\n\n")
        assert (status, rest) == (200, "")
        assert json.loads(last[6:])["error"]["type"] == "server_error"
    else:
        assert status == 500
    assert two.post("/completion", {"prompt": "a", "n_predict": 1})[0] == 200


def test_max_predict_bounds_answers_without_a_limit(two):
    _, answer = two.post("/completion", {"prompt": "a", "ignore_eos": True})
    assert (answer["tokens_predicted"], answer["stopped_limit"]) == (40, True)


def test_settings_of_the_server_are_the_defaults_of_requests(serve):
    client = serve()
    client.state.sampling = {"top_k": 7, "repeat_penalty": 1.3}
    settings = client.get("/model.json")[1]
    assert (settings["top_k"], settings["repeat_penalty"], settings["top_p"]) == (7, 1.3, 0.95)
    _, answer = client.post("/completion", {"prompt": "a", "n_predict": 1, "top_k": 9})
    settings = answer["generation_settings"]
    assert (settings["top_k"], settings["repeat_penalty"]) == (9, 1.3)


def test_a_long_prompt_within_the_context_is_whole(serve):
    """`-c` is the context of each sequence, however many there are."""
    client = serve(settings={"ctx_size": 256}, parallel=4)
    _, answer = client.post("/completion", {"prompt": [400] * 250, "n_predict": 4, "ignore_eos": True})
    assert (answer["truncated"], answer["tokens_predicted"]) == (False, 4)
    assert answer["generation_settings"]["n_ctx"] == 256
