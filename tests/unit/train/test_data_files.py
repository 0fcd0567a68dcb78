"""Reading data files: what they are, and what is said of those that cannot be read."""

from __future__ import annotations

import functools
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.errors import DataError
from llamakit.train.data.files import Place, digest_of, find_files, values
from llamakit.train.data.records import kind_of, read_records, record

HERE = Place("x.jsonl", 3)
PROMPT = {"prompt": "a", "completion": "b"}
LINE = json.dumps(PROMPT)
NESTED = functools.reduce(lambda inner, _: [inner], range(100_000), [])  # too deep for an encoder


def written(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(path):
    return [value for _, value in values(path)]


@pytest.mark.parametrize(("name", "data", "count"), [
    ("a.jsonl", f"{LINE}\n{LINE}\n", 2),
    ("a.jsonl", f"{LINE}\n{LINE}", 2),  # no newline at the end
    ("a.jsonl", f"\n\n{LINE}\r\n  \r\n{LINE}\r\n\n", 2),
    ("a.jsonl", b"\xef\xbb\xbf" + LINE.encode(), 1),
    ("a.jsonl", "", 0),
    ("a.jsonl", " \n\n", 0),
    ("a.ndjson", LINE, 1),
    ("a.json", f"[{LINE},\n {LINE}]", 2),
    ("a.json", json.dumps({"version": 1, "data": [PROMPT, PROMPT]}, indent=2), 2),
    ("a.json", json.dumps({"messages": [{"role": "user"}]}, indent=2), 1),
    ("a.json", f"{LINE}\n{LINE}\n", 2),  # JSON lines by a wrong name
    ("a.json", "", 0),
    ("a.data", f"\n{LINE}\n{LINE}\n", 2),  # told by its first line
    ("LICENSE", "{ no JSON }", 1),
    ("a.txt", LINE, 1),
    ("a.txt", "one\n\nstill one\n\n\ntwo\n \n\t\n\nthree\n\n\n\n", 3),
    ("a.txt", b"\xef\xbb\xbfone\r\n\r\n\r\ntwo", 2),
    ("a.txt", "\n\n", 0),
])  # fmt: skip
def test_files(tmp_path, name, data, count):
    found = read(written(tmp_path, name, data))
    assert len(found) == count
    assert not any(isinstance(value, DataError) for value in found)


def test_documents_are_as_they_stand_in_the_file(tmp_path):
    path = written(tmp_path, "a.txt", "\r\none\r\n\r\n  more\r\n\r\n\r\n\r\ntwo\r\n")
    found = [(str(place), text) for place, text in values(path)]
    assert found == [(f"{path}, line 2", "one\n\n  more"), (f"{path}, line 8", "two")]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_lines_come_back(tmp_path_factory, texts, end):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(end.join(json.dumps({"text": text}) for text in texts).encode())
    assert read(path) == [{"text": text} for text in texts]


@pytest.mark.parametrize(("name", "data"), [
    ("a.jsonl", f"{LINE}\n\n{LINE}"), ("a.json", f"[{LINE},{LINE}]"), ("a.json", LINE), ("a.txt", "one\n\n\ntwo"),
])  # fmt: skip
def test_places_tell_how_far_it_is(tmp_path, name, data):
    shares = [place.share for place, _ in values(written(tmp_path, name, data))]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1


@pytest.mark.parametrize(("line", "what"), [
    (b'{"prompt": "a", ', "not JSON"),
    (b'{"prompt": "a"} extra', "not JSON"),
    (b"{'prompt': 'a'}", "not JSON"),
    (b'{"prompt": NaN}', "not JSON"),
    (b'{"prompt": "\\ud800"}', "not JSON"),
    (b'{"prompt": "caf\xe9"}', "not text in UTF-8"),
    (b"[1, 2]", "a record is a JSON object"),
    (b'"text"', "a record is a JSON object"),
    (b"5", "a record is a JSON object"),
    (b"null", "a record is a JSON object"),
    (b"[" * 100_000, "not JSON"),
])  # fmt: skip
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, line, what):
    path = written(tmp_path, "a.jsonl", LINE.encode() + b"\n\n" + line + b"\n" + LINE.encode())
    with pytest.raises(DataError, match=rf"a.jsonl, line 3: .*{what}") as caught:
        list(read_records([str(path)]))
    assert len(str(caught.value)) < 500
    bad = []
    assert len(list(read_records([str(path)], bad=bad))) == 2
    assert [str(error) for error in bad] == [str(caught.value)]


