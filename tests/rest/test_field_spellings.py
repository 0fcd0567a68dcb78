"""Fields as real clients send them: other names, other kinds, other spellings. Each was refused or misread once."""

from __future__ import annotations

import json

import pytest

from llamakit.gguf import open_gguf
from llamakit.testing.scripted_model import scripted_model

TALK = [{"role": "user", "content": "Hello"}]
FUNCTION = {"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{{ m.reasoning_content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}\n{% endfor %}"
    "{{ tools | tojson if tools else '' }}"
)
CALL = '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def caller(serve_module, tmp_path_factory):
    """A server whose models say hello, or call `add`."""
    folder = tmp_path_factory.mktemp("models")
    models = {
        "Hello": scripted_model(folder / "a.gguf", "Hello there é🦊, friend", template=TEMPLATE),
        "call": scripted_model(folder / "b.gguf", CALL, template=TEMPLATE),
    }
    return serve_module(models, settings={"ctx_size": 2048, "n_seq": 2, "kv_memory": 1 << 26})


def ignored(server, path, body):
    status, headers, data = server.request("POST", path, body)
    assert status == 200, data
    return (headers["X-Ignored-Fields"] or "").split(", "), json.loads(data)


PATHS = {
    "/completion": {"prompt": "x", "n_predict": 2}, "/v1/completions": {"prompt": "x", "max_tokens": 2},
    "/v1/chat/completions": {"messages": TALK, "max_tokens": 2}, "/v1/responses": {"input": "x", "max_output_tokens": 2},
    "/v1/messages": {"messages": TALK, "max_tokens": 2},
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_samplers_that_are_not_here_are_skipped(caller, path):
    body = PATHS[path]
    names, answer = ignored(caller, path, body | {"samplers": ["dry", "top_k", "typ_p", "xtc", "temperature"]})
    assert {"samplers.dry", "samplers.xtc"} <= set(names)
    assert not {"samplers.top_k", "samplers.typ_p"} & set(names)
    if "llamakit" in answer:
        assert answer["llamakit"]["samplers"][:2] == ["top_k", "temperature"]  # typical_p does nothing at 1
    names, _ = ignored(caller, path, body | {"samplers": "edkypmxt"})
    assert [name for name in names if name.startswith("samplers.")] == ["samplers.dry", "samplers.xtc"]
    status, answer = caller.post(path, body | {"samplers": ["dry"], "strict": True})
    assert status == 400


def test_samplers_of_ollama_s_options(caller):
    names, _ = ignored(
        caller, "/api/chat", {"messages": TALK, "options": {"samplers": ["xtc", "top_k"]}, "stream": False}
    )
    assert names == ["options.samplers.xtc"]


def test_tools_of_other_kinds_are_skipped_by_name(caller):
    tools = [{"type": "web_search"}, {"type": "custom", "name": "patch"}, {"type": "function", "function": FUNCTION}]
    names, answer = ignored(
        caller, "/v1/chat/completions", {"model": "call", "messages": TALK, "tools": tools, "temperature": 0}
    )
    assert names == ["tools.web_search", "tools.custom"]
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "add"
    tools = [*tools[:2], {"type": "local_shell"}, {"type": "namespace", "name": "n"}, {"type": "function", **FUNCTION}]
    items = [
        {"type": "item_reference", "id": "x"}, {"role": "user", "content": "Hi"},
        {"type": "web_search_call", "id": "y"}, {"type": "custom_tool_call", "call_id": "z"},
    ]  # fmt: skip
    names, answer = ignored(
        caller, "/v1/responses", {"model": "call", "input": items, "tools": tools, "temperature": 0}
    )
    assert set(names) == {
        "tools.web_search", "tools.custom", "tools.local_shell", "tools.namespace", "input.item_reference",
        "input.web_search_call", "input.custom_tool_call",
    }  # fmt: skip
    assert [item["name"] for item in answer["output"] if item["type"] == "function_call"] == ["add"]


def test_blocks_of_anthropic_s_servers(caller):
    document = {
        "type": "document",
        "title": "Notes",
        "source": {"type": "text", "data": "It rains.", "media_type": "text/plain"},
    }
    content = [document, {"type": "tool_reference", "tool_name": "x"}, {"type": "text", "text": "Hi"}]
    tools = [{"type": "web_search_20250305", "name": "web_search"}, {"name": "add", "input_schema": {}}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 2, "tools": tools}
    names, _ = ignored(caller, "/v1/messages", body)
    assert set(names) == {"tools.web_search_20250305", "messages.tool_reference"}
    count = caller.post("/v1/messages/count_tokens", body)[1]["input_tokens"]
    bare = caller.post("/v1/messages/count_tokens", body | {"messages": TALK})[1]["input_tokens"]
    assert count > bare + 10


def test_thoughts_stay_in_a_loop_of_tools(caller):
    call = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "2"}
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "A long thought."}]}
    counts = []
    for items in ([call, result], [thought, call, result]):
        body = {"input": [{"role": "user", "content": "1 + 1"}, *items], "max_output_tokens": 1}
        counts.append(caller.post("/v1/responses", body)[1]["usage"]["input_tokens"])
    assert counts[1] > counts[0] + 10
    by_name = []
    for name in ("reasoning", "reasoning_content"):
        messages = [*TALK, {"role": "assistant", "content": "2", name: "A long thought."}, *TALK]
        by_name.append(caller.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})[1]["usage"])
    assert by_name[0]["prompt_tokens"] == by_name[1]["prompt_tokens"]


