"""Tools over HTTP with a real model: whatever it would like to write, its calls are right, in every family and API."""

from __future__ import annotations

import json

import pytest

from llamakit.gguf import open_gguf
from llamakit.tokenizer import TokenType, load_tokenizer

MESSAGES = "{% for m in messages %}{{ m.content }} {% endfor %}{{ tools | tojson if tools else '' }}"
TEMPLATES = {
    "hermes": MESSAGES + "{# <tool_call> #}",
    "mistral": MESSAGES + "{# [TOOL_CALLS] #}",
    "mistral-args": MESSAGES + "{# [TOOL_CALLS] [ARGS] #}",
    "llama3": MESSAGES + "{# <|python_tag|> #}",
    "generic": "{% for m in messages %}{{ m.content }} {% endfor %}",
    "thinker": MESSAGES + "{# <tool_call> <think> </think> #}",
    "inside": MESSAGES + "{% if add_generation_prompt %}<think>\n{% endif %}{# </think> <tool_call> #}",
    "magistral": MESSAGES + "{# [THINK] [/THINK] [TOOL_CALLS] [ARGS] #}",
}
CONTROL = (
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|python_tag|>",
    "[THINK]",
    "[/THINK]",
    "<think>",
    "</think>",
)  # tokens of the test's vocabulary
PARAMETERS = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 999}, "unit": {"enum": ["m", "ft"]}},
    "required": ["x", "unit"],
    "additionalProperties": False,
}
EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "measure", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "stop", "parameters": EMPTY}},
]
ANSWER = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER}}
N_VOCAB = 512  # of tokens that the small model has at least
ID = {text: N_VOCAB - 1 - i for i, text in enumerate(CONTROL)}
TO_THE_POINT = {str(ID["</think>"]): 20, str(ID["[/THINK]"]): 20}  # a logit_bias: thoughts end soon
TALK = {"messages": [{"role": "user", "content": "How long is it?"}], "temperature": 1.3}


@pytest.fixture(scope="module")
def families(templated, small_model, serve_module):
    """A server with a model for each template; in its vocabulary are the control tokens of the families."""
    with open_gguf(small_model) as file:
        tokens = list(file.metadata["tokenizer.ggml.tokens"])
        types = [int(each) for each in file.metadata["tokenizer.ggml.token_type"]]
    assert len(tokens) >= N_VOCAB
    for text, id in ID.items():
        tokens[id], types[id] = text, int(TokenType.CONTROL)
    more = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    return serve_module({name: templated(source, **more) for name, source in TEMPLATES.items()})


def right(name, arguments):
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    if name == "stop":
        return value == {}
    return name == "measure" and set(value) == {"x", "unit"} and 0 <= value["x"] <= 999 and value["unit"] in ("m", "ft")


def message(server, family, **fields):
    status, found = server.post("/v1/chat/completions", {"model": family, "max_tokens": 300} | TALK | fields)
    assert status == 200, found
    return found["choices"][0]


@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.parametrize("seed", range(3))
def test_required(families, family, seed):
    choice = message(
        families, family, tools=TOOLS, tool_choice="required", seed=seed, parallel_tool_calls=False,
        logit_bias=TO_THE_POINT,
    )  # fmt: skip
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert right(call["function"]["name"], call["function"]["arguments"])
    assert choice["message"]["content"] is None
    if family.startswith("mi"):
        assert len(call["id"]) == 9


@pytest.mark.parametrize("family", TEMPLATES)
def test_named(families, family):
    named = {"type": "function", "function": {"name": "measure"}}
    choice = message(families, family, tools=TOOLS, tool_choice=named, seed=1, logit_bias=TO_THE_POINT)
    calls = [call["function"] for call in choice["message"].get("tool_calls", [])]
    assert calls
    complete = calls if choice["finish_reason"] == "tool_calls" else calls[:-1]
    assert {call["name"] for call in calls} == {"measure"}
    assert all(right(call["name"], call["arguments"]) for call in complete)


@pytest.mark.parametrize("family", ["hermes", "mistral", "mistral-args", "generic"])
def test_several(families, family, small_model):
    """The end is made unlikely, so that the model goes on calling until its tokens are used."""
    tokenizer = load_tokenizer(open_gguf(small_model).metadata)
    ends = {"]": -100, **{str(id): -100 for id in tokenizer.eog_ids}}
    choice = message(families, family, tools=TOOLS, tool_choice="required", seed=3, logit_bias=ends, max_tokens=400)
    calls = [call["function"] for call in choice["message"]["tool_calls"]]
    assert len(calls) > 1 or family == "generic"  # which may choose a single call, that has no more after it
    assert all(right(call["name"], call["arguments"]) for call in calls[:-1])


def chunks(server, **fields):
    return [e for e in server.events("/v1/chat/completions", TALK | fields | {"stream": True}) if e != "[DONE]"]


