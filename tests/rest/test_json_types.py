"""Errors tell of what was found in a body by JSON's names: a string, null, an array; never by Python's."""

from __future__ import annotations

import json
import re
from typing import Annotated

import msgspec
import pytest

from llamakit.typed import convert
from tests.rest.malformed import BODIES, FIELDS, MESSAGES

PYTHON = re.compile(r"\b(None|NoneType|True|False|str|int|float|bool|dict|list|tuple)\b")
WORDS = re.compile(r"\ba list\b|possible: base64, float")  # words and values, not types
VALUES = ("zzz", None, True, 1.5, [None, True], {"a": None})
CALL, SOURCE = {"name": "f"}, {"type": "content"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
NESTED = {
    "messages": [
        lambda value: [value], lambda value: [{"role": value}], lambda value: [{"role": "user", "content": value}],
        lambda value: [{"role": "user", "content": [{"type": value}]}],
        lambda value: [*MESSAGES, {"role": "assistant", "tool_calls": value}],
        lambda value: [*MESSAGES, {"role": "assistant", "tool_calls": [{"function": {"name": value}}]}],
        lambda value: [*MESSAGES, {"role": "assistant", "tool_calls": [{"function": CALL | {"arguments": value}}]}],
        lambda value: [{"role": "user", "content": [{"type": "tool_result", "content": value}]}],
        lambda value: [{"role": "user", "content": [{"type": "document", "source": value}]}],
        lambda value: [{"role": "user", "content": [{"type": "document", "source": {"type": value}}]}],
        lambda value: [{"role": "user", "content": [{"type": "document", "source": {**SOURCE, "content": value}}]}],
        lambda value: [{"role": "user", "content": [{"type": "tool_use", "name": "f", "input": value}]}],
    ],
    "tools": [
        lambda value: [value], lambda value: [{"type": "function", "function": value}],
        lambda value: [{"type": "function", "function": {"name": value}}],
        lambda value: [{"type": "function", "function": {"name": "f", "parameters": value}}],
    ],
    "response_format": [
        lambda value: {"type": value}, lambda value: {"type": "json_schema", "json_schema": value},
        lambda value: {"type": "json_schema", "json_schema": {"schema": value}},
        lambda value: {"type": "structural_tag", "format": value},
    ],
    "json_schema": [
        lambda value: {"type": value}, lambda value: {"properties": value}, lambda value: {"properties": {"a": value}},
        lambda value: {"enum": value}, lambda value: {"required": value}, lambda value: {"$ref": value},
        lambda value: {"items": value}, lambda value: {"anyOf": value}, lambda value: {"pattern": value},
        lambda value: {"minLength": value}, lambda value: {"minimum": value, "type": "integer"},
    ],
    "structural_tag": [lambda value: {"type": "structural_tag", "format": value},
                       lambda value: {"type": "structural_tag", "format": {"type": value}}],
    "stream_options": [lambda value: {"include_usage": value}],
    "lora": [lambda value: [value], lambda value: [{"id": value}], lambda value: [{"id": 0, "scale": value}]],
    "logit_bias": [lambda value: [value], lambda value: [[1, value]], lambda value: {"1": value}],
    "tool_choice": [lambda value: {"type": value}, lambda value: {"type": "function", "function": value},
                    lambda value: {"type": "allowed_tools", "tools": value}],
    "stop": [lambda value: [value]],
    "prompt": [lambda value: [value]],
    "input": [lambda value: [value], lambda value: [{"type": "message", "role": value}],
              lambda value: [{"type": "function_call", "name": value}]],
    "thinking": [lambda value: {"type": value}],
    "text": [lambda value: {"format": value}, lambda value: {"format": {"type": value}}],
    "options": [lambda value: {"top_k": value}, lambda value: {"stop": value}],
    "chat_template_kwargs": [lambda value: {"tools": value}],
}  # fmt: skip
MORE = (
    "functions",
    "structured_outputs",
    "reasoning",
    "think",
    "images",
    "raw",
    "priority",
    "regex",
    "choices",
    "lark",
)


def bodies(path):
    """Right bodies with one field, or what is in one, of another kind: of one kind here, of others at other paths."""
    first = [*BODIES].index(path)
    for number, field in enumerate((*FIELDS, *NESTED, *MORE)):
        value = VALUES[(first + number) % len(VALUES)]
        yield {**BODIES[path], field: value}
        for make in NESTED.get(field, ()):
            more = {"tools": [TOOL]} if field == "tool_choice" else {}
            yield {**BODIES[path], **more, field: make(value)}


@pytest.mark.parametrize("path", [path for path in BODIES if path != "/lora-adapters"])
def test_no_error_names_a_type_of_python(server, path):
    wrong, refused = [], 0
    for body in bodies(path):
        status, _, data = server.request("POST", path, body)
        assert status < 500, (body, data)
        if status < 400:
            continue
        refused += 1
        text = json.dumps(json.loads(data), ensure_ascii=False)
        if PYTHON.search(WORDS.sub("", text)):
            wrong.append((body, text))
    assert refused
    assert not wrong, "\n".join(f"{body} -> {text}" for body, text in wrong[:20])


KINDS = [("a", "string"), (True, "boolean"), (7, "number"), (1.5, "number"), ([], "array"), ({}, "object")]


@pytest.mark.parametrize(("found", "told"), KINDS)
def test_kinds_are_told_by_jsons_names(server, found, told):
    for path, field, wanted in (("/v1/embeddings", "model", "string"), ("/detokenize", "tokens", "array")):
        if told != wanted:
            _, _, data = server.request("POST", path, BODIES[path] | {field: found})
            assert f"expected {wanted}, got {told}" in json.loads(data)["error"]["message"]
    _, _, data = server.request("POST", "/lora-adapters", found)
    if told != "object":
        expected = f"{'an' if told == 'array' else 'a'} {told}"
        error = json.loads(data)["error"]
        assert told == "array" or expected in error["found"], error


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"7", "a number"), (b"null", "null"), (b"[]", "an array"), (b'"x"', "a string"), (b"true", "a boolean"),
        (b'{"tokens": [null]}', "expected integer, got null"), (b'{"tokens": [1.5]}', "expected integer, got number"),
        (b'{"tokens": 1, "int": 1}', "expected array, got number"),
    ],
)  # fmt: skip
def test_what_a_body_is(server, body, told):
    _, _, data = server.request("POST", "/detokenize", body)
    error = json.loads(data)["error"]
    assert told in error["message"] + error["found"]


def test_a_field_with_the_name_of_a_type_keeps_it():
    """An error about `float` was one about `number`, which nobody had sent."""
    cls = msgspec.defstruct("Options", [("float", Annotated[float, msgspec.Meta(ge=1)]), ("str", list[str])])
    for value, told in {
        "a": "Expected `number`, got `string` - at `$.float`", 0: "Expected `number` >= 1.0 - at `$.float`",
    }.items():  # fmt: skip
        with pytest.raises(msgspec.ValidationError) as error:
            convert({"float": value, "str": []}, cls)
        assert str(error.value) == told
    with pytest.raises(msgspec.ValidationError, match=r"Expected `string`, got `number` - at `\$\.str\[0\]`"):
        convert({"float": 1, "str": [1]}, cls)
