"""Every field of the native API with values that it takes and values that it does not."""

from __future__ import annotations

import msgspec
import pytest
from llamakit.plugins.frontends.rest.apis.llamacpp.fields import CompletionBody

HUGE = 10**30
TAKEN = {
    "prompt": ["", "x", ["x", 400], [400]],
    "timings_per_token": [True, False],
    "t_max_predict_ms": [0, 60_000],
    "model": ["", "anything"],
    "stream": [False],
    "n_predict": [-2, 0, 1, 2.0],
    "n_keep": [-1, 0, 5, 2**31 - 1],
    "seed": [-1, 0, 2**32 - 1, 2**63 - 1],
    "stop": ["x", [], ["a", None, ""], ["x"] * 128],
    "ignore_eos": [True, False],
    "logit_bias": [[], [[5, 1]], [[5, -1.5], [6, False]], [["the", 2]], {"5": 1, " the": False}],
    "n_probs": [0, 1, 1000],
    "post_sampling_probs": [True, False],
    "samplers": ["top_k;temperature", ["top_k", "typ_p"], "", [], "penalties; dist"],
    "context_shift": [True, False],
    "parse_special": [True, False],
    "cache_prompt": [True, False],
    "cache_salt": ["", "a"],
    "return_tokens": [True, False],
    "return_progress": [True, False],
    "response_fields": [[], ["content", "content"], ["/", "a//b"]],
    "n": [1, 2],
    "best_of": [1, 2],
    "n_beams": [1, 2],
    "negative_prompt": [None],
    "guidance_scale": [0, 1, 1.5, 100],
    "lora": [[]],
    "priority": [-1000, 1000],
    "deadline": [0.5, 86400],
    "speculative.n_max": [0, 64],
    "id_slot": [-1, 3],
    "top_k": [-1, 0, 1, 1 << 20],
    "temperature": [-1, 0, 0.5, 100],
    "top_p": [0, 1],
    "min_p": [0, 1],
    "tfs_z": [0, 0.5, 1],
    "typical_p": [0, 0.5, 1],
    "repeat_penalty": [0.01, 100],
    "repeat_last_n": [-1, -5, 0, 1 << 20],
    "presence_penalty": [-100, 100],
    "frequency_penalty": [-100, 100],
    "penalize_nl": [True, False],
    "mirostat": [0, 1, 2],
    "mirostat_tau": [0, 100],
    "mirostat_eta": [0, 10],
    "grammar": ["", None],
    "strict": [True, False, None],
}
REFUSED = {
    "prompt": [1, 1.5, True, {}, [1.5], [True], [[[400]]], [None], [-1], [512], [HUGE], [2**63], ["x", -5]],
    "model": [1, [], "x" * 257],
    "stream": [1, "true", []],
    "n_predict": ["abc", 1.5, True, [], -3, 2**31, HUGE, "1"],
    "n_keep": ["1", -2, 2**31, HUGE, 0.5],
    "seed": ["1", -2, 2**63, HUGE, 0.5],
    "stop": [1, [1], {}, ["x"] * 129, "x" * 1025, ["x" * 1025]],
    "ignore_eos": [1, "no"],
    "logit_bias": [1, "x", [[5]], [[5, 1, 1]], [[5, "x"]], [[5.5, 1]], [[512, 1]], [[-1, 1]], [[5, True]], {"-1": 1},
                   [[HUGE, 1]], {"512": 1},
                   {"5": "x"}, [5, 1], [[None, 1]]],
    "n_probs": [-1, 1001, "2", HUGE],
    "post_sampling_probs": [1],
    "samplers": [1, [1], ["top_k", "top_k"], "dist;top_k", ["x" * 257], "top_k;" * 65],
    "context_shift": [1],
    "timings_per_token": [1],
    "t_max_predict_ms": [-1, 1.5, 86_400_001],
    "parse_special": [1],
    "cache_prompt": ["yes"],
    "cache_salt": [1, "x" * 257],
    "return_tokens": [0],
    "return_progress": [0],
    "response_fields": ["content", [1], ["a"] * 65],
    "n": [0, -1, 129, "2", HUGE, 9],
    "best_of": [0, 129, 9],
    "n_beams": [0, 129, 9],
    "negative_prompt": [1, "x", [512]],
    "guidance_scale": [-1, 101, "x", HUGE],
    "lora": [1, [1], [{"id": -1}], [{"id": 0}], [{"name": "nobody"}], [{}], [{"id": 0, "scale": "x"}], [{}] * 33],
    "priority": [1001, -1001, "high"],
    "deadline": [0, -1, 86401, "x", HUGE],
    "speculative.n_max": [-1, 65, "x"],
    "id_slot": ["x", -2],
    "top_k": ["x", (1 << 20) + 1, 1.5, HUGE],
    "temperature": ["x", 101, True, HUGE],
    "top_p": [-0.1, 1.1, "x"],
    "min_p": [-0.1, 1.1, "x"],
    "tfs_z": [-0.1, 1.1, "x"],
    "typical_p": [-0.1, 1.1, "x"],
    "repeat_penalty": [0, -1, 101, "x"],
    "repeat_last_n": ["x", (1 << 20) + 1],
    "presence_penalty": [-101, 101, "x"],
    "frequency_penalty": [-101, 101, "x"],
    "penalize_nl": [1],
    "mirostat": [3, -1, "1", 0.5],
    "mirostat_tau": [-1, 101, "x"],
    "mirostat_eta": [-1, 11, "x"],
    "grammar": ["root ::= x", 1, {}],
    "json_schema": [1, [], {"type": "thing"}, {"not": {}}],
    "strict": [1, "x"],
}  # fmt: skip


def test_the_tables_know_every_field():
    names = {field.encode_name for field in msgspec.structs.fields(CompletionBody)}
    assert names <= set(TAKEN)
    assert names <= set(REFUSED)


@pytest.mark.parametrize("name", TAKEN)
def test_values_that_a_field_takes(native, name):
    for value in TAKEN[name]:
        reply = native.post("/completion", **({"prompt": "a", "n_predict": 1} | {name: value}))
        assert reply.status == 200, (value, reply.data)
        assert "X-Ignored-Fields" not in reply.headers


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.usefixtures("stories260k")
def test_values_that_a_field_refuses(native, name):
    for value in REFUSED[name]:
        for stream in (False, True):
            body = {"prompt": "a", "n_predict": 1, "stream": stream} | {name: value}
            error = native.refused(**body)
            assert error["type"] == "invalid_request_error", (value, error)
            assert error["param"] in (name, "n", "guidance_scale", "stop"), (value, error)
    assert native.complete(prompt="a", n_predict=1)["tokens_predicted"] == 1


def test_null_is_the_default(native):
    given = dict.fromkeys(TAKEN)
    answer = native.complete(**(given | {"prompt": "a", "n_predict": 1}))
    assert answer["generation_settings"]["top_k"] == 40


def test_combinations_that_cannot_be(native):
    for body, param in [
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n_beams": 2, "n_probs": 1}, "n_probs"),
        ({"n_beams": 2, "guidance_scale": 2}, "beams"),
        ({"n_beams": 2, "n": 3}, "beams"),
        ({"n": 5, "guidance_scale": 2}, "n"),
    ]:
        assert native.refused(prompt="a", n_predict=1, **body)["param"] == param
