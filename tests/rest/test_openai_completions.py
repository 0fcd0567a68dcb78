"""Completions, embeddings and models in OpenAI's format."""

from __future__ import annotations

import base64
import itertools

import numpy as np
import pytest

from llamakit import Session

PATH = "/v1/completions"
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def session(small_model, backend_name):
    with Session(small_model, backend=backend_name, threads=2) as session:
        yield session


def ask(server, **fields):
    status, answer = server.post(PATH, {"prompt": PROMPT, "temperature": 0, "max_tokens": 6, **fields})
    assert status == 200, answer
    return answer


def chunks(server, **fields):
    events = list(
        server.events(PATH, {"prompt": PROMPT, "temperature": 0, "max_tokens": 6, "stream": True, **fields})
    )  # fmt: skip
    assert events.pop() == "[DONE]"
    return events


def refused(server, path=PATH, **fields):
    status, answer = server.post(path, fields)
    assert status == 400, answer
    return answer["error"]


def text(events, index=0):
    return "".join(c["text"] for e in events for c in e["choices"] if c["index"] == index)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.usefixtures("stories260k")
def test_an_answer_has_what_clients_read(server):
    answer = ask(server)
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {"text": ", there was a little g", "index": 0, "logprobs": None, "finish_reason": "length"}
    ]  # fmt: skip
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["timings"]["predicted_n"] == 6
    assert server.post(PATH, {"prompt": PROMPT})[1]["usage"]["completion_tokens"] == 16  # the default
    assert server.post("/completions", {"prompt": PROMPT, "max_tokens": 1})[1]["object"] == "text_completion"


@pytest.mark.usefixtures("stories260k")
def test_chunks_together_are_the_answer(server):
    events = chunks(server, stream_options={"include_usage": True})
    assert text(events) == ", there was a little g"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 6
    assert events[-1]["timings"]["predicted_n"] == 6
    *_, last = chunks(server)
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["llamakit"]["stop_reason"] == "length"


def test_several_prompts_of_every_kind(server, session):
    ids = session.tokenize(PROMPT, add_bos=True)
    one = ask(server)["choices"][0]["text"]
    assert ask(server, prompt=ids)["choices"][0]["text"] == one
    assert [c["text"] for c in ask(server, prompt=[ids, ids])["choices"]] == [one, one]
    other = ask(server, prompt="The dog")["choices"][0]["text"]
    answer = ask(server, prompt=[PROMPT, "The dog"], n=2)
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, one), (1, one), (2, other), (3, other)]
    assert answer["usage"]["completion_tokens"] == 24
    events = chunks(server, prompt=[PROMPT, "The dog"], n=2)
    assert [text(events, i) for i in range(4)] == [one, one, other, other]
    assert sum("timings" in e for e in events) == 1


def test_more_prompts_than_run_at_once(server):
    prompts = [f"{i} apples and" for i in range(20)]
    answer = ask(server, prompt=prompts, max_tokens=3)
    alone = [ask(server, prompt=prompt, max_tokens=3)["choices"][0]["text"] for prompt in prompts]
    assert [c["text"] for c in answer["choices"]] == alone
    events = chunks(server, prompt=prompts, max_tokens=3)
    assert [text(events, i) for i in range(20)] == alone


@pytest.mark.usefixtures("stories260k")
def test_echo_gives_the_prompt(server, session):
    assert ask(server, echo=True)["choices"][0]["text"] == PROMPT + ", there was a little g"
    ids = session.tokenize(PROMPT)
    assert ask(server, prompt=ids, echo=True, max_tokens=1)["choices"][0]["text"].startswith(PROMPT)
    only = ask(server, echo=True, max_tokens=0)
    assert only["choices"][0]["text"] == PROMPT
    assert only["usage"]["completion_tokens"] == 0
    assert text(chunks(server, echo=True)) == PROMPT + ", there was a little g"


@pytest.mark.usefixtures("stories260k")
def test_log_probabilities_of_prompt_and_answer_are_the_models(server, session):
    ids = session.tokenize(PROMPT, add_bos=True)
    for tokens, prompt in ((ids, ids), (ids[1:], PROMPT)):
        choice = ask(server, prompt=prompt, echo=True, logprobs=3)["choices"][0]
        probs = choice["logprobs"]
        n = len(tokens)
        assert {len(values) for values in probs.values()} == {n + 6}
        new = session.generate(ids, max_tokens=6, temperature=0).tokens
        logprobs = log_softmax(session.logits([*ids, *new]))
        expected = [None, *(logprobs[i, token] for i, token in enumerate([*ids, *new][1:]))]
        expected = expected[len(expected) - n - 6 :]
        assert probs["token_logprobs"] == [None if e is None else pytest.approx(e, abs=1e-4) for e in expected]
        for own, top in list(zip(probs["token_logprobs"], probs["top_logprobs"], strict=True))[1:]:
            assert 3 <= len(top) <= 4
            assert max(top.values()) >= own
        assert "".join(probs["tokens"][-6:]) == ", there was a little g"


def test_offsets_say_where_tokens_begin(server):
    for fields in ({}, {"echo": True}):
        choice = ask(server, logprobs=0, **fields)["choices"][0]
        probs = choice["logprobs"]
        edges = [*probs["text_offset"], len(choice["text"])]
        words = [choice["text"][a:b] for a, b in itertools.pairwise(edges)]
        assert [w.strip() for w in words] == [t.strip() for t in probs["tokens"]]
        tops = zip(probs["tokens"], probs["top_logprobs"], strict=True)
        assert all(top is None or set(top) == {token} for token, top in tops)