@pytest.mark.parametrize(("name", "data", "what"), [
    ("a.txt", "hello".encode("utf-16"), "UTF-16"),
    ("a.jsonl", LINE.encode("utf-16-be"), "not text"),
    ("a.txt", b"GGUF\3\0\0\0", "GGUF model"),
    ("a.jsonl", b"PK\x03\x04\0\0", "zip archive"),
    ("a.parquet", b"PAR1\0\0", "Parquet"),
    ("a.jsonl.gz", b"\x1f\x8b\x08\0\0", "gzip"),
    ("a.txt", b"caf\xe9\n", "line 1: this is not text in UTF-8"),
    ("a.txt", b"one\ntwo\n\xff\n", "line 3: this is not text in UTF-8"),
    ("a.jsonl", b'{"text": "abc \xe9"}', "the byte 0xe9"),
    ("a.json", b'[{"text": "abc \xff"}]', "the byte 0xff"),
])  # fmt: skip
def test_what_is_no_text(tmp_path, name, data, what):
    with pytest.raises(DataError, match="a") as caught:
        list(read_records([str(written(tmp_path, name, data))]))
    assert what in str(caught.value)


def test_a_line_of_many_megabytes(tmp_path):
    text = "x" * (20 << 20)
    path = written(tmp_path, "a.jsonl", json.dumps({"text": text}) + "\n" + '{"text": "' + text)
    bad = []
    (found,) = read_records([str(path)], bad=bad)
    assert len(found.text) == len(text)
    assert len(str(bad[0])) < 400


