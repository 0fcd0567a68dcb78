"""Conversations of the chat: branches, and the files they are saved in."""

from __future__ import annotations

import json
import stat

import pytest
from llamakit.plugins.frontends.cli.talk import export
from llamakit.plugins.frontends.cli.talk.conversation import Conversation

from llamakit.errors import UsageError


def said(*texts: str) -> Conversation:
    conversation = Conversation()
    for i, text in enumerate(texts):
        conversation.add("assistant" if i % 2 else "user", text)
    return conversation


def test_turns_are_the_branch_with_the_system_prompt_first():
    conversation = said("a", "b", "c", "d")
    conversation.system = "be brief"
    kept = conversation.step_back()
    assert kept is not None
    assert kept.text == "c"
    conversation.add("user", "x")
    assert [turn["content"] for turn in conversation.turns()] == ["be brief", "a", "b", "x"]
    assert sorted(m.text for m in conversation.leaves()) == ["d", "x"]


def test_removing_takes_what_comes_after_but_no_sibling():
    conversation = said("a", "b", "c", "d")
    conversation.step_back()
    other = conversation.add("user", "x")
    conversation.remove(other)
    assert [m.text for m in conversation.path()] == ["a", "b"]
    assert {m.text for m in conversation.messages.values()} == {"a", "b", "c", "d"}
    assert conversation.step_back(2) is None


def test_what_is_saved_is_loaded_with_its_branches(tmp_path):
    conversation = said(
        "Hello", "Hi", "Who?", "Me, \u2603 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")
    )
    conversation.step_back()
    conversation.add("user", "What?")
    conversation.system = "be brief"
    file = tmp_path / "chat.json"
    export.save(file, conversation, "tiny", {"top_k": 3})
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert conversation.saved
    record = json.loads(file.read_text())
    assert (record["format"], record["version"]) == ("llamakit.conversations", 1)
    assert record["conversations"][0]["title"] == "Hello"
    assert {m["role"] for m in record["conversations"][0]["messages"]} == {"user", "assistant"}
    again, params = export.load(file)
    assert params == {"top_k": 3}
    assert again.turns() == conversation.turns()
    assert again.messages == conversation.messages
    assert again.id == conversation.id
    assert list(tmp_path.iterdir()) == [file]  # nothing half-written is left


def test_what_the_page_exports_is_loaded(tmp_path):
    message = {
        "id": "m1",
        "conv": "c1",
        "parent": None,
        "role": "user",
        "text": "Hi",
        "created": 1700000000000.5,
        "new": 1,
    }
    record = {
        "id": "c1",
        "kind": "chat",
        "title": "T",
        "leaf": "gone",
        "messages": [message],
        "pinned": 0,
        "deleted": 3,
    }
    file = tmp_path / "page.json"
    file.write_text(json.dumps({"format": export.FORMAT, "version": 1, "conversations": [record], "settings": {}}))
    conversation, _ = export.load(file)
    assert conversation.turns() == [{"role": "user", "content": "Hi"}]


def test_a_list_of_messages_is_loaded(tmp_path):
    file = tmp_path / "list.json"
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    file.write_text(json.dumps(turns))
    assert export.load(file)[0].turns() == turns


def test_markdown_is_for_reading(tmp_path):
    file = tmp_path / "chat.md"
    export.save(file, said("Hello", "Hi"), "tiny", {})
    assert file.read_text() == "# Hello\n\n## User\n\nHello\n\n## Assistant\n\nHi\n"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "3", '"x"', "[3]", "[" * 5000, '{"format": "llamakit.conversations"}',
        '{"format": "other", "version": 1, "conversations": []}',
        '{"format": "llamakit.conversations", "version": 2, "conversations": []}',
        '{"format": "llamakit.conversations", "version": 1, "conversations": []}',
        '{"format": "llamakit.conversations", "version": 1, "conversations": [{"messages": [{"role": "x"}]}]}',
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, text):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"x\.json"):
        export.load(file)


def test_messages_in_a_circle_end():
    conversation = said("a", "b")
    first, last = conversation.path()
    first.parent = last.id
    assert len(conversation.path()) == 2


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        export.load(tmp_path / "nowhere.json")
    with pytest.raises(UsageError, match="cannot be written"):
        export.save(tmp_path / "no" / "folder.json", said("a"), "m", {})
