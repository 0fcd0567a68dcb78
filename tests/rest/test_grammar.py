"""Constrained answers over HTTP: GBNF, JSON Schema, expressions and choices, in every API that has a name for them."""

from __future__ import annotations

import json
import re

import pytest

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
}
TALK = [{"role": "user", "content": "Who are you?"}]


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"grammar": 'root ::= "yes" | "no"'}, "yes|no"),
        ({"regex": "[a-z]{3}-[0-9]{2}"}, "[a-z]{3}-[0-9]{2}"),
        ({"choices": ["Lily", "Tom"]}, "Lily|Tom"),
        ({"lark": 'start: NAME ("," NAME)~1..2\nNAME: /[a-z]{2}/'}, "[a-z]{2}(,[a-z]{2}){1,2}"),
    ],
)
def test_completions_keep_to_it(server, fields, pattern):
    for seed in range(4):
        body = {"prompt": "Once upon a time", "n_predict": 40, "seed": seed, "temperature": 1.5} | fields
        status, found = server.post("/completion", body)
        assert status == 200, found
        assert re.fullmatch(pattern, found["content"]), found["content"]
        streamed = "".join(e["content"] for e in server.events("/completion", body | {"stream": True}))
        assert streamed == found["content"]


@pytest.mark.parametrize("seed", range(3))
def test_schemas_in_every_api(server, seed):
    body = {"seed": seed, "temperature": 1.2, "max_tokens": 80}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    status, chat = server.post("/v1/chat/completions", body | {"messages": TALK, "response_format": form})
    assert status == 200, chat
    texts = [chat["choices"][0]["message"]["content"]]
    options = {"seed": seed, "num_predict": 80}
    texts.append(
        server.post("/api/chat", {"messages": TALK, "stream": False, "format": PERSON, "options": options})[1][
            "message"
        ]["content"]
    )
    texts.append(
        server.post("/completion", {"prompt": "A person:", "json_schema": PERSON, "n_predict": 80, "seed": seed})[1][
            "content"
        ]
    )
    for text in texts:
        value = json.loads(text)
        assert 0 <= value["age"] <= 99
        assert len(value["name"]) <= 12


def test_any_json_object(server):
    form = {"type": "json_object"}
    status, found = server.post(
        "/v1/chat/completions", {"messages": TALK, "response_format": form, "max_tokens": 300, "temperature": 0}
    )
    assert status == 200
    assert found["choices"][0]["message"]["content"].lstrip().startswith("{")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"grammar": "root ::= ("}, "grammar"),
        ({"json_schema": {"not": {}}}, "json_schema"),
        ({"regex": "(?=x)"}, "regex"),
        ({"lark": "start: a"}, "lark"),
        ({"grammar": 'root ::= "a"', "regex": "a"}, "grammar"),
        ({"grammar": "root ::= " + "(" * 50_000}, "grammar"),
    ],
)
def test_what_is_wrong_with_a_grammar_is_said(server, fields, param):
    status, found = server.post("/completion", {"prompt": "x"} | fields)
    assert status == 400
    assert found["error"]["param"] == param


def test_an_answer_ends_where_the_grammar_leaves_nothing(server):
    body = {"prompt": "x", "grammar": 'root ::= "b"', "ignore_eos": True, "n_predict": 20}
    found = server.post("/completion", body)[1]
    assert (found["content"], found["stop_type"]) == ("b", "grammar")
    chat = {"messages": TALK, "grammar": 'root ::= "b"', "ignore_eos": True, "max_tokens": 20}
    found = server.post("/v1/chat/completions", chat)[1]
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["llamakit"]["stop_reason"] == "grammar"


def test_the_same_seed_gives_the_same_text_as_long_as_the_grammar_allows_it(server):
    body = {"prompt": "Once upon a time", "n_predict": 25, "seed": 9}
    plain = server.post("/completion", body)[1]["content"]
    assert server.post("/completion", body | {"grammar": "root ::= .*"})[1]["content"] == plain


def test_beams_and_several_answers_keep_to_it(server):
    body = {"prompt": "Once", "n_predict": 12, "grammar": "root ::= [a-f ]+", "n": 2}
    for more in ({}, {"n_beams": 3}):
        for answer in server.post("/completion", body | more)[1]:
            assert re.fullmatch("[a-f ]+", answer["content"])


@pytest.mark.usefixtures("stories260k")
def test_a_search_ends_where_the_grammar_does(server):
    body = {
        "prompt": "Once",
        "n_predict": 12,
        "grammar": 'root ::= "ab" | "ba"',
        "n": 2,
        "n_beams": 3,
        "ignore_eos": True,
    }
    answers = server.post("/completion", body)[1]
    assert {answer["content"] for answer in answers} == {"ab", "ba"}
    only = server.post("/completion", body | {"grammar": 'root ::= "ab"'})[1]
    assert only[0]["content"] == "ab"
    assert len(only) == 2


