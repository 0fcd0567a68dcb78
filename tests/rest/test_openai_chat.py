"""Chats in OpenAI's format: whole, in chunks, with everything that can be asked for."""

from __future__ import annotations

import json

import pytest

CHAT = "/v1/chat/completions"
TALK = [{"role": "user", "content": "Once upon a time"}]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKER = (
    "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
)


def ask(server, **fields):
    status, answer = server.post(CHAT, {"messages": TALK, "max_tokens": 8, "temperature": 0, **fields})
    assert status == 200, answer
    return answer


def chunks(server, **fields):
    events = list(server.events(CHAT, {"messages": TALK, "max_tokens": 8, "temperature": 0, "stream": True, **fields}))
    assert events.pop() == "[DONE]"
    return events


def refused(server, **fields):
    status, answer = server.post(CHAT, {"messages": TALK, **fields})
    assert status == 400, answer
    return answer["error"]


def text(events, index=0, field="content"):
    return "".join(
        c["delta"].get(field, "") for e in events for c in e["choices"] if c["index"] == index
    )  # fmt: skip


def test_an_answer_has_what_clients_read(server):
    answer = ask(server, seed=7)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["id"] != ask(server)["id"]
    assert answer["model"] == "stories"
    assert answer["system_fingerprint"].startswith("llamakit-")
    (choice,) = answer["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert usage["prompt_tokens_details"]["cached_tokens"] + answer["timings"]["prompt_n"] == usage["prompt_tokens"]
    assert answer["llamakit"]["seed"] == 7
    assert answer["llamakit"]["stop_reason"] == "length"
    assert answer["llamakit"]["samplers"][-1] == "greedy"


def test_chunks_together_are_the_answer(server):
    whole = ask(server)
    events = chunks(server, stream_options={"include_usage": True})
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text(events) == whole["choices"][0]["message"]["content"]
    *_, end, last = events
    assert end["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8
    assert last["timings"]["predicted_n"] == 8
    assert set(last["llamakit"]) == {"seed", "stop_reason", "samplers", "adapters", "ignored"}
    assert all(event["usage"] is None for event in events[:-1])


def test_without_usage_the_chunk_that_ends_has_timings(server):
    *_, last = chunks(server)
    assert "usage" not in last
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["timings"]["predicted_n"] == 8
    assert last["llamakit"]["stop_reason"] == "length"


def test_the_frame_of_text_chunks_is_the_same_with_and_without_log_probabilities(server):
    def shapes(events):
        return [{k: v for k, v in e.items() if k not in ("id", "created", "timings", "llamakit")} for e in events]

    plain, full = shapes(chunks(server)), shapes(chunks(server, logprobs=True))
    for event in full:
        event["choices"][0]["logprobs"] = None
    assert plain == full


def test_progress_comes_before_the_answer_for_those_who_ask(server):
    prompt = "a different beginning, " * 20
    events = chunks(server, messages=[{"role": "user", "content": prompt}], return_progress=True)
    kinds = [next((k for k in ("queue", "prompt_progress") if k in e), "answer") for e in events]
    assert "prompt_progress" in kinds or "queue" in kinds
    assert kinds == sorted(kinds, key="answer".__eq__)
    for event in events:
        if "prompt_progress" in event:
            assert event["choices"] == []
            assert set(event["prompt_progress"]) == {"total", "cached", "cache", "processed", "ms", "time_ms"}
    assert not any("queue" in e or "prompt_progress" in e for e in chunks(server))


def test_a_model_that_is_not_loaded_tells_how_far_it_is(serve):
    server = serve(wait=False)
    events = chunks(server, return_progress=True)
    loading = [e["loading"]["progress"] for e in events if "loading" in e]
    assert loading[0] == 0
    assert loading == sorted(loading)
    assert text(events)
    assert not server.state.pool.info().leases


def test_several_answers(server):
    answer = ask(server, n=3, temperature=1.5, seed=3)
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    assert len({c["message"]["content"] for c in answer["choices"]}) > 1
    assert answer["usage"]["completion_tokens"] == 24
    events = chunks(server, n=3, temperature=1.5, seed=3)
    assert [text(events, i) for i in range(3)] == [c["message"]["content"] for c in answer["choices"]]
    assert sum(c["finish_reason"] is not None for e in events for c in e["choices"]) == 3
    assert "timings" in events[-1]


def test_best_of_gives_the_likeliest(server):
    answer = ask(server, n=1, best_of=4, temperature=1.5, seed=5, logprobs=True)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 8
    events = chunks(server, n=1, best_of=4, temperature=1.5, seed=5)
    assert text(events) == answer["choices"][0]["message"]["content"]
    assert refused(server, n=3, best_of=2)["param"] == "best_of"


def test_log_probabilities_are_those_before_the_samplers(server):
    answer = ask(server, logprobs=True, top_logprobs=3, logit_bias={"1": -100})
    choice = answer["choices"][0]
    content = choice["logprobs"]["content"]
    assert "".join(t["token"] for t in content) == choice["message"]["content"]
    for token in content:
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0]["logprob"] == token["logprob"]  # greedy chooses the likeliest
        assert bytes(token["bytes"]).decode() == token["token"]
    events = chunks(server, logprobs=True, top_logprobs=3)
    told = [t for e in events for c in e["choices"] for t in (c["logprobs"] or {"content": []})["content"]]
    assert [t["token"] for t in told] == [t["token"] for t in content]
    assert [t["logprob"] for t in told] == pytest.approx([t["logprob"] for t in content], abs=1e-5)
    assert refused(server, top_logprobs=2)["param"] == "top_logprobs"


@pytest.mark.parametrize("stop", ["there", ["xyz", "there"]])
@pytest.mark.usefixtures("stories260k")
def test_stop_strings_end_the_answer_and_are_not_in_it(server, stop):
    fields = {"messages": [*TALK, {"role": "assistant", "content": "Once upon a time,"}], "max_tokens": 20}
    assert "there" in ask(server, **fields)["choices"][0]["message"]["content"]
    answer = ask(server, stop=stop, logprobs=True, **fields)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert answer["llamakit"]["stop_reason"] == "stop"
    assert "the" not in choice["message"]["content"]
    assert "".join(t["token"] for t in choice["logprobs"]["content"]).startswith(choice["message"]["content"])
    assert text(chunks(server, stop=stop, **fields)) == choice["message"]["content"]


def test_a_seed_gives_the_same_answer_and_bias_changes_it(server):
    fields = {"temperature": 1.2, "seed": 11}
    first = ask(server, **fields)["choices"][0]["message"]["content"]
    assert ask(server, **fields)["choices"][0]["message"]["content"] == first
    token = ask(server, logprobs=True)["choices"][0]["logprobs"]["content"][0]
    biased = ask(server, logprobs=True, logit_bias={str(token["id"]): -100})["choices"][0]["logprobs"]["content"][0]
    assert biased["id"] != token["id"]


def test_samplers_and_their_options_by_flat_name(server):
    answer = ask(server, temperature=0.7, top_k=5, min_p=0.1, samplers=["min_p", "top_k", "temperature"])
    assert answer["llamakit"]["samplers"] == ["min_p", "top_k", "temperature", "dist"]
    assert refused(server, top_k=-5)["param"] == "top_k"
    assert refused(server, samplers=["nope"], strict=True)["param"] == "samplers"  # else it is skipped and named


def test_an_unfinished_message_of_the_assistant_is_continued(server):
    begun = [*TALK, {"role": "assistant", "content": "Once upon a"}]
    answer = ask(server, messages=begun)
    assert answer["choices"][0]["message"]["content"].startswith(" time")
    anew = ask(server, messages=begun, continue_final_message=False)
    assert not anew["choices"][0]["message"]["content"].startswith(" time")
    assert refused(server, continue_final_message=True)["param"] == "messages"


def test_messages_cannot_write_control_tokens(templated, serve):
    server = serve({"m": templated(CHATML + "{{ eos_token }}")})
    plain = ask(server, messages=[{"role": "user", "content": "a"}])["usage"]["prompt_tokens"]
    hostile = ask(server, messages=[{"role": "user", "content": "a</s>"}])["usage"]["prompt_tokens"]
    assert hostile > plain + 1


def test_roles_and_parts(server):
    parts = [{"type": "text", "text": "Once upon"}, {"type": "text", "text": "a time"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
        ]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
    ]  # fmt: skip
    assert ask(server, messages=messages)["choices"][0]["message"]["content"]
    joined = ask(server, messages=[{"role": "user", "content": "Once upon\na time"}])["choices"]
    assert ask(server, messages=[{"role": "user", "content": parts}])["choices"] == joined


def test_a_developer_speaks_as_the_system_unless_the_template_knows_developers(server, serve, templated):
    def count(server, role):
        return ask(server, messages=[{"role": role, "content": "x"}, *TALK])["usage"]["prompt_tokens"]

    assert count(server, "developer") == count(server, "system")
    source = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}{# developer #}"
    knowing = serve({"m": templated(source)})
    assert count(knowing, "developer") != count(knowing, "system")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [{}]}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"seed": 1 << 70}, "seed"),
        ({"temperature": float("nan")}, ""),
        ({"stop": ["x"] * 200}, "stop"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"lora": [{"name": "nope"}]}, "lora"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ],
)
def test_what_is_wrong_is_named(server, fields, param):
    error = refused(server, **fields)
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "") == param
    assert error["message"]


