"""The answers fit what the description of the API says of them."""

from __future__ import annotations

import msgspec
import pytest
from llamakit.plugins.frontends.rest.apis.llamacpp import routes
from llamakit.plugins.frontends.rest.apis.llamacpp.shapes import SettingsAnswer

BODIES = {
    "/completion": [
        {"prompt": ["a", 400], "n_predict": 2, "n_probs": 2, "logit_bias": [[5, False]]},
        {"prompt": "a", "n_predict": 2, "n": 2, "return_tokens": True},
        {"prompt": "a", "n_predict": 0, "response_fields": ["content", "timings/prompt_n"]},
    ],
    "/infill": [{"input_prefix": "a", "n_predict": 2}],
    "/tokenize": [{"content": "é"}, {"content": "\U0001f600", "with_pieces": True}],
    "/detokenize": [{"tokens": [400]}],
    "/embedding": [{"content": "a"}, {"input": ["a", "b"]}, {"content": "a", "pooling": "none"}],
    "/apply-template": [{"messages": [{"role": "user", "content": "x"}]}],
}


@pytest.mark.parametrize("path", BODIES)
def test_answers_fit_their_description(native, monkeypatch, path):
    monkeypatch.setattr(native.state.pool.loaded().tokenizer, "fim_ids", {"pre": 3, "suf": 4, "mid": 5})
    operation = next(r for r in routes(native.state) if r.path == path).operations["POST"]
    for body in BODIES[path]:
        reply = native.post(path, **body)
        assert reply.status == 200
        made = msgspec.json.decode(reply.data, type=operation.response)
        names = set(reply.json()) if isinstance(reply.json(), dict) else set()
        if isinstance(made, msgspec.Struct):
            assert {name for name in names if "/" not in name} <= set(made.__struct_fields__)


def test_settings_fit_their_description(native):
    _, _, data = native.client.request("GET", "/model.json")
    msgspec.json.decode(data, type=SettingsAnswer)
    assert set(msgspec.json.decode(data)) == set(SettingsAnswer.__struct_fields__)


def test_the_description_has_every_route(server):
    paths = server.get("/openapi.json")[1]["paths"]
    for route in routes(server.state):
        assert set(paths[route.path]) == {method.lower() for method in route.operations}