@pytest.mark.parametrize(
    "fields", [{"grammar": 'root ::= "a"'}, {"lark": 'start: "a"'}, {"regex": "a"}, {"choices": ["a"]}]
)
def test_without_the_sampler_each_of_them_is_an_error(without_grammar, fields):
    status, found = without_grammar.post("/completion", {"prompt": "x", "n_predict": 1} | fields)
    assert status == 400
    assert found["error"]["param"] == next(iter(fields))
    absent = {"grammar": "", "lark": "", "regex": "", "choices": [], "json_schema": None}
    assert without_grammar.post("/completion", {"prompt": "x", "n_predict": 1} | absent)[0] == 200


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"structured_outputs": {"regex": "[a-z]{3}"}}, "[a-z]{3}"),
        ({"structured_outputs": {"choice": ["Lily", "Tom"]}}, "Lily|Tom"),
        ({"guided_choice": ["Lily", "Tom"]}, "Lily|Tom"),
        ({"guided_json": {"type": "boolean"}}, "true|false"),
        ({"guided_grammar": 'root ::= "a" | "b"'}, "a|b"),
        (
            {
                "response_format": {
                    "type": "structural_tag",
                    "format": {
                        "type": "tag", "begin": "<n>", "end": "</n>",
                        "content": {"type": "json_schema", "json_schema": {"type": "boolean"}},
                    },
                }
            },
            "<n>(true|false)</n>",
        ),
    ],
)  # fmt: skip
def test_vllms_names_and_structural_tags(server, fields, pattern):
    body = {"messages": TALK, "max_tokens": 40, "temperature": 1.5, "seed": 1} | fields
    status, found = server.post("/v1/chat/completions", body)
    assert status == 200, found
    assert re.fullmatch(pattern, found["choices"][0]["message"]["content"])


def test_structured_outputs_that_are_none(server):
    status, found = server.post("/v1/chat/completions", {"messages": TALK, "structured_outputs": [1]})
    assert status == 400
    assert found["error"]["param"] == "structured_outputs"


LOOSE = {  # as zod and pydantic write them: of each property something that no grammar can keep to
    "type": "object",
    "properties": {
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "uniqueItems": True, "maxItems": 2},
        "home": {"type": "string", "format": "of-a-later-day", "maxLength": 4},
        "code": {"type": "string", "pattern": "a(?=b)b", "maxLength": 4},
    },
    "required": ["tags", "home", "code"],
}
LEFT_OUT = "schema#/properties/tags/uniqueItems, schema#/properties/home/format, schema#/properties/code/pattern"


def asks(schema, **more):
    """A schema in the words of each API: route and body."""
    limit = {"max_tokens": 60}
    return {
        "openai": ("/v1/chat/completions", limit | {"messages": TALK, "response_format": {
            "type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}}),
        "responses": ("/v1/responses", {"max_output_tokens": 60, "input": "Who?", "text": {
            "format": {"type": "json_schema", "name": "x", "schema": schema, **more}}}),
        "anthropic": ("/v1/messages", limit | {"messages": TALK, "output_config": {
            "format": {"type": "json_schema", "schema": schema, **more}}}),
        "ollama": ("/api/chat", {"messages": TALK, "stream": False, "format": schema, "options": {"num_predict": 60}}),
        "json_object": ("/v1/chat/completions", limit | {"messages": TALK, "response_format": {
            "type": "json_object", "schema": schema}}),
    }  # fmt: skip


@pytest.mark.parametrize("api", ["openai", "responses", "anthropic", "ollama", "json_object"])
def test_schemas_are_lenient_and_what_is_left_out_is_named(server, api):
    path, body = asks(LOOSE)[api]
    status, headers, data = server.request("POST", path, body)
    assert status == 200, data
    assert headers["X-Ignored-Fields"] == LEFT_OUT
    path, body = asks({"type": "object", "properties": {"n": {"const": 7}}, "required": ["n"]})[api]
    _, headers, data = server.request("POST", path, body)
    assert re.search(rb'"n\\":\s*7', data.replace(b"\\n", b"")), data
    assert "X-Ignored-Fields" not in headers


@pytest.mark.parametrize("api", ["openai", "responses", "anthropic"])
def test_strict_schemas_are_kept_to_or_refused(server, api):
    path, body = asks(LOOSE, strict=True)[api]
    status, found = server.post(path, body)
    assert status == 400
    assert "uniqueItems" in found["error"]["message"]


def test_a_form_of_texts_has_nothing_to_say_where_a_tool_must_be_called(server):
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"const": 1}}}}
    path, body = asks(LOOSE)["responses"]
    status, found = server.post(path, body | {"tools": [tool], "tool_choice": "required"})
    assert status == 200
    assert [item["type"] for item in found["output"]] == ["function_call"]