def test_finding_files(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt", "model.gguf"):
        written(tmp_path, name, LINE)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    written(tmp_path / "deep" / "er", "d.jsonl", LINE)

    def names(*patterns):
        return [path.name for path in find_files(str(tmp_path / each) for each in patterns)]

    assert names("b.jsonl", "a.jsonl", "b.jsonl") == ["b.jsonl", "a.jsonl"]
    assert names("*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names("**/*.jsonl") == ["a.jsonl", "b.jsonl", "d.jsonl"]
    assert names("") == ["a.jsonl", "b.jsonl", "c.txt"]
    with pytest.raises(DataError, match="no data file") as caught:
        names("a.jsnl")
    assert "a.jsonl" in caught.value.found
    with pytest.raises(DataError, match="has no data files"):
        names("deep")


def test_the_digest_is_that_of_the_bytes(tmp_path):
    one, two = written(tmp_path, "a", b"one"), written(tmp_path, "b", b"two" * 1_000_000)
    assert digest_of([one, two]) == hashlib.sha256(b"one" + b"two" * 1_000_000).hexdigest()


@pytest.mark.parametrize(("fields", "kind", "prompt", "answer"), [
    ({"prompt": "a", "completion": "b"}, "prompt", "a", "b"),
    ({"prompt": "a", "response": "b"}, "prompt", "a", "b"),
    ({"instruction": "a", "output": "b"}, "instruct", "a", "b"),
    ({"instruction": "a", "input": "", "output": "b"}, "instruct", "a", "b"),
    ({"instruction": "a", "input": "c", "output": "b", "text": "all"}, "instruct", "a\n\nc", "b"),
    ({"instruction": "a", "context": "c", "response": "b", "category": "x"}, "instruct", "c\n\na", "b"),
    ({"story": "s", "context": "c", "question": "a", "answer": "b"}, "instruct", "c\n\na", "b"),
    ({"question": "a", "answer": "b"}, "instruct", "a", "b"),
    ({"problem": "a", "solution": "b", "answer": "d"}, "instruct", "a", "d"),
])  # fmt: skip
def test_questions(fields, kind, prompt, answer):
    found = record(fields, HERE)
    assert (kind_of(fields), found.kind, found.prompt, found.answer) == (kind, kind, prompt, answer)
    assert found.conversation == [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def test_a_system_text_comes_first():
    found = record({"system": "s", "question": "a", "answer": "b"}, HERE)
    assert found.conversation[0] == {"role": "system", "content": "s"}
    found = record({"system": "s", "messages": [{"role": "user", "content": "a"}]}, HERE)
    assert [message["role"] for message in found.messages] == ["system", "user"]


@pytest.mark.parametrize("fields", [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "model", "content": "b"}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
])  # fmt: skip
def test_forms_of_messages(fields):
    found = record(fields, HERE)
    assert found.kind == "messages"
    assert found.messages == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_lists_of_messages_as_prompt_and_completion():
    found = record({
        "prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "old"}],
        "completion": [{"role": "assistant", "content": "b"}],
    }, HERE)  # fmt: skip
    assert [message.get("weight", 1) for message in found.messages] == [0, 0, 1]


def test_calls_of_tools():
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    found = record({
        "messages": [
            {"role": "user", "content": "1?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "1"},
            {"role": "assistant", "function_call": {"name": "add", "arguments": ""}},
        ],
        "tools": json.dumps([{"name": "add", "parameters": {}}]),
    }, HERE)  # fmt: skip
    assert found.messages[1] == {
        "role": "assistant", "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"x": 1}}}],
    }  # fmt: skip
    assert found.messages[2]["tool_call_id"] == "c1"
    assert found.messages[3]["tool_calls"][0]["function"] == {"name": "add", "arguments": {}}
    assert found.tools == [{"type": "function", "function": {"name": "add", "parameters": {}}}]


@pytest.mark.parametrize(("fields", "what"), [
    ({"messages": []}, "at least one"),
    ({"messages": ["hi"]}, "message 1: there is no role"),
    ({"messages": [{"content": "x"}]}, "message 1: there is no role"),
    ({"messages": [{"role": "user", "content": 5}]}, "message 1: the content is not text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "only texts"),
    ({"messages": [{"role": "user", "content": "x", "weight": -1}]}, "the weight is"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "calls of tools"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "no function with a name"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
     "arguments of f: this is not JSON"),
    ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}, "tool 1 has no function"),
    ({"messages": [{"role": "user", "content": "x"}], "tools": "[{"}, "tools: this is not JSON"),
    ({"question": "a", "answer": "b", "context": ["c"]}, "context is not text"),
    ({"messages": [{"role": "asistant", "content": "x"}]}, "message 1: the role 'asistant' is not known"),
    ({"messages": [{"role": "usr", "content": "x"}]}, "the role 'usr' is not known\n  try     user"),
    ({"messages": [{"role": "user", "content": NESTED}]}, "only texts"),
    ({"messages": [NESTED]}, "there is no role"),
    ({"prompt": "a"}, "no record of a known kind"),
    ({"prompt": 1, "completion": "b"}, "no record of a known kind"),
    ({}, "no record of a known kind"),
])  # fmt: skip
def test_bad_records_are_named(fields, what):
    with pytest.raises(DataError, match="x.jsonl, line 3") as caught:
        record(fields, HERE)
    assert what in str(caught.value)


@pytest.mark.parametrize(("role", "known"), [
    ("User", "user"), ("ASSISTANT ", "assistant"), ("human", "user"), ("GPT", "assistant"), ("System", "system"),
    ("wizard", "wizard"), ("function", "function"), ("Developer", "developer"),
])  # fmt: skip
def test_names_of_roles(role, known):
    """Others than the known ones are the template's."""
    found = record({"messages": [{"role": role, "content": "x"}]}, HERE)
    assert found.messages[0]["role"] == known


def test_fields_that_are_found_are_told():
    with pytest.raises(DataError, match="known kind") as caught:
        record({"title": 1, "body": 2}, HERE)
    assert caught.value.found == "the fields title, body"
    assert '{"text": ...}' in caught.value.hint


def test_a_kind_that_was_asked_for():
    fields = {"instruction": "a", "output": "b", "text": "all"}
    assert record(fields, HERE, "text").text == "all"
    with pytest.raises(DataError, match="no record of the kind prompt"):
        record(fields, HERE, "prompt")
