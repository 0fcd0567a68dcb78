"""Answers of every family of models over HTTP: what a model writes is known, so what clients get is too."""

from __future__ import annotations

import json

import pytest

from llamakit.chat.tools import FORMATS
from llamakit.testing.scripted_model import scripted_model

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
ARGUMENTS = {"city": "Rome", "days": 2}
CONTROL = {
    "gpt-oss": ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>", "<|call|>", "<|return|>"],
    "deepseek-v3": [
        "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
    ],
    "mistral": ["[TOOL_CALLS]"], "mistral-args": ["[TOOL_CALLS]", "[ARGS]"], "hermes": [],
    "qwen3-coder": ["<tool_call>", "</tool_call>"], "granite": ["<|tool_call|>"], "glm": ["<tool_call>", "</tool_call>"],
    "kimi": [
        "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>",
        "<|tool_call_argument_begin|>",
    ],
    "command-r7b": ["<|START_ACTION|>", "<|END_ACTION|>"], "functionary": [], "functionary-3.2": [], "llama3": ["<|python_tag|>"], "llama4": [],
}  # fmt: skip
CONTROL["deepseek-v3.1"] = CONTROL["deepseek-v3"]
NAMES = sorted(CONTROL)
BY_NAME = {format.name: format for format in FORMATS}


def template(format):
    """A template that shows calls in a family's form, and nothing else of it."""
    sample = format.text([("NAME", {"x": 1})]).replace("'", "\\'")
    before, _, after = sample.partition("NAME")
    for part in (
        '{"x": 1}',
        "x=1",
        *(format.key_begin + "x" + format.key_end + "1" + format.value_end,) * bool(format.key_begin),
    ):
        after = after.replace(part, "@@")
    keys = "{% for k, v in f.arguments.items() %}" + format.key_begin + "{{ k }}" + format.key_end
    keys += "{{ v if v is string else v | tojson }}" + format.value_end + "{% endfor %}"
    python = "{% for k, v in f.arguments.items() %}{{ k }}={{ '\"' ~ v ~ '\"' if v is string else v }}"
    python += "{% if not loop.last %}, {% endif %}{% endfor %}"
    shown = {"json": "{{ f.arguments | tojson }}", "keys": keys, "python": python}[format.arguments]
    call = before + "{{ f.name }}" + after.replace("@@", shown)
    return (
        "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}{% for c in m.tool_calls or [] %}{% set f = c.function %}"
        + call + "{% endfor %}\n{% endfor %}{{ tools | tojson if tools else '' }}" + ("{{ '<|start|>assistant' if add_generation_prompt }}" if format.channels else "")
        + ("{{ '" + format.begin + "' if add_generation_prompt }}" if format.to_user else "")
    )  # fmt: skip


@pytest.fixture(scope="module")
def served(serve_module, tmp_path_factory):
    """A server with a model for each family, which calls the tool once; `-words` ones say something before."""
    folder = tmp_path_factory.mktemp("scripted")
    models = {}
    for name in NAMES:
        format = BY_NAME[name]
        text = format.text([("get_weather", ARGUMENTS)])
        if format.channels:
            text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant" + text.removesuffix("<|call|>")
        if format.to_user:
            text = text.removeprefix(format.begin)  # it is in the prompt
        if format.arguments == "python":
            text = text.replace("'", '"')
        models[name] = scripted_model(folder / f"{name}.gguf", text, template=template(format), control=CONTROL[name])
    return serve_module(models, settings={"ctx_size": 2048, "n_seq": 2, "kv_memory": 1 << 26})


def talk(name, **fields):
    message = {"role": "user", "content": "Weather in Rome?"}
    return {"model": name, "messages": [message], "tools": TOOLS, "temperature": 0, "max_tokens": 200} | fields


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("name", NAMES)
def test_openai(served, name, choice):
    status, answer = served.post("/v1/chat/completions", talk(name, tool_choice=choice))
    assert status == 200, answer
    (choice_,) = answer["choices"]
    (call,) = choice_["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", ARGUMENTS)
    assert choice_["finish_reason"] == "tool_calls"
    assert not choice_["message"]["content"]
    assert choice_["message"].get("reasoning_content") == ("Hm." if name == "gpt-oss" else None)