def test_log_probabilities_in_chunks(server):
    whole = ask(server, logprobs=2)["choices"][0]["logprobs"]
    parts = [c["logprobs"] for e in chunks(server, logprobs=2) for c in e["choices"] if c["logprobs"]]
    assert [t for p in parts for t in p["tokens"]] == whole["tokens"]
    assert [t for p in parts for t in p["text_offset"]] == whole["text_offset"]
    assert "streamed" in refused(server, prompt="x", echo=True, logprobs=1, stream=True)["message"]


@pytest.mark.usefixtures("stories260k")
def test_stop_and_best_of(server):
    choice = ask(server, stop=[" little"], logprobs=1, max_tokens=20)["choices"][0]
    assert choice["text"] == ", there was a"
    assert choice["finish_reason"] == "stop"
    best = ask(server, n=2, best_of=4, temperature=1.5, seed=1, logprobs=1)
    assert len(best["choices"]) == 2
    sums = [sum(c["logprobs"]["token_logprobs"]) for c in best["choices"]]
    assert sums == sorted(sums, reverse=True)
    assert [text(chunks(server, n=2, best_of=4, temperature=1.5, seed=1), i) for i in (0, 1)] == [
        c["text"] for c in best["choices"]
    ]


@pytest.mark.usefixtures("stories260k")
def test_an_empty_suffix_is_none(server):
    """Clients that send every field with its default are answered by models that fill no gaps, too."""
    assert ask(server, suffix="")["choices"] == ask(server)["choices"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": []}, "prompt", "holds 0 prompts"),
        ({"prompt": [[]]}, "prompt", "prompt[0] is an empty array"),
        ({"prompt": [1, "x"]}, "prompt", "mixes token ids"),
        ({"prompt": [512]}, "prompt", "token 512 is outside the vocabulary"),
        ({"prompt": {"a": 1}}, "prompt", "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "cannot fill in the middle"),
        ({"prompt": [1, 2], "suffix": "y"}, "suffix", "a prompt that is a text"),
        ({"prompt": "x", "suffix": "y", "echo": True}, "echo", "both given"),
        ({"prompt": "x", "n": 3, "best_of": 2}, "best_of", "best_of is 2"),
        ({"prompt": "x", "logprobs": 1000}, "logprobs", "logprobs"),
        ({"prompt": "x", "max_tokens": -2}, "max_tokens", "max_tokens is -2"),
        ({"prompt": "x " * 600}, "prompt", "the context holds 512"),
    ],
)
@pytest.mark.usefixtures("stories260k")
def test_what_is_wrong_is_named(server, fields, param, words):
    error = refused(server, **fields)
    assert error["param"] == param
    assert words in error["message"]


def test_suffix_fills_the_gap_where_the_vocabulary_can(serve, templated, session):
    marks = {f"tokenizer.ggml.fim_{name}_token_id": 260 + i for i, name in enumerate(("pre", "suf", "mid"))}
    server = serve({"m": templated("x", **marks)})
    answer = ask(server, prompt="Once upon", suffix=" the end")
    tokens = len(session.tokenize("Once upon")) + len(session.tokenize("the end")) + 4
    assert answer["usage"]["prompt_tokens"] == tokens


@pytest.mark.usefixtures("stories260k")
def test_embeddings_are_the_sessions(server, session):
    texts = ["Once upon a time", "The dog"]
    status, answer = server.post("/v1/embeddings", {"input": texts})
    assert status == 200
    assert [d["index"] for d in answer["data"]] == [0, 1]
    for item, each in zip(answer["data"], texts, strict=True):
        assert item["embedding"] == pytest.approx(session.embed(each).tolist(), abs=1e-5)
    ids = [session.tokenize(each, add_bos=True) for each in texts]
    assert answer["usage"] == {"prompt_tokens": len(ids[0]) + len(ids[1]), "total_tokens": len(ids[0]) + len(ids[1])}
    for given in (ids, ids[0]):
        other = server.post("/v1/embeddings", {"input": given})[1]
        assert other["data"][0]["embedding"] == pytest.approx(answer["data"][0]["embedding"], abs=1e-5)
    coded = server.post("/v1/embeddings", {"input": texts[0], "encoding_format": "base64"})[1]["data"][0]["embedding"]
    decoded = np.frombuffer(base64.b64decode(coded), "<f4").tolist()
    assert decoded == pytest.approx(answer["data"][0]["embedding"], abs=1e-5)
    assert server.post("/v1/embeddings", {"input": "x", "dimensions": 64})[0] == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": "x", "dimensions": 32}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_wrong_embeddings_are_named(server, fields, param):
    assert refused(server, "/v1/embeddings", **fields)["param"] == param


@pytest.mark.usefixtures("stories260k")
def test_models(server):
    status, answer = server.get("/v1/models")
    assert status == 200
    (model,) = answer["data"]
    assert model["id"] == "stories"
    assert model["object"] == "model"
    assert model["meta"]["n_ctx"] == 512
    assert server.get("/v1/models/stories")[1] == model
    status, answer = server.get("/v1/models/a/b")
    assert status == 404
    assert answer["error"]["type"] == "not_found_error"
    assert "stories" in answer["error"]["found"]


def test_a_model_that_is_not_there_is_an_error_where_there_are_several(serve, small_model):
    server = serve({"a": small_model, "b": small_model}, wait=False)
    assert server.post(PATH, {"model": "b", "prompt": "x", "max_tokens": 1})[1]["model"] == "b"
    status, answer = server.post(PATH, {"model": "c", "prompt": "x"})
    assert status == 404
    assert answer["error"]["param"] == "model"
