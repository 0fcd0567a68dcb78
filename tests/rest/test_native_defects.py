"""The defects of the 2023 server, D1 to D15 of docs/rest-2023.md: none of them is here."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llamakit.plugins.frontends.rest.apis.llamacpp.answer import Answers
from llamakit.plugins.frontends.rest.apis.llamacpp.fields import CompletionBody

from llamakit.engine.job import Finished, Job, Token
from llamakit.engine.request import FinishReason, Likely, Piece, Request, Result, Timings
from llamakit.gguf import open_gguf
from llamakit.tokenizer import load_tokenizer

PROMPT = "Once upon a time"


def test_d1_repeated_greedy_requests_are_identical(native):
    body = {"prompt": PROMPT, "n_predict": 20, "temperature": 0, "n_probs": 5}
    first = native.complete(**body, cache_prompt=False)
    for _ in range(6):
        again = native.complete(**body)
        assert again["content"] == first["content"]
        assert again["completion_probabilities"] == first["completion_probabilities"]
        assert again["tokens_cached"] == first["tokens_cached"]


@pytest.mark.parametrize("stream", [False, True])
def test_d2_a_failing_evaluation_is_an_error(native, monkeypatch, stream):
    runner = native.state.pool.loaded().engine.runner
    steps = []

    def run(*args: Any, **more: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            raise RuntimeError("the device is on fire at /secret/place/file")
        return original(*args, **more)

    original = runner.run
    monkeypatch.setattr(runner, "run", run)
    reply = native.post("/completion", prompt=PROMPT, n_predict=50, stream=stream, **{"speculative.n_max": 0})
    assert len(steps) == 4
    if stream:
        *events, rest = reply.data.decode().split("\n\n")
        assert rest == ""
        assert json.loads(events[0][6:])["stop"] is False
        assert reply.status == 200
        error = json.loads(events[-1].removeprefix("data: "))["error"]
    else:
        assert reply.status == 500
        error = reply.json()["error"]
    assert error["type"] == "server_error"
    assert "on fire" in error["message"]
    assert "/secret" not in json.dumps(error)
    monkeypatch.undo()
    assert native.complete(prompt=PROMPT, n_predict=3)["tokens_predicted"] == 3


@pytest.mark.parametrize("extra", [{"top_k": 1}, {}, {"top_p": 0.3}, {"mirostat": 2}, {"typical_p": 0.4}])
def test_d3_looking_at_probabilities_changes_nothing(native, extra):
    for seed in range(3):
        body = {"prompt": PROMPT, "n_predict": 20, "seed": seed, "temperature": 1.3} | extra
        plain = native.complete(**body)["content"]
        assert native.complete(**body, n_probs=5)["content"] == plain
        assert native.complete(**body, n_probs=5, post_sampling_probs=False)["content"] == plain


def test_d4_the_newline_can_be_spared(native):
    newline = native.ids("\n")[-1]
    prompt = [1, *native.ids("A cat.")] + [newline] * 20

    def newline_probability(**fields: Any) -> float:
        body = {"prompt": prompt, "n_predict": 1, "n_probs": 512, "temperature": 1, "top_k": 0, "top_p": 1}
        (token,) = native.complete(**body, repeat_last_n=20, **fields)["completion_probabilities"]
        return sum(each["prob"] for each in token["probs"] if each["tok_str"] == "\n")

    off = newline_probability(repeat_penalty=1)
    spared = newline_probability(repeat_penalty=3, penalize_nl=False)
    penalised = newline_probability(repeat_penalty=3, penalize_nl=True)
    assert 0 < off < 1
    assert spared == pytest.approx(off, rel=1e-5)  # to the bit on the CPU, whatever of the prompt was cached
    assert penalised < 0.9 * off


@pytest.mark.parametrize("version", [1, 2])
def test_d5_mirostat_starts_anew_with_each_request(native, version):
    body = {"prompt": PROMPT, "n_predict": 30, "seed": 3, "mirostat": version, "temperature": 1}
    texts = {native.complete(**body)["content"] for _ in range(3)}
    native.complete(prompt="Something else", n_predict=40, seed=9, mirostat=version)
    texts.add(native.complete(**body)["content"])
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [512]}, "prompt"),
        ({"prompt": ["a", 2**31 - 1]}, "prompt"),
        ({"prompt": "a", "grammar": "root ::= nowhere"}, "grammar"),
        ({"prompt": "a", "grammar": "root ::= root root"}, "grammar"),  # D7
    ],
)
@pytest.mark.usefixtures("stories260k")
def test_d6_d7_no_request_ends_the_process(native, fields, param):
    assert native.refused(**fields)["param"] == param
    assert native.complete(prompt="a", n_predict=1)["tokens_predicted"] == 1


@pytest.mark.parametrize("fields", [{"typical_p": 0.5}, {"ignore_eos": True}])
def test_d6_a_grammar_that_is_complete_ends_the_answer(native, fields):
    found = native.complete(prompt="a", grammar='root ::= "b"', n_predict=20, **fields)
    assert found["content"] == "b"
    assert found["stopped_eos"] or found["stop_type"] == "grammar"


@pytest.mark.usefixtures("stories260k")
def test_d6_every_token_banned_but_the_end(native):
    """What led to an abort: nothing is left to choose but tokens that are banned."""
    banned = [[token, False] for token in range(512)]
    assert "no token is left" in native.refused(prompt="a", n_predict=2, logit_bias=banned, ignore_eos=True)["message"]
    assert native.complete(prompt="a", n_predict=1)["tokens_predicted"] == 1


def test_d8_an_empty_prompt_continues_nothing(native):
    native.complete(prompt=PROMPT, n_predict=5)
    assert native.refused(prompt=[])["param"] == "prompt"


def test_d10_a_stop_string_in_part_at_the_end(native):
    """The text ends with the beginning of a stop string: it is there, streamed or not."""
    full = native.complete(prompt=PROMPT, n_predict=12, temperature=0)["content"]
    for n in (1, 2, 5):
        stop = [full[-n:] + "\x00never"]
        whole = native.complete(prompt=PROMPT, n_predict=12, temperature=0, stop=stop)
        events = native.stream(prompt=PROMPT, n_predict=12, temperature=0, stop=stop)
        assert whole["content"] == full
        assert "".join(event["content"] for event in events) == full
        assert whole["stopped_limit"] is events[-1]["stopped_limit"] is True


def test_d11_empty_and_single_stop_strings(native):
    full = native.complete(prompt=PROMPT, n_predict=12, temperature=0)
    for stop in ([""], "", [], ["", None]):
        answer = native.complete(prompt=PROMPT, n_predict=12, temperature=0, stop=stop)
        assert answer["content"] == full["content"]
        assert answer["generation_settings"]["stop"] == []
    word = full["content"][6:10]
    answer = native.complete(prompt=PROMPT, n_predict=12, temperature=0, stop=word)
    assert (answer["stopping_word"], answer["content"]) == (word, full["content"].partition(word)[0])


def test_d12_nothing_is_carried_over(native):
    _, before = native.client.get("/model.json")
    vector = native.post("/embedding", content="Lily saw").json()
    text = native.complete(prompt=PROMPT, n_predict=10, seed=1)["content"]
    native.complete(
        prompt="x", n_predict=9, temperature=0.1, top_k=3, repeat_penalty=1.9, stop=["q"], seed=4, mirostat=2, n_probs=3
    )
    assert native.client.get("/model.json")[1] == before
    assert native.post("/embedding", content="Lily saw").json() == vector
    assert native.complete(prompt=PROMPT, n_predict=10, seed=1)["content"] == text


@pytest.mark.usefixtures("stories260k")
def test_d13_top_p_after_typical_cuts_the_unlikely_end(native):
    """Against the definitions, worked out from the probabilities before any sampler."""
    typical, top = 0.6, 0.7
    body = {
        "prompt": "Lily and the",
        "n_predict": 1,
        "temperature": 1,
        "top_k": 0,
        "repeat_penalty": 1,
        "seed": 1,
    }
    (before,) = native.complete(**body, top_p=1, n_probs=512, post_sampling_probs=False)["completion_probabilities"]
    p = np.zeros(512)
    for item in before["top_logprobs"]:
        p[item["id"]] = math.exp(item["logprob"])
    expected = _top_p(_typical(p / p.sum(), typical), top)
    (after,) = native.complete(**body, top_p=top, typical_p=typical, n_probs=512)["completion_probabilities"]
    got = sorted((item["prob"] for item in after["probs"] if item["prob"] > 0), reverse=True)
    wanted = sorted(expected[expected > 0], reverse=True)
    assert len(wanted) > 1
    assert got == pytest.approx(wanted, rel=1e-3)


def _typical(p: Any, share: float) -> Any:
    """Keep those whose surprise is nearest to the entropy, up to a share of the probability (arXiv:2202.00666)."""
    surprise = -np.log(np.maximum(p, 1e-300))
    order = np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), share)) + 1]
    return _only(p, kept)


def _top_p(p: Any, share: float) -> Any:
    order = np.argsort(-p, kind="stable")
    return _only(p, order[: int(np.searchsorted(np.cumsum(p[order]), share)) + 1])


def _only(p: Any, kept: Any) -> Any:
    out = np.zeros_like(p)
    out[kept] = p[kept]
    return out / out.sum()


TEXT = "日本語の文章😀 naïve — ¿qué? 🇫🇷 ok"


@pytest.mark.parametrize("vocabulary", ["gpt-2", "llama-bpe", "llama-spm"])
def test_d14_characters_are_never_torn(test_data, vocabulary):
    """Tokens with several bytes of an unfinished character, through the detokenizer and the stream's events."""
    tokenizer = load_tokenizer(open_gguf(test_data / "vocab" / f"ggml-vocab-{vocabulary}.gguf").metadata)
    tokens = tokenizer.encode(TEXT)
    if vocabulary != "llama-spm":
        assert any(len(tokenizer.piece(t)) > 1 and not _is_text(tokenizer.piece(t)) for t in tokens)
    events = _events(tokenizer, tokens, CompletionBody(prompt="x", stream=True, n_probs=1))
    assert "".join(event["content"] for event in events) == TEXT
    assert all("\ufffd" not in event["content"] for event in events)
    shown = [token["content"] for token in events[-1]["completion_probabilities"]]
    assert len(shown) == len(tokens)
    for token, text in zip(tokens, shown, strict=True):
        piece = tokenizer.piece(token)
        assert text == (piece.decode() if _is_text(piece) else "byte: " + "".join(f"\\x{b:02x}" for b in piece))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _events(tokenizer: Any, tokens: list[int], fields: CompletionBody) -> list[dict[str, Any]]:
    """The events of a stream of these tokens, without an engine."""
    request = Request(prompt=[1])
    job, detokenizer = Job(request), tokenizer.detokenizer()
    for token in tokens:
        job.emit(Token(0, Piece(token_id=token, text=detokenizer.push(token), after=Likely.of([token], [1.0]))))
    result = Result(
        tokens=tokens, text="", tail=detokenizer.flush(), reason=FinishReason.LENGTH, timings=Timings()
    )  # fmt: skip
    job.emit(Finished(0, result))
    session: Any = SimpleNamespace(tokenizer=tokenizer)
    data = b"".join(Answers(session, "m", fields, [request], {}).stream([job]))
    return [json.loads(part[6:]) for part in data.decode().split("\n\n")[:-1]]


