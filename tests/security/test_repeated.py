"""What an answer repeats for each choice or prompt is bounded, and becomes JSON once."""

from __future__ import annotations

import json

import msgspec
import pytest
from llamakit.plugins.frontends.rest.apis.llamacpp import answer as native

BIASES = [[token, 0.5] for token in range(3, 500)]


@pytest.mark.parametrize("more", [{}, {"response_fields": ["generation_settings"]}, {"temp": 0.5},
                                  {"response_fields": ["generation_settings/logit_bias"]}, {"stream": True}])  # fmt: skip
def test_settings_become_json_once(server, monkeypatch, more):
    """60 answers that repeated 65,000 biases each held Python's lock for 0.4 s."""
    sizes, encode = [], msgspec.json.encode

    def note(value, **how):
        made = encode(value, **how)
        sizes.append(len(made))
        return made

    given = {"prompt": list(range(3, 300)), "n_predict": 1, "n": 8, "logit_bias": BIASES, **more}
    monkeypatch.setattr(native.msgspec.json, "encode", note)
    status, _, data = server.request("POST", "/completion", json.dumps(given).encode())
    assert status == 200
    assert len(data) > 8 * 5 * len(BIASES)
    assert sum(sizes) < len(data) / 2
