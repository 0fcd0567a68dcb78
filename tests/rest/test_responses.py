"""OpenAI's responses: nothing is stored, all is in the request."""

from __future__ import annotations

import json

import pytest

PATH = "/v1/responses"


def ask(server, **fields):
    status, answer = server.post(
        PATH, {"input": "Once upon a time", "max_output_tokens": 8, "temperature": 0, **fields}
    )
    assert status == 200, answer
    return answer


def refused(server, **fields):
    status, answer = server.post(PATH, fields)
    assert status == 400, answer
    return answer["error"]


def events(server, **fields):
    body = {"input": "Once upon a time", "max_output_tokens": 8, "temperature": 0, "stream": True, **fields}
    found = []
    for data in server.stream(PATH, body):
        name, value = data.decode().strip().split("\n")
        value = json.loads(value.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


@pytest.mark.usefixtures("stories260k")
def test_a_response_has_what_clients_read(server):
    answer = ask(server, metadata={"a": "b"}, instructions="Be brief.")
    assert answer["id"].startswith("resp_")
    assert (answer["object"], answer["status"]) == ("response", "incomplete")
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["metadata"] == {"a": "b"}
    assert answer["instructions"] == "Be brief."
    assert answer["store"] is False
    (item,) = answer["output"]
    assert (item["type"], item["role"]) == ("message", "assistant")
    (part,) = item["content"]
    assert part["type"] == "output_text"
    assert part["text"]
    usage = answer["usage"]
    assert usage["output_tokens"] == 8
    assert usage["total_tokens"] == usage["input_tokens"] + 8


def test_events_together_are_the_response(server):
    whole = ask(server)
    found = events(server)
    assert [e["sequence_number"] for e in found] == list(range(len(found)))
    assert [e["type"] for e in found[:4]] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    text = "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")
    assert text == whole["output"][0]["content"][0]["text"]
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == text
    assert found[0]["response"]["status"] == "in_progress"


def test_items_are_a_conversation(server):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "1 + 1"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"x": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "2."}]},
        {"role": "user", "content": "Once upon a time"},
    ]
    assert ask(server, input=items)["output"]
    shown = [{"role": "user", "content": "1 + 1"}, {"role": "user", "content": "Once upon a time"}]
    assert ask(server, input=shown)["usage"]["input_tokens"] < ask(server, input=items)["usage"]["input_tokens"]


def test_a_begun_message_is_continued(server):
    begun = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Once upon a"}]
    assert ask(server, input=begun)["output"][0]["content"][0]["text"].startswith(" time")


def test_a_thought_is_an_item(serve, templated):
    server = serve({"m": templated("{% for m in messages %}{{ m.content }}{% endfor %}<think>{# </think> #}")})
    (item,) = ask(server)["output"]
    assert item["type"] == "reasoning"
    assert item["content"][0]["type"] == "reasoning_text"
    assert ask(server)["usage"]["output_tokens_details"]["reasoning_tokens"] == 8
    deltas = [e["delta"] for e in events(server) if e["type"] == "response.reasoning_text.delta"]
    assert "".join(deltas) == item["content"][0]["text"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "messages"),
        ({"input": [{"type": "item_reference"}]}, "messages"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "messages"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "tools": [{"type": "function"}]}, "tools"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "text": {"format": {"type": "yaml"}}}, "text"),
    ],
)
def test_what_is_wrong_is_named(server, fields, param):
    assert refused(server, **fields)["param"] == param


def test_the_route_without_version(server):
    assert server.post("/responses", {"input": "x", "max_output_tokens": 1})[0] == 200