def test_the_first_form_of_tools(caller):
    body = {"model": "call", "messages": TALK, "functions": [FUNCTION], "function_call": "auto", "temperature": 0}
    status, answer = caller.post("/v1/chat/completions", body)
    assert status == 200, answer
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"]["name"] == "add"
    assert json.loads(choice["message"]["function_call"]["arguments"]) == {"x": 1}
    assert "tool_calls" not in choice["message"]
    events = list(caller.events("/v1/chat/completions", body | {"stream": True}))[:-1]
    parts = [e["choices"][0]["delta"].get("function_call", {}) for e in events]
    assert json.loads("".join(part.get("arguments", "") for part in parts)) == {"x": 1}
    messages = [*TALK, choice["message"], {"role": "function", "name": "add", "content": "1"}]
    assert caller.post("/v1/chat/completions", body | {"messages": messages})[0] == 200


def test_small_spellings(caller):
    body = {"messages": TALK, "n_predict": 2, "top_k": -1}
    status, answer = caller.post("/v1/chat/completions", body)
    assert (status, answer["usage"]["completion_tokens"]) == (200, 2)
    status, _, _ = caller.request("POST", "/v1/chat/completions", b"\xef\xbb\xbf" + json.dumps(body).encode())
    assert status == 200
    for bias in ([[5, True]], {"-1": 1}):
        assert caller.post("/completion", {"prompt": "x", "logit_bias": bias})[0] == 400


def test_offsets_of_split_characters_are_the_same_streamed(caller):
    body = {"prompt": "x", "max_tokens": 40, "logprobs": 0, "temperature": 0}
    (whole,) = caller.post("/v1/completions", body)[1]["choices"]
    parts = [e["choices"][0] for e in caller.events("/v1/completions", body | {"stream": True}) if e != "[DONE]"]
    streamed = [offset for part in parts if part["logprobs"] for offset in part["logprobs"]["text_offset"]]
    assert streamed == whole["logprobs"]["text_offset"]
    told = list(zip(whole["logprobs"]["tokens"], streamed, strict=True))
    for word, at in told:
        if not word.startswith("bytes:") and word != "</s>":
            assert whole["text"][at : at + len(word)] == word, told


