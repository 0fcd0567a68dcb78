"""Answers that think and call tools: what is read of a job's events, and how each API writes it. No model is run."""

from __future__ import annotations

import json

import pytest
from llamakit.plugins.frontends.rest.answer import AnswerReader, gather
from llamakit.plugins.frontends.rest.apis.anthropic.answer import MessageAnswer
from llamakit.plugins.frontends.rest.apis.ollama.answer import Answer as OllamaAnswer
from llamakit.plugins.frontends.rest.apis.ollama.generate import Chat
from llamakit.plugins.frontends.rest.apis.openai.chat import ChatAnswer, ChatBody
from llamakit.plugins.frontends.rest.apis.responses.answer import ResponseAnswer
from llamakit.plugins.frontends.rest.apis.responses.fields import ResponsesBody
from llamakit.plugins.frontends.rest.chat import Conversation, Prompt, make_prompt
from llamakit.plugins.frontends.rest.generation import batches
from llamakit.plugins.frontends.rest.messages import conversation
from llamakit.plugins.frontends.rest.options import ServeOptions

from llamakit import Session
from llamakit.chat.reasoning import KNOWN
from llamakit.chat.tools import HERMES
from llamakit.engine.job import Finished, Job, Token
from llamakit.engine.request import FinishReason, Piece, Request, Result, Timings
from llamakit.errors import UsageError
from llamakit.registry import Registry

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
CALL = '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call>'
TEXT = f"<think>\nHm, a sum.\n</think>\n\nLet me add.\n{CALL}"
PROMPT = Prompt(tokens=[1, 2], markers=KNOWN[0], schemas={"add": None}, format=HERMES)


def job_of(text, size, reason=FinishReason.END):
    """A job whose answer is `text` in pieces of `size` characters."""
    job = Job(Request(prompt=[1, 2]))
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for piece in pieces:
        job.emit(Token(0, Piece(token_id=5, text=piece)))
    timings = Timings(n_prompt=2, n_generated=len(pieces), n_cached=1)
    job.emit(Finished(0, Result(tokens=[5] * len(pieces), text=text, tail="", reason=reason, timings=timings)))
    return job


def read(reader, job):
    """What a reader makes of a job."""
    return [part for events in batches(job) for part in reader.read(events)]


@pytest.fixture(scope="module")
def session(small_model):
    with Session(small_model) as session:
        yield session


@pytest.fixture(params=[1, 3, 1000])
def job(request):
    return job_of(TEXT, request.param)


def test_the_reader_tells_thought_text_and_call_apart(job):
    (whole,) = gather(read(AnswerReader(PROMPT, 1), job))
    assert whole.reasoning == "Hm, a sum."
    assert whole.content == "Let me add."
    assert [(c.name, c.arguments) for c in whole.calls] == [("add", '{"x": 1}')]
    assert whole.done.called
    assert 0 <= whole.done.n_reasoning <= 27


