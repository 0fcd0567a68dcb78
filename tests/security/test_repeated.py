"""What an answer repeats for each choice or prompt is bounded, and becomes JSON once."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import msgspec
import pytest
from llamakit.plugins.frontends.rest import generation
from llamakit.plugins.frontends.rest.apis.llamacpp import answer as native
from llamakit.plugins.frontends.rest.body import few, tell_ignored
from llamakit.plugins.samplers.logit_bias import LogitBias
from llamakit.plugins.samplers.penalties import Penalties

from llamakit import gguf, serialized
from llamakit.engine.job import Finished, Job
from llamakit.engine.request import Request
from llamakit.gguf import GGUFWriter, StringArray, open_gguf
from llamakit.sampler import NativeSampler
from llamakit.tokenizer.tokenizer import Tokenizer

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


def test_the_prompts_that_penalties_remember_are_counted():
    """8 requests for 63 answers to 32,000 tokens took 500 MiB, counted as 41; 256 may wait."""

    def counted(**options):
        return generation.bytes_of(Request(prompt=[5] * 4000, n=60, max_tokens=1, options=options), 1)

    assert counted(repeat_penalty=1.1, repeat_last_n=-1) > 60 * 4000 * 40
    assert counted(repeat_penalty=1.1, repeat_last_n=100) < 60 * 200 * 100
    assert counted(repeat_penalty=1.0, repeat_last_n=-1) == 0


def test_biases_are_made_ready_once_for_all_answers(hash_model, monkeypatch):
    """65,000 of them for each of 63 answers took more than a second of a request."""
    made, make = [], LogitBias.make_native
    monkeypatch.setattr(LogitBias, "make_native", lambda self: (made.append(1), make(self))[1])
    engine, options = hash_model.make_engine(), {"logit_bias": [(7, 100.0)]}
    job = Job(Request(prompt=[1, 5], n=5, max_tokens=3, options=options))
    assert [event.result.tokens for event in engine.run(job) if isinstance(event, Finished)] == [[7] * 3] * 5
    assert len(made) == 1


@pytest.fixture
def texts(monkeypatch):
    """The texts that become tokens."""
    found, encode = [], Tokenizer.encode

    def note(self, text, **how):
        found.append(text)
        return encode(self, text, **how)

    monkeypatch.setattr(Tokenizer, "encode", note)
    return found


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_biases_by_text_become_tokens_once_for_all_prompts(server, texts, path):
    """7,000 of them in a body of 200 prompts held the turn of bodies of that size for two seconds."""
    body = {"prompt": [[5], [6], [7]], "logit_bias": {"zebra": 1.0}, "n_predict": 1, "max_tokens": 1}
    assert server.post(path, body)[0] == 200
    assert texts == ["zebra"]


def test_the_suffix_of_all_prompts_becomes_tokens_once(server, texts, monkeypatch):
    with server.server.state.pool.lease(None) as session:
        monkeypatch.setattr(session.tokenizer, "fim_ids", {"pre": 3, "suf": 4, "mid": 5})
        body = {"prompt": ["a", "b", "c"], "suffix": "zebra", "max_tokens": 1}
        assert server.post("/v1/completions", body)[0] == 200
    assert len([text for text in texts if text.endswith("zebra")]) <= 2


def test_prompts_are_told_to_samplers_one_at_a_time(hash_model, monkeypatch):
    """Each of 63 chains is told all of a prompt: of many at once the engine's thread was the last to go on."""
    turns, accept_many = [], Penalties.accept_many

    def note(self, tokens):
        turns.append(serialized._mine.lock is not None)
        accept_many(self, tokens)

    monkeypatch.setattr(Penalties, "accept_many", note)
    hash_model.make_engine().prepare(Request(prompt=[1, 5], n=3, options={"repeat_penalty": 1.2}))
    assert turns == [True] * 3


def test_the_vocabulary_becomes_json_once(server, monkeypatch):
    """40 who asked for all of a model's metadata, in 17 bytes each, kept streams waiting for 1.4 s and took a GiB."""
    read, get = [], StringArray.__getitem__
    monkeypatch.setattr(StringArray, "__getitem__", lambda self, place: (read.append(place), get(self, place))[1])
    with ThreadPoolExecutor(4) as pool:
        shown = list(pool.map(lambda _: server.post("/api/show", {"verbose": True})[1]["model_info"], range(4)))
    assert all(each == shown[0] for each in shown)
    assert len(shown[0]["tokenizer.ggml.tokens"]) == 512
    assert len([place for place in read if isinstance(place, slice)]) == 1
    assert len(read) < 2 * 512


def test_files_that_are_not_loaded_are_read_once_for_the_list(serve, small_model, tmp_path, monkeypatch):
    """Each who asked for the list of models had all files parsed: 40 at once, of 8 files, 0.2 s between two tokens."""
    copy, opened = tmp_path / "copy.gguf", []
    copy.write_bytes(small_model.read_bytes())
    served = serve({"stories": small_model, "other": copy})
    monkeypatch.setattr(gguf, "open_gguf", lambda path: (opened.append(path), open_gguf(path))[1])
    first, second = (served.get("/api/tags")[1]["models"] for _ in range(2))
    assert first == second
    assert first[1]["details"]["family"] == "llama"
    assert opened == [copy]
    time = copy.stat().st_mtime_ns
    with GGUFWriter(copy) as writer:
        writer.add("general.architecture", "other")
    os.utime(copy, ns=(time, time))  # as a tool that keeps times does
    assert served.get("/api/tags")[1]["models"][1]["details"]["family"] == "other"


def test_penalties_are_told_no_more_of_a_prompt_than_counts(hash_model, monkeypatch):
    told, accept_many = [], NativeSampler.accept_many
    monkeypatch.setattr(
        NativeSampler, "accept_many", lambda self, ids: (told.append((self.name, len(ids))), accept_many(self, ids))
    )
    engine, prompt = hash_model.make_engine(), [1, *range(5, 35)]
    for n, counted in ((4, 4), (-1, 31)):
        engine.prepare(Request(prompt=prompt, options={"repeat_penalty": 1.2, "repeat_last_n": n}))
        assert ("penalties", counted) in told


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
