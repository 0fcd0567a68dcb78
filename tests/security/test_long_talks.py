"""Long conversations take time by their length, not by its square: one of 10,000 messages took minutes."""

from __future__ import annotations

import gc
import json
import sys

import pytest

from llamakit import Session
from llamakit.bounded_json import NestedJson
from llamakit.chat import fit
from llamakit.chat.profile import Profile
from llamakit.chat.template import FALLBACK, ChatTemplate
from llamakit.chat.tools import ToolFormat
from llamakit.chat.tools.python import PythonCallReader
from llamakit.errors import DataError
from llamakit.train import mask
from llamakit.train.data.files import Place
from llamakit.train.data.records import Record
from tests.timing import is_quick

N = 8_000


def calls(n):
    return [{"id": f"c{i}", "type": "function", "function": {"name": f"f{i}", "arguments": {}}} for i in range(n)]


def results(n, *, named):
    keys = [{"name": f"f{i}"} if named else {"tool_call_id": f"c{i}"} for i in reversed(range(n))]
    return [{"role": "tool", "content": "x", **key} for key in keys]


def in_time(work):
    """What some work gives, which takes less than a second."""
    made = []
    gc.disable()  # it would look at all objects of the tests before
    try:
        assert is_quick(1, lambda: made.append(work()))
    finally:
        gc.enable()
    return made[0]


@pytest.mark.parametrize("named", [False, True])
def test_results_find_their_calls(named):
    talk = [{"role": "assistant", "content": "", "tool_calls": calls(N)}, *results(N, named=named)]
    made = in_time(lambda: fit.with_ids(talk))
    assert [(each["tool_call_id"], each["name"]) for each in made[1:3]] == [(f"c{N - i}", f"f{N - i}") for i in (1, 2)]
    assert made[-1]["tool_call_id"] == "c0"


def test_results_without_id_and_name_find_their_calls():
    n = 8 * N
    talk = [{"role": "assistant", "content": "", "tool_calls": calls(n)}, *[{"role": "tool", "content": "x"}] * n]
    made = in_time(lambda: fit.with_ids(talk))
    assert [(each["tool_call_id"], each["name"]) for each in made[1:]] == [(f"c{i}", f"f{i}") for i in range(n)]


@pytest.mark.parametrize("named_ids", [False, True])
def test_ids_that_are_no_texts_are_of_no_call(named_ids):
    talk = [{"role": "assistant", "content": "", "tool_calls": calls(2)},
            {"role": "tool", "content": "x", "tool_call_id": ["a"]}, {"role": "tool", "content": "x", "name": ["f0"]},
            {"role": "tool", "content": "x"}]  # fmt: skip
    made, _ = fit.fitted(talk, None, Profile(calls=True, results=True, named_ids=named_ids))
    assert made[1]["tool_call_id"] == ["a"]
    assert "tool_call_id" not in made[2]
    assert made[3]["name"] == "f0"


def test_calls_are_told_one_by_one():
    talk = [{"role": "assistant", "content": "", "tool_calls": calls(N)}, *results(N, named=False)]
    made = in_time(lambda: fit._one_by_one(fit.with_ids(talk)))
    assert len(made) == 2 * N


def test_messages_and_results_in_a_row_are_joined():
    text = "x" * 3000
    made = in_time(lambda: fit._alternating([{"role": "user", "content": text}] * N))
    assert [len(each["content"]) for each in made] == [3002 * N - 2]
    talk = [{"role": "tool", "content": text}] * N
    made = in_time(lambda: fit._as_text(talk, Profile(results=False), NestedJson()))
    assert [each["content"].count(text) for each in made] == [N]


def test_a_call_as_in_python_is_followed_once():
    """It was looked through from its beginning with each token: a long one took seconds, and kept others waiting."""
    reader = PythonCallReader(ToolFormat(name="p", arguments="python", bare=True), ["f"])
    text, n = '[f(x="' + '(\\"' * 100 + '", y=[1, "]"])] and text', [0]

    def note(frame, event, what):
        n[0] += 1
        return note

    sys.settrace(note)
    try:
        told = [reader.push(letter) for letter in text]
    finally:
        sys.settrace(None)
    assert n[0] < 200 * len(text)
    calls = [call for _, deltas in told for call in deltas]
    assert [(call.name, call.arguments) for call in calls] == [("f", json.dumps({"x": '("' * 100, "y": [1, "]"]}))]
    assert "".join(shown for shown, _ in told) == "and text"


def test_calls_as_in_python_that_are_whole_are_told_where_the_list_is_cut():
    """Of ten calls only the name of the first one was told."""
    text = '[f(x=1), g(y="a, [b"), f(x=2)] and text'
    told = {'f {"x": 1}': 8, 'g {"y": "a, [b"}': 21, 'f {"x": 2}': 29}
    for n in range(9, text.index("]") + 9):
        reader = PythonCallReader(ToolFormat(name="p", arguments="python", bare=True), ["f", "g"])
        found = [reader.push(letter) for letter in text[: min(n, 29)]] + [reader.flush(cut=True)]
        assert "".join(shown for shown, _ in found) == ""
        calls = [call for _, deltas in found for call in deltas]
        whole = [f"{call.name} {call.arguments}" for call in calls if call.arguments]
        assert whole == [call for call, end in told.items() if end <= min(n, 29)]
        assert [call.index for call in calls] == list(range(len(calls)))
        assert reader.cut


# -- to train on ------------------------------------------------------------------------------------------------------


def test_a_conversation_to_train_on_is_not_written_out_without_end(monkeypatch):
    """For each answer all before it is written: 640 KB took an hour and more memory than there was."""
    rendered = []
    monkeypatch.setattr(mask, "chat_prompt", lambda template, tokenizer, messages, **how: rendered.append(messages))
    encoder = mask.Encoder(None, ChatTemplate(FALLBACK))
    messages = [{"role": role, "content": "a"} for _ in range(5000) for role in ("user", "assistant")]
    with pytest.raises(DataError, match="the conversation is too long: 5,000 answers") as caught:
        encoder.encode(Record(kind="messages", place=Place("d.jsonl", 1), messages=messages))
    assert "d.jsonl, line 1" in str(caught.value)
    assert rendered == []
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * (1 << 20)}}]
    with pytest.raises(DataError, match="too long: 200 answers"):
        encoder.encode(Record(kind="messages", place=Place("d.jsonl", 1), messages=messages[:400], tools=tools))


def test_a_long_conversation_to_train_on_keeps_little(small_model):
    """Tokens of each answer's prompt were kept as numbers of Python's: 136 KB took 900 MB."""
    with Session(small_model) as session:
        encoder = mask.Encoder(session.tokenizer, session.chat_template)
        text = "Once upon a time there was a cat."
        messages = [{"role": role, "content": text} for _ in range(20) for role in ("user", "assistant")]
        turns, grouped = [], mask._grouped
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mask, "_grouped", lambda found: turns.extend(found) or grouped(found))
            made = encoder.encode(Record(kind="messages", place=Place("d.jsonl", 1), messages=messages))
    assert all(each.itemsize == 4 for turn in turns for each in (turn.prompt, turn.tokens))
    answer = len(session.tokenizer.encode(text)) + 1
    assert len(turns) == len(made) == 20  # the model's template ends no answer, so that each is by itself
    assert {each.loss_tokens for each in made} == {answer}