def test_openai(job, session):
    fields = ChatBody(messages=[])
    make = lambda: ChatAnswer(session, "m", fields, job.request, AnswerReader(PROMPT, 1), ())  # noqa: E731
    events = [json.loads(data[6:]) for data in b"".join(make().stream([job])).split(b"\n\n")[:-2]]
    deltas = [e["choices"][0]["delta"] for e in events]
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "Hm, a sum."
    assert "".join(d.get("content", "") for d in deltas) == "Let me add."
    call, *more = [c for d in deltas for c in d.get("tool_calls", [])]
    assert {each["index"] for each in (call, *more)} == {0}
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "add"
    assert not any("id" in each or "name" in each["function"] for each in more)
    assert "".join(each["function"]["arguments"] for each in (call, *more)) == '{"x": 1}'
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    (choice,) = make().answer([job_of(TEXT, 4)])["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me add."
    assert choice["message"]["reasoning_content"] == "Hm, a sum."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "add"
    (only,) = make().answer([job_of(CALL, 4)])["choices"]
    assert only["message"]["content"] is None


def test_anthropic(job):
    make = lambda: MessageAnswer("m", job.request, AnswerReader(PROMPT, 1), ())  # noqa: E731
    events = [json.loads(part.split(b"data: ")[1]) for part in b"".join(make().stream([job])).split(b"\n\n")[:-1]]
    kinds = [e["type"] for e in events]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    starts = [(e["index"], e["content_block"]["type"]) for e in events if e["type"] == "content_block_start"]
    assert starts == [(0, "thinking"), (1, "text"), (2, "tool_use")]
    assert [e["index"] for e in events if e["type"] == "content_block_stop"] == [0, 1, 2]
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    assert "".join(d.get("thinking", "") for d in deltas) == "Hm, a sum."
    assert "".join(d.get("text", "") for d in deltas) == "Let me add."
    assert "".join(d.get("partial_json", "") for d in deltas) == '{"x": 1}'
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    whole = make().answer([job_of(TEXT, 4)])
    assert [b["type"] for b in whole["content"]] == ["thinking", "text", "tool_use"]
    assert whole["content"][2]["input"] == {"x": 1}
    assert whole["stop_reason"] == "tool_use"


def test_ollama(job, session):
    make = lambda: OllamaAnswer(  # noqa: E731
        "m", session.tokenizer, job.request, AnswerReader(PROMPT, 1), part=Chat.part, began=0, loaded=0
    )
    lines = [json.loads(line) for line in b"".join(make().stream([job])).splitlines()]
    assert "".join(line["message"].get("thinking", "") for line in lines) == "Hm, a sum."
    assert "".join(line["message"]["content"] for line in lines) == "Let me add."
    calls = [c for line in lines for c in line["message"].get("tool_calls", [])]
    assert calls == [{"function": {"name": "add", "arguments": {"x": 1}}}]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert make().answer([job_of(TEXT, 4)])["message"]["tool_calls"] == calls


def test_responses(job):
    fields = ResponsesBody(input="x")
    make = lambda: ResponseAnswer("m", fields, job.request, AnswerReader(PROMPT, 1), ())  # noqa: E731
    events = [json.loads(part.split(b"data: ")[1]) for part in b"".join(make().stream([job])).split(b"\n\n")[:-1]]
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    output = events[-1]["response"]["output"]
    assert events[-1]["type"] == "response.completed"
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == output
    assert output[0]["content"][0]["text"] == "Hm, a sum."
    assert output[1]["content"][0]["text"] == "Let me add."
    assert (output[2]["name"], output[2]["arguments"]) == ("add", '{"x": 1}')
    places = [e["output_index"] for e in events if "output_index" in e]
    assert places == sorted(places)

    def bare(items):
        return [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in items]

    assert bare(make().answer([job_of(TEXT, 4)])["output"]) == bare(output)


def test_an_answer_cut_by_its_limit_says_so(session):
    job = job_of("<think>too lo", 3, FinishReason.LENGTH)
    whole = ResponseAnswer("m", ResponsesBody(input="x"), job.request, AnswerReader(PROMPT, 1), ()).answer([job])
    assert whole["status"] == "incomplete"
    assert whole["output"][0]["status"] == "incomplete"
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    answer = MessageAnswer("m", job.request, AnswerReader(PROMPT, 1), ())
    assert answer.answer([job_of("abc", 1, FinishReason.LENGTH)])["stop_reason"] == "max_tokens"


class State:
    options = ServeOptions()
    registry = Registry.discover()


@pytest.mark.parametrize(
    "source", ["{% for m in messages %}{{ m.content }}{% endfor %}", "<tool_call>{{ tools | tojson }}"]
)
def test_tools_reach_the_model_whatever_its_template_knows(session, source):
    from llamakit.chat.template import ChatTemplate

    session.__dict__["chat_template"] = ChatTemplate(source)
    talk = conversation([{"role": "user", "content": "1 + 1?"}], tools=TOOLS)
    prompt = make_prompt(State, session, talk)
    assert '"name"' in session.detokenize(prompt.tokens)
    assert prompt.tool_names == {"add"}
    text = CALL if "<tool" in source else '{"name": "add", "arguments": {"x": 1}}'
    (whole,) = gather(read(AnswerReader(prompt, 1), job_of(text, 2)))
    assert [(c.name, c.arguments) for c in whole.calls] == [("add", '{"x": 1}')]
    assert whole.content == ""


def test_a_begun_message_cannot_become_a_call(session):
    talk = Conversation(
        messages=[{"role": "assistant", "content": "x"}], tools=TOOLS, must_call="add", continue_last=True
    )  # fmt: skip
    with pytest.raises(UsageError, match="cannot become a call"):
        make_prompt(State, session, talk)


@pytest.mark.parametrize(
    ("choice", "tools", "must"),
    [(None, 1, None), ("auto", 1, None), ("none", 0, None), ("required", 1, ""), (TOOLS[0], 1, "add")],
)
def test_tool_choice(choice, tools, must):
    talk = conversation([{"role": "user", "content": "x"}], tools=TOOLS, tool_choice=choice)
    assert (len(talk.tools), talk.must_call) == (tools, must)
