"""Anthropic's messages."""

from __future__ import annotations

import json

import pytest

PATH = "/v1/messages"
TALK = [{"role": "user", "content": "Once upon a time"}]


def ask(server, **fields):
    status, answer = server.post(PATH, {"messages": TALK, "max_tokens": 8, "temperature": 0, **fields})
    assert status == 200, answer
    return answer


def refused(server, status=400, path=PATH, **fields):
    got, answer = server.post(path, fields)
    assert got == status, answer
    assert answer["type"] == "error"
    return answer["error"]


def events(server, **fields):
    found = []
    for data in server.stream(
        PATH, {"messages": TALK, "max_tokens": 8, "temperature": 0, "stream": True, **fields}
    ):  # fmt: skip
        name, value = data.decode().strip().split("\n")
        value = json.loads(value.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


def test_a_message_has_what_clients_read(server):
    answer = ask(server, model="some-name")
    assert answer["id"].startswith("msg_")
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "some-name")
    (block,) = answer["content"]
    assert block["type"] == "text"
    assert block["text"]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("max_tokens", None)
    usage = answer["usage"]
    assert usage["output_tokens"] == 8
    count = server.post(f"{PATH}/count_tokens", {"messages": TALK})[1]["input_tokens"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == count


def test_events_together_are_the_message(server):
    whole = ask(server)
    found = events(server)
    assert [e["type"] for e in found[:3]] == ["message_start", "ping", "content_block_start"]
    assert [e["type"] for e in found[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(e["delta"]["text"] for e in found if e["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"]
    assert found[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == 8
    assert found[0]["message"]["content"] == []


@pytest.mark.usefixtures("stories260k")
def test_stop_sequences(server):
    begun = [*TALK, {"role": "assistant", "content": "Once upon a time,"}]
    answer = ask(server, messages=begun, stop_sequences=["xyz", "there"], max_tokens=20)
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "there")
    assert "there" not in answer["content"][0]["text"]
    found = events(server, messages=begun, stop_sequences=["there"], max_tokens=20)
    assert found[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "there"}


def test_blocks_and_system_are_texts(server):
    blocks = [{"type": "text", "text": "Once upon", "cache_control": {"type": "ephemeral"}}]
    one = ask(server, messages=[{"role": "user", "content": blocks}], system=[{"type": "text", "text": "Be brief."}])
    other = ask(server, messages=[{"role": "user", "content": "Once upon"}], system="Be brief.")
    assert one["content"] == other["content"]


def test_a_begun_message_is_continued(server):
    answer = ask(server, messages=[*TALK, {"role": "assistant", "content": "Once upon a"}])
    assert answer["content"][0]["text"].startswith(" time")


def test_tools_and_their_results_reach_the_template(serve, templated):
    source = (
        "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}:{{ m.content }}{{ m.reasoning_content }}"
        "{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments.x }}{% endfor %}]{% endfor %}"
    )
    server = serve({"m": templated(source)})
    tools = [{"name": "add", "description": "adds", "input_schema": {"type": "object"}}]
    thought = {"type": "thinking", "thinking": "Hm", "signature": "s"}
    messages = [
        {"role": "user", "content": "1 + 1"},
        {"role": "assistant", "content": [thought, {"type": "tool_use", "id": "t", "name": "add", "input": {"x": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "2"}]},
            {"type": "text", "text": "and?"},
        ]},
    ]  # fmt: skip
    text = "[user:1 + 1][assistant:Hmadd1][tool:2][user:and?]"
    function = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
    text = json.dumps([{"type": "function", "function": function}]) + text
    _, tokens = server.post("/tokenize", {"content": text, "add_special": True})
    _, count = server.post(f"{PATH}/count_tokens", {"messages": messages, "tools": tools})
    assert count["input_tokens"] == len(tokens["tokens"])
    _, none = server.post(f"{PATH}/count_tokens", {"messages": TALK, "tools": tools, "tool_choice": {"type": "none"}})
    assert none["input_tokens"] < count["input_tokens"]


def test_thinking_is_told_to_the_template(serve, templated):
    server = serve(
        {
            "m": templated(
                "{% for m in messages %}{{ m.content }}{% endfor %}{{ '' if enable_thinking else 'not at all' }}"
            )
        }
    )
    counts = [
        server.post(f"{PATH}/count_tokens", {"messages": TALK, **fields})[1]["input_tokens"]
        for fields in ({}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"thinking": {"type": "disabled"}})
    ]
    assert counts[0] == counts[1] < counts[2]  # the template's variable is there, true unless it is said to be false


def test_a_thought_is_a_block(serve, templated):
    server = serve({"m": templated("{% for m in messages %}{{ m.content }}{% endfor %}<think>{# </think> #}")})
    assert [b["type"] for b in ask(server)["content"]] == ["thinking", "text"]
    starts = [e["content_block"]["type"] for e in events(server) if e["type"] == "content_block_start"]
    assert starts == ["thinking"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": TALK}, "max_tokens is missing"),
        ({"max_tokens": 5}, "messages is missing"),
        ({"messages": [], "max_tokens": 5}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}], "max_tokens": 5}, "the role of message 1"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}], "max_tokens": 5}, "cannot be read"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}], "max_tokens": 5}, "tool_use"),
        ({"messages": TALK, "max_tokens": 5, "tool_choice": {"type": "any"}}, "names no tool"),
        ({"messages": TALK, "max_tokens": 5, "top_k": "x"}, "top_k"),
        ({"messages": [{"role": "user", "content": "word " * 600}], "max_tokens": 5}, "the context holds 512"),
    ],
)
@pytest.mark.usefixtures("stories260k")
def test_errors_are_in_anthropics_shape(server, fields, words):
    error = refused(server, **fields)
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]


def test_other_errors_too(serve, small_model):
    server = serve({"a": small_model, "b": small_model}, wait=False, api_key=["secret"])
    assert refused(server, 401)["type"] == "authentication_error"
    status, answer = server.post(PATH, {"model": "c", "messages": TALK, "max_tokens": 1}, {"x-api-key": "secret"})
    assert status == 404
    assert answer["error"]["type"] == "not_found_error"
    assert server.post(PATH, {"model": "a", "messages": TALK, "max_tokens": 1}, {"x-api-key": "secret"})[0] == 200


def test_our_extensions(server):
    answer = ask(server, seed=5, samplers=["top_k"], temperature=1.0, cache_prompt=False)
    assert answer["llamakit"]["seed"] == 5
    assert answer["llamakit"]["samplers"] == ["top_k", "dist"]
    assert answer["timings"]["cache_n"] == 0