def test_preflights_echo_the_headers_that_are_asked_for(serve):
    server = serve(cors=["http://localhost:*", "https://*.example.com"])
    asked = "authorization,x-stainless-lang,anthropic-version"
    for origin, allowed in {
        "http://localhost:5173": True, "http://localhost": True, "https://a.example.com": True,
        "http://localhost.evil.com:80": False, "https://example.com.evil.org": False, "http://localhost:x": False,
    }.items():  # fmt: skip
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
        _, got, _ = server.request("OPTIONS", "/v1/messages", None, headers)
        assert (got["Access-Control-Allow-Origin"] == origin) == allowed, origin
        assert (got["Access-Control-Allow-Headers"] == asked) == allowed


def test_models_by_other_names(caller):
    names = [model["name"] for model in caller.get("/api/tags")[1]["models"]]
    assert names == ["Hello:latest", "call:latest"]
    for name in ("hello", "HELLO:latest", "Hello"):
        assert caller.post("/api/show", {"model": name})[0] == 200
        assert caller.get(f"/v1/models/{name}")[1]["id"] == "Hello"
    version = caller.get("/api/version")[1]
    assert tuple(map(int, version["version"].split("."))) >= (0, 6, 4)
    assert "llamakit" in version
    listed = caller.get("/v1/models", {"anthropic-version": "2023-06-01"})[1]
    assert [model["type"] for model in listed["data"]] == ["model", "model"]
    assert (listed["has_more"], listed["first_id"]) == (False, "Hello")


def test_keep_alive_0_unloads(serve, tmp_path):
    models = {name: scripted_model(tmp_path / f"{name}.gguf", name, template=TEMPLATE) for name in ("a", "b")}
    server = serve(models, settings={"ctx_size": 512, "kv_memory": 1 << 24})
    assert server.post("/api/generate", {"model": "b", "prompt": "x", "stream": False, "keep_alive": 0})[0] == 200
    assert [model["name"] for model in server.get("/api/ps")[1]["models"]] == ["a:latest"]
    assert server.post("/api/generate", {"model": "a", "keep_alive": 0, "stream": False})[1]["done_reason"] == "unload"
    assert server.get("/api/ps")[1]["models"] == []
    for kept, reason in ((0.0, "unload"), ("0s", "unload"), ("0m", "unload"), ("0h0m0s", "unload"), ("10m", "load"),
                         ("0.5s", "load"), (-1, "load"), ("-1s", "load"), ("s", "load")):  # fmt: skip
        answer = server.post("/api/generate", {"model": "a", "keep_alive": kept, "stream": False})[1]
        loaded = [model["name"] for model in server.get("/api/ps")[1]["models"]]
        assert (answer["done_reason"], loaded) == (reason, ["a:latest"] if reason == "load" else []), kept


def test_vectors_are_pooled_as_the_file_says(serve, tmp_path, small_model, templated):
    def made(**keys):
        return templated("{{ messages }}", **keys)

    models = {"plain": small_model, "last": made(**{"llama.pooling_type": 3}),
              "end": made(**{"llama.pooling_type": 3, "tokenizer.ggml.add_eos_token": True})}  # fmt: skip
    server = serve(models, settings={"ctx_size": 128, "kv_memory": 1 << 24})

    def vector(model, **fields):
        return server.post("/v1/embeddings", {"model": model, "input": "a big ball", **fields})[1]["data"][0][
            "embedding"
        ]

    assert vector("last") == vector("plain", pooling="last") != vector("plain")
    assert vector("end") != vector("last")
    assert server.post("/api/embed", {"model": "last", "input": "a big ball"})[1]["embeddings"][0] == pytest.approx(
        vector("last")
    )
    with open_gguf(small_model) as file:
        assert "llama.pooling_type" not in file.metadata
    usage = server.post("/v1/embeddings", {"model": "end", "input": "a big ball"})[1]["usage"]["prompt_tokens"]
    assert (
        usage
        == server.post("/v1/embeddings", {"model": "last", "input": "a big ball"})[1]["usage"]["prompt_tokens"] + 1
    )
