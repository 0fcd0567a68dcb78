"""Clients by features, as docs/clients.md lists them: real clients where they are installed, requests in the shape of
applications (written for what they send) where there is no client to install. The model's words are known."""

from __future__ import annotations

import json

import pytest

from llamakit.testing.scripted_model import scripted_model

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "The weather of a city.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TWO = CALL + "\n" + CALL.replace("Rome", "Oslo")
TEMPLATE = (
    "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>{% endif %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
MARKS = ("<|im_start|>", "<|im_end|>", "<tool_response>", "<tool_call>", "</tool_call>")
ASK = [{"role": "user", "content": "How is the weather in Rome?"}]
ANSWER = "It is twelve degrees in Rome."


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory):
    """Models: `words` speaks, `agent` calls a tool and then speaks, `both` calls two at once, `form` says JSON."""
    folder = tmp_path_factory.mktemp("clients")
    says = {
        "words": ANSWER, "agent": {"": CALL, "<tool_response>": ANSWER}, "both": {"": TWO, "<tool_response>": ANSWER},
        "form": '{"city": "Rome"}',
    }  # fmt: skip
    models = {
        name: scripted_model(folder / f"{name}.gguf", said, template=TEMPLATE, user_defined=MARKS)
        for name, said in says.items()
    }
    return serve_module(models, settings={"ctx_size": 4096, "n_seq": 2, "kv_memory": 1 << 27})


# -- OpenAI's client ---------------------------------------------------------------------------------------------------


@pytest.fixture
def openai(server):
    client = pytest.importorskip("openai").OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
    with client:
        yield client


def test_openai_text_and_stream(openai):
    made = openai.chat.completions.create(model="words", messages=ASK)
    assert made.choices[0].message.content == ANSWER
    with openai.chat.completions.stream(model="words", messages=ASK) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == ANSWER


@pytest.mark.parametrize(("model", "cities"), [("agent", ["Rome"]), ("both", ["Rome", "Oslo"])])
def test_openai_tools_over_two_turns(openai, model, cities):
    with openai.chat.completions.stream(model=model, messages=ASK, tools=TOOLS) as stream:
        stream.until_done()
        message = stream.get_final_completion().choices[0].message
    assert [json.loads(call.function.arguments)["city"] for call in message.tool_calls] == cities
    results = [{"role": "tool", "tool_call_id": call.id, "content": "12"} for call in message.tool_calls]
    talk = [*ASK, message.model_dump(exclude_none=True, exclude={"parsed"}), *results]
    for call in talk[1]["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
    made = openai.chat.completions.create(model=model, messages=talk, tools=TOOLS)
    assert made.choices[0].message.content == ANSWER


def test_openai_structured(openai):
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PARAMETERS, "strict": True}}
    made = openai.chat.completions.create(model="form", messages=ASK, response_format=form)
    assert json.loads(made.choices[0].message.content) == {"city": "Rome"}


def test_openai_responses(openai):
    assert openai.responses.create(model="words", input="Weather?").output_text == ANSWER
    tools = [{"type": "function", **FUNCTION}, {"type": "web_search"}]
    made = openai.responses.create(model="agent", input="Weather?", tools=tools)
    (call,) = [item for item in made.output if item.type == "function_call"]
    items = [*ASK, call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "12"}]
    assert openai.responses.create(model="agent", input=items, tools=tools).output_text == ANSWER
    with openai.responses.stream(model="words", input="Weather?") as stream:
        assert stream.get_final_response().output_text == ANSWER


def test_openai_embeddings(openai):
    made = openai.embeddings.create(model="words", input=["a", "b"])
    assert len(made.data) == 2


# -- Anthropic's, Ollama's, LiteLLM --------------------------------------------------------------------------------


def test_anthropic(server):
    client = pytest.importorskip("anthropic").Anthropic(base_url=server.url, api_key="x", max_retries=0)
    tools = [{"name": "get_weather", "input_schema": PARAMETERS}]
    with client:
        assert client.messages.create(model="words", max_tokens=99, messages=ASK).content[0].text == ANSWER
        with client.messages.stream(model="both", max_tokens=99, messages=ASK, tools=tools) as stream:
            message = stream.get_final_message()
        uses = [block for block in message.content if block.type == "tool_use"]
        assert [use.input["city"] for use in uses] == ["Rome", "Oslo"]
        results = [{"type": "tool_result", "tool_use_id": use.id, "content": "12"} for use in uses]
        talk = [*ASK, {"role": "assistant", "content": [use.model_dump(include={"type", "id", "name", "input"}) for use in uses]},
                {"role": "user", "content": results}]  # fmt: skip
        made = client.messages.create(model="both", max_tokens=99, messages=talk, tools=tools)
        assert made.content[0].text == ANSWER
        assert {model.id for model in client.models.list()} == {"words", "agent", "both", "form"}


