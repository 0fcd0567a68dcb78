"""Ollama's API."""

from __future__ import annotations

import json

import pytest

import llamakit

OPTIONS = {"num_predict": 6, "temperature": 0, "repeat_penalty": 1.0}
PROMPT = "Once upon a time"


def generate(server, **fields):
    status, answer = server.post(
        "/api/generate", {"prompt": PROMPT, "options": OPTIONS, "stream": False, **fields}
    )  # fmt: skip
    assert status == 200, answer
    return answer


def lines(server, path, **fields):
    status, headers, data = server.request("POST", path, {"options": OPTIONS, **fields})
    assert status == 200, data
    assert headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in data.splitlines()]


def refused(server, path="/api/generate", **fields):
    status, answer = server.post(path, fields)
    assert status == 400, answer
    assert set(answer) == {"error"}
    return answer["error"]


@pytest.mark.usefixtures("stories260k")
def test_generate_whole_and_in_lines(server):
    whole = generate(server, model="stories")
    assert whole["model"] == "stories"
    assert whole["response"] == ", there was a little g"
    assert (whole["done"], whole["done_reason"]) == (True, "length")
    found = lines(server, "/api/generate", prompt=PROMPT)
    assert "".join(line["response"] for line in found) == whole["response"]
    assert [line["done"] for line in found] == [False] * (len(found) - 1) + [True]
    for answer in (whole, found[-1]):
        assert answer["eval_count"] == 6
        assert answer["prompt_eval_count"] == 5
        assert answer["total_duration"] >= answer["eval_duration"] > 0
        assert {"load_duration", "prompt_eval_duration", "created_at"} <= set(answer)
        assert all(isinstance(v, int) for k, v in answer.items() if k.endswith("_duration"))


@pytest.mark.usefixtures("stories260k")
def test_a_context_goes_on_where_an_answer_ended(server):
    first = generate(server)
    again = generate(server, prompt="", context=first["context"])
    together = generate(server, options=OPTIONS | {"num_predict": 12})
    assert first["response"] + again["response"] == together["response"]
    assert again["timings"]["cache_n"] >= 10
    assert "token 9999 is outside the vocabulary" in refused(server, prompt="x", context=[9999])


def test_chat_whole_and_in_lines(server):
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": PROMPT}]
    status, whole = server.post("/api/chat", {"messages": messages, "options": OPTIONS, "stream": False})
    assert status == 200
    assert whole["message"]["role"] == "assistant"
    assert whole["message"]["content"]
    found = lines(server, "/api/chat", messages=messages)
    assert "".join(line["message"]["content"] for line in found) == whole["message"]["content"]
    assert found[-1]["done_reason"] == "length"
    begun = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Once upon a"}]
    answer = server.post("/api/chat", {"messages": begun, "options": OPTIONS, "stream": False})[1]
    assert answer["message"]["content"].startswith(" time")


@pytest.mark.usefixtures("stories260k")
def test_without_a_prompt_the_model_is_loaded(serve):
    server = serve(wait=False)
    assert server.get("/api/ps")[1] == {"models": []}
    answer = generate(server, prompt="")
    assert (answer["response"], answer["done"], answer["done_reason"]) == ("", True, "load")
    assert server.post("/api/chat", {"stream": False})[1]["done_reason"] == "load"
    (model,) = server.get("/api/ps")[1]["models"]
    assert model["context_length"] == 512


@pytest.mark.usefixtures("stories260k")
def test_options_mean_what_they_do_in_ollama(server):
    loud = {"temperature": 1.5, "seed": 3, "num_predict": 8, "top_k": -1, "penalize_newline": False}
    assert generate(server, options=loud)["response"] == generate(server, options=loud)["response"]
    assert generate(server, options=OPTIONS | {"stop": [" little"]})["done_reason"] == "stop"
    assert generate(server, options=OPTIONS | {"stop": " little"})["response"] == ", there was a"
    every = {
        "top_k": 20, "top_p": 0.8, "min_p": 0.1, "tfs_z": 0.9, "typical_p": 0.9, "repeat_last_n": 32,
        "repeat_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.5, "num_keep": 4, "num_predict": 2,
        "temperature": 0.9,
    }  # fmt: skip
    answer = generate(server, options=every)
    assert answer["llamakit"]["samplers"][0] == "penalties"
    assert {"tfs_z", "typical_p", "min_p"} <= set(answer["llamakit"]["samplers"])
    assert not answer["llamakit"]["ignored"]
    mirostat = generate(server, options={"mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2, "num_predict": 2})
    assert mirostat["llamakit"]["samplers"][-1] == "mirostat"
    defaults = generate(server, options={"num_predict": 1})
    assert "penalties" not in defaults["llamakit"]["samplers"]  # repeat_penalty is 1 but on the routes of 2023


def test_what_has_no_effect_is_named(server):
    body = {
        "prompt": PROMPT, "template": "x", "keep_alive": "5m", "stream": False,
        "options": {"num_predict": 1, "num_gpu": 99, "num_ctx": 100_000},
    }  # fmt: skip
    status, headers, _ = server.request("POST", "/api/generate", body)
    assert status == 200
    assert headers["X-Ignored-Fields"] == "template, options.num_gpu, options.num_ctx"
    body["options"]["num_ctx"] = 256
    assert server.request("POST", "/api/generate", body)[1]["X-Ignored-Fields"] == "template, options.num_gpu"


def test_raw_system_and_template(serve, templated):
    server = serve({"m": templated("{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}")})

    def count(text):
        return len(server.post("/tokenize", {"content": text, "add_special": True})[1]["tokens"])

    assert generate(server, system="S")["prompt_eval_count"] == count("[system:S][user:Once upon a time]")
    raw = generate(server, raw=True)
    assert raw["prompt_eval_count"] == count(PROMPT)
    assert "context" not in raw


@pytest.mark.usefixtures("stories260k")
def test_models_without_a_template_continue_the_prompt(server):
    assert generate(server)["prompt_eval_count"] == 5
    assert generate(server, system="Be brief.")["prompt_eval_count"] > 6


@pytest.mark.usefixtures("stories260k")
def test_a_long_prompt_is_an_error_unless_it_may_be_cut(server):
    long = "word " * 600
    assert "the context holds 512" in refused(server, prompt=long)
    answer = generate(server, prompt=long, truncate=True)
    assert answer["prompt_eval_count"] < 512
    endless = {"num_predict": 700, "temperature": 0}
    assert generate(server, options=endless, shift=True)["eval_count"] > generate(server)["eval_count"]


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("/api/generate", {"prompt": 5}, "prompt"),
        ("/api/generate", {"prompt": "x", "options": {"top_k": "x"}}, "top_k"),
        ("/api/generate", {"prompt": "x", "options": {"num_predict": -3}}, "num_predict is -3"),
        ("/api/generate", {"prompt": "x", "format": "yaml"}, "format is 'yaml'"),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, "cannot fill in the middle"),
        ("/api/generate", {"prompt": "x", "images": ["aaaa"]}, "images cannot be read"),
        ("/api/chat", {"messages": [{"role": "king", "content": "x"}]}, "the role of message 1"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": ["a"]}]}, "images"),
        ("/api/chat", {"messages": [{"role": "user", "content": ["x"]}]}, "not text"),
        ("/api/chat", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "no function with a name"),
        ("/api/embed", {"input": ["a", ""]}, "input[1] is empty"),
        ("/api/embed", {"input": "a", "dimensions": 3}, "dimensions is 3"),
    ],
)
def test_errors_are_in_ollamas_shape(server, path, fields, words):
    assert words in refused(server, path, **fields)