@pytest.mark.parametrize("family", TEMPLATES)
def test_streamed_arguments_are_those_of_the_whole(families, family):
    fields = {
        "model": family, "tools": TOOLS, "tool_choice": "required", "seed": 5, "max_tokens": 200,
        "logit_bias": TO_THE_POINT,
    }  # fmt: skip
    whole = message(families, **{"family": family} | {k: v for k, v in fields.items() if k != "model"})
    deltas = [c for e in chunks(families, **fields) for c in e["choices"][0]["delta"].get("tool_calls", [])]
    made: dict[int, dict[str, str]] = {}
    for delta in deltas:
        call = made.setdefault(delta["index"], {"name": "", "arguments": "", "id": ""})
        call["name"] += delta["function"].get("name", "")
        call["arguments"] += delta["function"]["arguments"]
        call["id"] += delta.get("id", "")
    wanted = [call["function"] for call in whole["message"]["tool_calls"]]
    assert [{"name": c["name"], "arguments": c["arguments"]} for c in made.values()] == wanted
    assert all(call["id"] for call in made.values())
    assert len(deltas) > len(made)


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_tool_that_need_not_be_called(families, family):
    """A model that was never taught to call writes text; what it begins as a call becomes one."""
    choice = message(families, family, tools=TOOLS, seed=2, max_tokens=60)
    assert "tool_calls" not in choice["message"]
    text = choice["message"]["content"] or choice["message"]["reasoning_content"]
    assert text
    marker = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "mistral-args": "[TOOL_CALLS]"}.get(family)
    if marker is None:
        return
    at_first = {str(ID[marker]): 100} if marker in ID else {"<": 50, "t": 30, "o": 30, "l": 25, "_": 25, "c": 25}
    choice = message(families, family, tools=TOOLS, seed=2, max_tokens=300, logit_bias=at_first)
    for call in choice["message"].get("tool_calls", [])[: None if choice["finish_reason"] == "tool_calls" else -1]:
        assert right(call["function"]["name"], call["function"]["arguments"])
    assert marker not in ID or choice["message"]["tool_calls"]


@pytest.mark.parametrize("family", ["hermes", "thinker", "inside", "magistral"])
@pytest.mark.parametrize("seed", range(3))
def test_a_schema_holds_after_the_thought(families, family, seed):
    choice = message(families, family, response_format=FORM, seed=seed, max_tokens=300, logit_bias=TO_THE_POINT)
    assert set(json.loads(choice["message"]["content"])) == {"ok"}


def test_a_schema_or_a_call(families):
    kinds = set()
    for seed in range(8):
        choice = message(families, "hermes", tools=TOOLS, response_format=FORM, seed=seed, logit_bias={"{": 3, "<": 6})
        kinds.add(choice["finish_reason"])
        if choice["finish_reason"] == "stop":
            assert set(json.loads(choice["message"]["content"])) == {"ok"}
    assert "tool_calls" in kinds or "stop" in kinds


@pytest.mark.parametrize("family", ["hermes", "llama3", "mistral"])
def test_the_other_apis(families, family):
    tools = [{"name": t["function"]["name"], "input_schema": t["function"]["parameters"]} for t in TOOLS]
    body = {"model": family, "max_tokens": 300, "messages": TALK["messages"], "tools": tools, "seed": 1}
    one = {"type": "any", "disable_parallel_tool_use": True}
    status, found = families.post("/v1/messages", body | {"tool_choice": one})
    assert status == 200, found
    (block,) = found["content"]
    assert right(block["name"], block["input"])
    assert found["stop_reason"] == "tool_use"
    tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    body = {"model": family, "input": "How long?", "tools": tools, "tool_choice": "required", "seed": 1}
    status, found = families.post("/v1/responses", body | {"parallel_tool_calls": False, "max_output_tokens": 300})
    assert status == 200, found
    (item,) = found["output"]
    assert right(item["name"], item["arguments"])
    assert item["status"] == "completed"


def test_allowed_tools(families):
    only = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "stop"}}]},
    }
    choice = message(families, "hermes", tools=TOOLS, tool_choice=only, seed=1, parallel_tool_calls=False)
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "stop"


def test_what_cannot_be_enforced(families):
    odd = {"type": "object", "properties": {"x": {"type": "string", "pattern": "(?=a)b"}}, "required": ["x"]}
    tool = {"type": "function", "function": {"name": "odd", "parameters": odd}}
    body = {"model": "hermes", "tools": [tool], "tool_choice": "required", "max_tokens": 40} | TALK
    assert families.post("/v1/chat/completions", body)[0] == 200
    tool["function"]["strict"] = True
    status, found = families.post("/v1/chat/completions", body)
    assert status == 400
    assert "the parameters of odd" in found["error"]["message"]
    body = {"model": "hermes", "tools": TOOLS, "tool_choice": "required", "grammar": 'root ::= "a"'} | TALK
    status, found = families.post("/v1/chat/completions", body)
    assert status == 400
    assert found["error"]["param"] == "tool_choice"
    body = {"model": "hermes", "tools": TOOLS, "grammar": 'root ::= "a"', "regex": "a"} | TALK
    status, found = families.post("/v1/chat/completions", body)
    assert status == 400
    assert "cannot both be asked for" in found["error"]["message"]


def test_an_answer_cut_within_a_call(families):
    choice = message(families, "hermes", tools=TOOLS[:1], tool_choice="required", seed=1, max_tokens=26)
    assert choice["finish_reason"] == "length"