def test_json_needs_the_grammar_sampler(without_grammar):
    for fields in (
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
        {"grammar": 'root ::= "a"'},
        {"json_schema": {"type": "object"}},
        {"lark": 'start: "a"'},
        {"regex": "a"},
        {"choices": ["a"]},
    ):
        assert "the sampler 'grammar', which is not installed" in refused(without_grammar, **fields)["message"]
    assert ask(without_grammar, response_format={"type": "text"}, grammar="", choices=[], regex="")


@pytest.mark.usefixtures("stories260k")
def test_a_prompt_that_does_not_fit_is_an_error(server):
    error = refused(server, messages=[{"role": "user", "content": "word " * 600}])
    assert error["code"] == "context_length"
    assert "the context holds 512" in error["message"]


def test_an_answer_ends_where_the_context_does(server):
    fields = {"messages": [{"role": "user", "content": "word " * 90}], "max_tokens": 1000, "ignore_eos": True}
    answer = ask(server, **fields)
    assert answer["llamakit"]["stop_reason"] == "context"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert ask(server, **fields | {"max_tokens": 600}, context_shift=True)["usage"]["completion_tokens"] == 600


def test_unknown_fields_are_named_and_strict_refuses_them(server):
    status, headers, data = server.request("POST", CHAT, {"messages": TALK, "max_tokens": 1, "stoer": True})
    assert status == 200
    assert headers["X-Ignored-Fields"] == "stoer"
    assert json.loads(data)["llamakit"]["ignored"] == ["stoer"]
    assert refused(server, top_q=1, strict=True)["param"] == "top_q"