def test_ollama(server):
    with pytest.importorskip("ollama").Client(host=server.url) as client:
        assert client.chat(model="words", messages=ASK).message.content == ANSWER
        assert (
            "".join(part.message.content for part in client.chat(model="words:latest", messages=ASK, stream=True))
            == ANSWER
        )
        made = client.chat(model="both", messages=ASK, tools=TOOLS)
        assert [call.function.arguments["city"] for call in made.message.tool_calls] == ["Rome", "Oslo"]
        talk = [*ASK, made.message, {"role": "tool", "tool_name": "get_weather", "content": "12"}]
        assert client.chat(model="both", messages=talk, tools=TOOLS).message.content == ANSWER
        assert json.loads(client.chat(model="form", messages=ASK, format=PARAMETERS).message.content) == {
            "city": "Rome"
        }
        assert len(client.embed(model="words", input=["a", "b"]).embeddings) == 2


@pytest.mark.filterwarnings("ignore")
def test_litellm(server, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    how = {"api_base": f"{server.url}/v1", "api_key": "x", "messages": ASK}
    assert litellm.completion(model="openai/words", **how).choices[0].message.content == ANSWER
    parts = list(litellm.completion(model="openai/both", tools=TOOLS, stream=True, **how))
    message = litellm.stream_chunk_builder(parts).choices[0].message
    assert [json.loads(call.function.arguments)["city"] for call in message.tool_calls] == ["Rome", "Oslo"]


# -- requests in the shape of applications -----------------------------------------------------------------------------


def test_codex_shaped(server):
    """Instructions beside a developer's item, tools of many kinds, nothing stored, always streamed."""
    body = {
        "model": "agent", "instructions": "You are a coding agent.", "stream": True, "store": False,
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandboxed."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Environment: x"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        ],
        "tools": [
            {"type": "function", **FUNCTION, "strict": False}, {"type": "local_shell"}, {"type": "web_search"},
            {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}},
        ],
        "tool_choice": "auto", "parallel_tool_calls": False, "reasoning": {"effort": "medium", "summary": "auto"},
        "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k",
    }  # fmt: skip
    events = list(server.events("/v1/responses", body))
    assert events[-1]["type"] == "response.completed"
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["function_call"]


def test_cline_shaped(server):
    """A long system message, contents as parts, usage in the stream."""
    talk = [{"role": "system", "content": "You are Cline. " * 50},
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}, {"type": "text", "text": "<env>x</env>"}]}]  # fmt: skip
    body = {
        "model": "words",
        "messages": talk,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    events = [event for event in server.events("/v1/chat/completions", body) if event != "[DONE]"]
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"]) == ANSWER
    assert events[-1]["usage"]["completion_tokens"] > 0


def test_continue_shaped(server):
    """Chat by Ollama's API with options, and a list of models to choose from."""
    assert "words:latest" in [model["name"] for model in server.get("/api/tags")[1]["models"]]
    body = {"model": "words", "messages": ASK, "options": {"num_ctx": 8192, "num_predict": 64, "mirostat": 0, "num_thread": 4,
            "stop": ["<|im_end|>"]}, "keep_alive": 1800, "stream": False}  # fmt: skip
    status, answer = server.post("/api/chat", body)
    assert (status, answer["message"]["content"]) == (200, ANSWER)


def test_open_webui_shaped(server):
    """Models by their tagged names, fields of its own, and titles asked for beside the chat."""
    listed = server.get("/api/tags")[1]["models"][0]
    assert {"name", "model", "digest", "details"} <= set(listed)
    assert server.get("/api/version")[1]["version"] >= "0.1.16"
    body = {"model": "words:latest", "messages": ASK, "stream": True, "options": {}, "keep_alive": "5m", "think": False}
    lines = [json.loads(line) for line in server.request("POST", "/api/chat", body)[2].splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == ANSWER
    assert lines[-1]["eval_count"] > 0


def test_sillytavern_shaped(server):
    """Text completion with every sampler that there is, and its order."""
    body = {
        "prompt": "Weather?\n", "model": "words", "n_predict": 64, "temperature": 0.7, "top_k": 40, "top_p": 0.9,
        "min_p": 0.05, "typical_p": 1, "tfs_z": 1, "top_a": 0, "repeat_penalty": 1.1, "repeat_last_n": 64,
        "presence_penalty": 0, "frequency_penalty": 0, "dry_multiplier": 0, "dry_sequence_breakers": ["\n"], "xtc_probability": 0,
        "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "tfs_z", "typical_p", "top_p", "min_p", "xtc", "temperature"],
        "cache_prompt": True, "stream": True, "stop": ["\nUser:"], "seed": -1, "ignore_eos": False, "n_probs": 0, "grammar": "",
        "logit_bias": [], "nsigma": 0, "truncation_length": 4096, "skew": 0,
    }  # fmt: skip
    events = list(server.events("/completion", body))
    assert "".join(event["content"] for event in events) == ANSWER
    assert events[-1]["stop"] is True


def test_ai_sdk_shaped(server):
    """OpenAI's provider of the AI SDK: items by reference are skipped, and a schema asked for."""
    body = {
        "model": "form", "input": [{"type": "item_reference", "id": "rs_1"}, {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}],
        "text": {"format": {"type": "json_schema", "strict": True, "name": "response", "schema": PARAMETERS | {"$schema": "http://json-schema.org/draft-07/schema#"}}},
        "temperature": 0,
    }  # fmt: skip
    status, answer = server.post("/v1/responses", body)
    assert (status, json.loads(answer["output"][-1]["content"][0]["text"])) == (200, {"city": "Rome"})
