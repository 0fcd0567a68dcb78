"""Long answers in pieces are the same JSON as at once; no piece is long, and what is JSON already is not copied."""

from __future__ import annotations

import json

import msgspec
import pytest
from llamakit.plugins.frontends.rest.long_json import BLOCK, LongJson, blocks, json_pieces

VALUE = {"b": ["\0", {"z": None, "a": "\0\\u0000"}], "a": 1.5}


@pytest.mark.parametrize("order", [None, "sorted", "deterministic"])
def test_pieces_make_the_same_json(order):
    inner = [VALUE, 7, "x" * 200_000]
    long = LongJson.array(msgspec.json.encode(each, order=order) for each in inner)
    for value, whole in (
        ({"c": long, **VALUE, "d": [long, 1, {"e": long}]}, {"c": inner, **VALUE, "d": [inner, 1, {"e": inner}]}),
        ([long, long], [inner, inner]),
        (long, inner),
        (VALUE, VALUE),
        ({"none": LongJson.array([])}, {"none": []}),
    ):
        assert b"".join(json_pieces(value, order)) == msgspec.json.encode(whole, order=order)


def test_what_is_json_already_is_not_copied():
    kept = bytearray(b"[1]")
    assert any(piece is kept for piece in json_pieces({"a": LongJson([kept])}))


def test_what_has_no_json_is_an_error():
    with pytest.raises(NotImplementedError, match="object has no JSON"):
        list(json_pieces({"a": object()}))


@pytest.mark.parametrize("sizes", [[], [0], [1, 2, 3], [BLOCK], [BLOCK, 1], [1, BLOCK], [5, 10 * BLOCK + 7, 5, 5],
                                   [100] * 5000, [BLOCK - 1, 1, 1], [0, BLOCK + 1, 0]])  # fmt: skip
def test_blocks(sizes):
    some = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    found = list(blocks(some))
    assert b"".join(found) == b"".join(some)
    assert all(0 < len(block) <= BLOCK for block in found)
    assert len(found) <= 2 * sum(sizes) // BLOCK + 1


@pytest.mark.parametrize("stream", [False, True])
def test_long_answers_are_as_told(server, stream):
    """Those of 2023 say all probabilities again at the end; longer than a block."""
    body = {"prompt": "Once", "n_predict": 40, "n_probs": 400, "n": 3, "post_sampling_probs": False, "ignore_eos": True,
            "stream": stream}  # fmt: skip
    if stream:
        events = list(server.events("/completion", body))
        answers = sorted((each for each in events if each["stop"]), key=lambda each: each["index"])
        for answer in answers:
            told = [e for e in events if not e["stop"] and e["index"] == answer["index"]]
            assert [p for e in told for p in e["completion_probabilities"]] == answer["completion_probabilities"]
    else:
        status, answers = server.post("/completion", body)
        assert status == 200
    assert [len(answer["completion_probabilities"]) for answer in answers] == [40] * 3
    assert all(len(each["top_logprobs"]) == 400 for answer in answers for each in answer["completion_probabilities"])
    assert len(json.dumps(answers[0])) > BLOCK


CHAT = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 100, "stream": False}


@pytest.mark.parametrize(
    ("path", "body", "find"),
    [
        ("/v1/completions", {"prompt": "Once", "logprobs": 100}, lambda a: a["choices"][0]["logprobs"]["top_logprobs"]),
        ("/v1/chat/completions", CHAT, lambda a: [e["top_logprobs"] for e in a["choices"][0]["logprobs"]["content"]]),
        ("/api/chat", CHAT, lambda a: [e["top_logprobs"] for e in a["logprobs"]]),
    ],
)
def test_long_answers_of_other_apis(server, path, body, find):
    n = {"options": {"num_predict": 40}} if path.startswith("/api") else {"max_tokens": 40}
    status, answer = server.post(path, body | n | {"ignore_eos": True})
    assert status == 200, answer
    top = find(answer)
    assert len(top) == 40
    assert all(len(each) >= 50 for each in top)
    assert len(json.dumps(top)) > BLOCK