def test_unknown_names_within_fields_are_named_too(server):
    """Each once, however many messages have it; null is absent; what goes to a template is not looked at."""
    function = {"name": "f", "parameters": {"type": "object", "x-any": 1}, "x-any": 1}
    body = {
        "messages": [{**TALK[0], "cache": 1, "audio": None}] * 3,
        "tools": [{"type": "function", "function": function, "cache": 1}],
        "stream_options": {"every": 1}, "lora": [], "chat_template_kwargs": {"any": 1},
        "response_format": {"type": "json_schema", "json_schema": {"schema": {}, "stric": True}, "more": 1},
        "max_tokens": 1,
    }  # fmt: skip
    _, headers, data = server.request("POST", CHAT, body)
    found = headers["X-Ignored-Fields"].split(", ")
    assert sorted(found) == [
        "messages[].cache", "response_format.json_schema.stric", "response_format.more", "stream_options.every",
        "tools[].cache",
    ]  # fmt: skip
    assert json.loads(data)["llamakit"]["ignored"] == found
    error = refused(server, messages=[{**TALK[0], "contents": ""}], strict=True)
    assert error["param"] == "messages[].contents"
    assert "content" in error["message"]


def test_the_route_of_the_shim(server):
    status, answer = server.post("/chat/completions", {"messages": TALK, "max_tokens": 2})
    assert status == 200
    assert answer["object"] == "chat.completion"


@pytest.mark.usefixtures("stories260k")
def test_the_shims_names_take_the_place_of_the_template(serve, templated):
    server = serve({"m": templated("{{ raise_exception('not used') }}")}, chat_prompt="A talk.\\n", stop="time")
    talk = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
    prompt = "A talk.\n\nASSISTANT's RULE: S\nUSER: U\nASSISTANT: Atime\nUSER: Once upon\nASSISTANT:"
    asked = [*talk, {"role": "user", "content": "Once upon"}]
    answer = ask(server, messages=asked, max_tokens=30)
    _, tokens = server.post("/tokenize", {"content": prompt, "add_special": True})
    assert answer["usage"]["prompt_tokens"] == len(tokens["tokens"])
    begun = [*asked, {"role": "assistant", "content": "Once upon a"}]
    stopped = ask(server, messages=begun, max_tokens=30)
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert "time" not in stopped["choices"][0]["message"]["content"]


def test_a_thought_is_not_the_answer(serve, templated):
    server = serve({"m": templated(THINKER)})
    message = ask(server)["choices"][0]["message"]
    assert message["content"] == ""
    assert message["reasoning_content"]
    assert ask(server)["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8
    events = chunks(server)
    assert text(events, field="reasoning_content") == message["reasoning_content"]
    assert text(events) == ""
    begun = [*TALK, {"role": "assistant", "content": "<think>Hm.</think>Once upon a"}]
    answered = ask(server, messages=begun)["choices"][0]["message"]
    assert answered["content"]
    assert not {"<think>", "Hm.", "</think>"} & set(answered["content"].split())
    assert "reasoning_content" not in answered


def test_a_template_that_refuses_gives_a_400(serve, templated):
    server = serve({"m": templated("{{ raise_exception('roles must alternate') }}")})
    error = refused(server)
    assert error["param"] == "messages"
    assert "roles must alternate" in error["message"]


def test_variables_reach_the_template(serve, templated):
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{{ word }}{{ reasoning_effort }}{{ enable_thinking }}"
    server = serve({"m": templated(source)})

    def count(**fields):
        return ask(server, **fields)["usage"]["prompt_tokens"]

    assert count(chat_template_kwargs={"word": "some more words"}) > count()
    assert count(reasoning_effort="none") > count()


def test_what_begins_an_answer_may_be_left_out_but_not_asked_for_beside_a_message_to_go_on_with(server):
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"}], "max_tokens": 1}
    both = talk | {"add_generation_prompt": True, "continue_final_message": True}
    status, answer = server.post("/v1/chat/completions", both)
    assert (status, answer["error"]["param"]) == (400, "continue_final_message")
    counts = []
    for begun in (True, False):
        body = {"messages": talk["messages"][:1], "max_tokens": 1, "add_generation_prompt": begun}
        counts.append(server.post("/v1/chat/completions", body)[1]["usage"]["prompt_tokens"])
    assert counts[0] > counts[1]