@pytest.mark.parametrize("stop", [[], ["girl"], [" little girl na"], ["ttle gi"], [", "]])
@pytest.mark.usefixtures("stories260k")
def test_d15_probabilities_belong_to_the_text_of_their_event(native, stop):
    body = {"prompt": PROMPT, "n_predict": 16, "temperature": 0, "n_probs": 2, "stop": stop}
    events = native.stream(**body)
    told = []
    for event in events[:-1]:
        text = "".join(token["content"] for token in event["completion_probabilities"])
        assert text.startswith(event["content"])  # a stop string may have cut the last token
        told += event["completion_probabilities"]
    whole = native.complete(**body)
    assert events[-1]["completion_probabilities"] == told == whole["completion_probabilities"]
    joined = "".join(token["content"] for token in told)
    assert joined.startswith(whole["content"])
    for token in told:
        assert len(token["probs"]) == 2
        assert token["probs"][0]["tok_str"] == token["content"]
        assert token["probs"][0]["prob"] >= token["probs"][1]["prob"]


def test_logarithms_before_the_samplers(native):
    body = {"prompt": PROMPT, "n_predict": 3, "n_probs": 3, "post_sampling_probs": False, "seed": 2}
    tokens = native.complete(**body)["completion_probabilities"]
    assert [list(token) for token in tokens] == [["bytes", "id", "logprob", "token", "top_logprobs"]] * 3
    for token in tokens:
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["logprob"] <= token["top_logprobs"][0]["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3
