"""What an answer repeats for each choice or prompt is bounded, and becomes JSON once."""

from __future__ import annotations

import json
from types import SimpleNamespace

import msgspec
import pytest
from llamakit.plugins.frontends.rest import generation
from llamakit.plugins.frontends.rest.apis.llamacpp import answer as native
from llamakit.plugins.frontends.rest.body import few, tell_ignored

from llamakit.engine.request import Request

BIASES = [[token, 0.5] for token in range(3, 500)]


SETTINGS = "generation_settings"
ASKED = [
    {},
    {"temp": 0.5},
    {"stream": True},
    {"response_fields": [SETTINGS]},
    {"response_fields": [f"{SETTINGS}/logit_bias"]},
]


@pytest.mark.parametrize("more", ASKED)
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


def test_the_prompt_that_each_answer_tells_with_probabilities_is_counted_as_often():
    """60 answers that told 4,000 tokens and 20 likely ones in the place of each took 200 MiB, counted as 50."""
    one, many = (Request(prompt=[5] * 4000, n=n, max_tokens=1, prompt_logprobs=20) for n in (1, 60))
    assert generation.bytes_of(many, 1) - generation.bytes_of(one, 1) > 59 * 4000 * 20 * 30


def test_few_of_many_ignored_names_are_told(server):
    """180,000 of them were all made ready for a header of a thousand characters, and told again by each answer."""
    asked = []

    class Names(tuple):
        __slots__ = ()

        def __iter__(self):
            return (asked.append(1) or name for name in tuple.__iter__(self))

    headers = {}
    tell_ignored(SimpleNamespace(set_header=headers.__setitem__), Names(f"k{i}" for i in range(10_000)))
    assert len(asked) < 1000
    assert headers["X-Ignored-Fields"].startswith("k0, k1, k2")
    assert few(["x" * 1000]) == ["x" * 100]
    many = {f"k{i}": 1 for i in range(5000)} | {"x" * 5000: 1}
    found = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, **many})[1]
    assert len(found["llamakit"]["ignored"]) < 1000