def test_json_needs_the_grammar_sampler(without_grammar):
    for form in ("json", {"type": "object"}):
        assert "the sampler 'grammar', which is not installed" in refused(without_grammar, prompt="x", format=form)


def test_a_thought_is_told_apart(serve, templated):
    server = serve({"m": templated("{% for m in messages %}{{ m.content }}{% endfor %}<think>{# </think> #}")})
    answer = generate(server)
    assert answer["response"] == ""
    assert answer["thinking"]
    chat = server.post(
        "/api/chat", {"messages": [{"role": "user", "content": "x"}], "options": OPTIONS, "stream": False}
    )
    assert chat[1]["message"]["thinking"]
    assert "thinking" in server.post("/api/show", {"model": "m"})[1]["capabilities"]


def test_log_probabilities(server):
    answer = generate(server, logprobs=True, top_logprobs=2)
    assert "".join(t["token"] for t in answer["logprobs"]) == answer["response"]
    assert all(len(t["top_logprobs"]) == 2 for t in answer["logprobs"])


@pytest.mark.usefixtures("stories260k")
def test_models_are_listed_and_shown(server):
    (model,) = server.get("/api/tags")[1]["models"]
    assert model["name"] == "stories:latest"
    assert model["details"]["family"] == "llama"
    assert model["details"]["parameter_size"] == "292.8K"
    assert model["details"]["quantization_level"] == "F32"
    assert len(model["digest"]) == 64
    shown = server.post("/api/show", {"model": "stories:latest"})[1]
    assert shown["details"] == model["details"]
    assert shown["model_info"]["llama.context_length"] == 512
    assert shown["model_info"]["tokenizer.ggml.tokens"] is None
    assert "completion" in shown["capabilities"]
    verbose = server.post("/api/show", {"name": "stories", "verbose": True})[1]
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) == 512
    assert server.get("/api/version")[1]["llamakit"] == llamakit.__version__


def test_a_model_that_is_not_loaded_has_details_too(serve, small_model, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    server = serve({"a": small_model, "b": broken, "c": tmp_path / "missing.gguf"}, wait=False)
    details = [model["details"] for model in server.get("/api/tags")[1]["models"]]
    assert [d["family"] for d in details] == ["llama", "", ""]
    status, answer = server.post("/api/generate", {"model": "d", "prompt": "x"})
    assert status == 404
    assert "no model 'd'" in answer["error"]


@pytest.mark.usefixtures("stories260k")
def test_embeddings(server):
    one = server.post("/api/embed", {"input": ["Once upon", "The dog"]})[1]
    assert len(one["embeddings"]) == 2
    assert sum(x * x for x in one["embeddings"][0]) == pytest.approx(1, abs=1e-4)
    assert one["prompt_eval_count"] > 2
    assert server.post("/api/embed", {"input": []})[1]["embeddings"] == []
    assert len(server.post("/api/embed", {"input": "word " * 600})[1]["embeddings"]) == 1
    status, answer = server.post("/api/embed", {"input": "word " * 600, "truncate": False})
    assert status == 400
    assert "512" in answer["error"]
    raw = server.post("/api/embeddings", {"prompt": "Once upon"})[1]["embedding"]
    norm = sum(x * x for x in raw) ** 0.5
    assert [x / norm for x in raw] == pytest.approx(one["embeddings"][0], abs=1e-4)
    assert server.post("/api/embeddings", {})[1] == {"embedding": []}