@pytest.mark.parametrize("name", NAMES)
def test_openai_streamed(served, name):
    events = list(served.events("/v1/chat/completions", talk(name, stream=True)))[:-1]
    deltas = [event["choices"][0]["delta"] for event in events]
    arguments = ""
    for delta in deltas:
        calls = delta.get("tool_calls", [])
        assert len({call["index"] for call in calls}) == len(calls)
        arguments += "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == ARGUMENTS
    named = [c for d in deltas for c in d.get("tool_calls", []) if "name" in c["function"]]
    assert [(each["function"]["name"], bool(each["id"])) for each in named] == [("get_weather", True)]
    assert "".join(delta.get("content") or "" for delta in deltas).strip() == ""


@pytest.mark.parametrize("name", NAMES)
def test_the_other_apis(served, name):
    tool = {"name": "get_weather", "input_schema": PARAMETERS}
    _, answer = served.post("/v1/messages", talk(name, tools=[tool]))
    assert [(b["name"], b["input"]) for b in answer["content"] if b["type"] == "tool_use"] == [
        ("get_weather", ARGUMENTS)
    ]
    assert answer["stop_reason"] == "tool_use"
    body = talk(name, options={"temperature": 0, "num_predict": 200})
    for stream in (False, True):
        _, _, data = served.request("POST", "/api/chat", body | {"stream": stream})
        messages = [json.loads(line)["message"] for line in data.splitlines()]
        calls = [call["function"] for message in messages for call in message.get("tool_calls", [])]
        assert calls == [{"name": "get_weather", "arguments": ARGUMENTS}]
        assert "".join(message["content"] for message in messages).strip() == ""
    body = {
        "model": name,
        "input": "Weather?",
        "tools": [{"type": "function", **TOOLS[0]["function"]}],
        "temperature": 0,
    }
    _, answer = served.post("/v1/responses", body)
    calls = [item for item in answer["output"] if item["type"] == "function_call"]
    assert [(item["name"], json.loads(item["arguments"])) for item in calls] == [("get_weather", ARGUMENTS)]


@pytest.mark.parametrize("name", NAMES)
def test_answers_that_are_cut_within_a_call(served, name):
    """Wherever the limit cuts: an object or no call; no markup in the text; the reason is the limit."""
    _, whole = served.post("/v1/chat/completions", talk(name))
    for limit in range(1, whole["usage"]["completion_tokens"]):
        _, answer = served.post("/v1/chat/completions", talk(name, max_tokens=limit))
        (choice,) = answer["choices"]
        calls = choice["message"].get("tool_calls", [])
        is_whole = bool(calls) and _complete(calls[0]["function"]["arguments"])
        assert choice["finish_reason"] == "length" or is_whole  # what is missing may be the end of the markup
        assert not (choice["message"]["content"] or "").strip(), limit
        events = list(served.events("/v1/chat/completions", talk(name, max_tokens=limit, stream=True)))[:-1]
        deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
        assert not "".join(delta.get("content") or "" for delta in deltas).strip(), limit
        _, answer = served.post(
            "/v1/messages", talk(name, max_tokens=limit, tools=[{"name": "get_weather", "input_schema": PARAMETERS}])
        )
        uses = [block for block in answer["content"] if block["type"] == "tool_use"]
        assert all(isinstance(block["input"], dict) for block in uses)
        assert not [block for block in answer["content"] if block["type"] == "text" and block["text"].strip()]
        assert answer["stop_reason"] == "max_tokens" or uses
        body = talk(name, stream=False, options={"temperature": 0, "num_predict": limit})
        _, answer = served.post("/api/chat", body)
        calls = answer["message"].get("tool_calls", [])
        assert all(isinstance(call["function"]["arguments"], dict) for call in calls)
        assert not answer["message"]["content"].strip()
        assert answer["done_reason"] == "length" or calls


def _complete(arguments):
    try:
        return json.loads(arguments) == ARGUMENTS
    except ValueError:
        return False


def test_the_prompt_of_apply_template_is_that_of_the_chat(served):
    for name in ("hermes", "mistral", "llama4"):
        body = talk(name)
        body["messages"] = [
            {"role": "system", "content": "S"}, *body["messages"],
            {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": ""}}]},
            {"role": "tool", "content": "12"},
        ]  # fmt: skip
        _, made = served.post("/apply-template", {k: body[k] for k in ("model", "messages", "tools")})
        _, tokens = served.post("/tokenize", {"content": made["prompt"], "model": name, "add_special": True})
        _, answer = served.post("/v1/chat/completions", body | {"max_tokens": 1})
        assert answer["usage"]["prompt_tokens"] == len(tokens["tokens"])
        assert "get_weather" in made["prompt"]
        assert "None" not in made["prompt"]
