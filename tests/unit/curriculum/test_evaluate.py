"""Scores: a model that says one thing is right where that is asked for, and nowhere else."""

from __future__ import annotations

import json
import sys

import pytest
from curriculum import evaluate, write
from curriculum.example import Example, assistant, call, user

from llamakit import Session
from llamakit.chat.own import CONTROL, MARKERS, own_template
from llamakit.testing.scripted_model import scripted_model

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {"x": {}}}}}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def records():
    made = [
        Example("same", [user("Say it."), assistant("It is so.")]),
        Example("contains", [user("What?"), assistant("-")], judge="contains", wanted=("is so",), unwanted=("not",)),
        Example("unwanted", [user("What?"), assistant("-")], judge="contains", wanted=("is so",), unwanted=("it",)),
        Example("tool", [user("Find a map."), call("find", {"x": "map"})], TOOLS, judge="call"),
        Example("other", [user("Find a cup."), call("find", {"x": "cup"})], TOOLS, judge="call"),
        Example("json", [user("One."), assistant('{"a": 1}')], judge="json", schema=SCHEMA),
    ]
    return [json.loads(json.dumps(example.test_record())) for example in made]


def model(path, says):
    return scripted_model(path, says, template=own_template(), control=CONTROL, user_defined=MARKERS)


@pytest.mark.parametrize(
    ("says", "right"),
    [
        ("It is so.", {"same", "contains"}),
        ("it is so", {"same", "contains"}),
        ("It is not so.", set()),
        ('<tool_call>\n{"name": "find", "arguments": {"x": "map"}}\n</tool_call>', {"tool"}),
        ('<tool_call>\n{"name": "lose", "arguments": {"x": "map"}}\n</tool_call>', set()),
        ('{"a": 1}', {"json"}),
    ],
)
def test_what_is_right(tmp_path, says, right):
    with Session(model(tmp_path / "m.gguf", says), threads=1) as session:
        found = evaluate.score(session, records())
    assert {kind for kind, (n_right, _) in found.items() if n_right} == right
    assert set(found) == {record["kind"] for record in records()}


def test_the_command_prints_shares_and_wrong_answers(tmp_path, monkeypatch, capsys):
    write.write_jsonl(tmp_path / "t.jsonl", records())
    path = model(tmp_path / "m.gguf", "It is so.")
    monkeypatch.setattr(sys, "argv", ["evaluate", str(path), str(tmp_path / "t.jsonl"), "--json", "--show", "1"])
    evaluate.main()
    shown = capsys.readouterr()
    assert json.loads(shown.out)["same"] == 1.0
    assert json.loads(shown.out)["tool"] == 0.0
    assert "Find a map." in shown.err
