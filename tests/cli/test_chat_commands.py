"""The commands of the chat, over a source whose answers are known."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pytest
from llamakit.plugins.frontends.cli.talk import commands
from llamakit.plugins.frontends.cli.talk.complete import Completions, files
from llamakit.plugins.frontends.cli.talk.settings import Knob, Settings, knobs_of
from llamakit.plugins.frontends.cli.talk.source import Answer, Chosen, Piece, Source, Waiting
from llamakit.plugins.frontends.cli.talk.talk import Talk
from llamakit.plugins.frontends.cli.talk.terminal import Terminal

from llamakit.errors import LlamaKitError, UsageError

SCHEMA = {
    "properties": {
        "top_k": {"type": "integer", "minimum": 0, "maximum": 100, "default": 40},
        "heat": {"type": "number", "exclusiveMinimum": 0, "maximum": 2, "default": 1.0},
        "mode": {"enum": [0, 1, 2], "default": 0},
        "bans": {"type": "array", "items": {"type": "string"}, "default": []},
        "limit": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None},
    }
}


class Counting(Source):
    """Answers "one", "two", ... in turn; a token is a word."""

    title, model, n_ctx = "counting, context 40", "counting", 40

    def __init__(self) -> None:
        self.asked: list[tuple[list[dict[str, str]], str, dict[str, object]]] = []
        self.reason, self.error = "end of text", None
        self.with_grammar = False
        self.loras = {"fairy": 1.0}

    def stream(
        self, turns: Sequence[dict[str, str]], begun: str, params: Mapping[str, object]
    ) -> Generator[Piece | Waiting, None, Answer]:
        if self.error:
            raise self.error
        self.asked.append((list(turns), begun, dict(params)))
        word = f" {len(self.asked)}th"
        yield Piece(word, 1, (Chosen(word, math.log(0.75), ((word, math.log(0.75)), (" other", math.log(0.25)))),))
        return Answer(reason=self.reason, n_generated=1, n_prompt=5, seed=9)

    def knobs(self) -> dict[str, Knob]:
        found = knobs_of(SCHEMA)
        if self.with_grammar:
            texts = {name: {"type": "string"} for name in ("grammar", "regex")}
            found |= knobs_of({"properties": {**texts, "json_schema": {}, "choices": {"type": "array"}}})
        return found

    def render(self, turns: Sequence[dict[str, str]], begun: str = "") -> tuple[str, list[int]]:
        text = " ".join(turn["content"] for turn in turns) + begun
        return text, list(range(len(text.split())))

    def count_text(self, text: str) -> int:
        return len(text.split())

    def models(self) -> list[str]:
        return ["counting", "other"]

    def switch(self, name: str) -> str:
        self.model = name
        return name

    def adapters(self) -> dict[str, float]:
        return self.loras

    def add_adapter(self, file: str) -> str:
        raise UsageError(f"{file} is not an adapter")

    def close(self) -> None:
        pass


@pytest.fixture
def talk() -> Talk:
    terminal = Terminal("never")
    terminal.reads = terminal.writes = terminal.notes = False
    return Talk(Counting(), Settings({"top_k": 7}), terminal, markdown=True, timings=False, quiet=False)


def run(talk: Talk, capsys: pytest.CaptureFixture[str], *lines: str) -> str:
    """Run entries; returns what was noted. The first error is raised."""
    capsys.readouterr()
    for line in lines:
        if line.startswith("/"):
            commands.run(talk, line)
        else:
            talk.say(line)
    return capsys.readouterr().err


def texts(talk: Talk) -> list[str]:
    return [message.text for message in talk.conversation.path()]


def test_an_answer_is_kept_without_the_space_before_it(talk, capsys):
    talk.say("a")
    assert capsys.readouterr().out == "1th\n"
    assert texts(talk) == ["a", "1th"]
    assert talk.conversation.last.stop == "end of text"
    assert talk.conversation.last.seed == 9


def test_continue_goes_on_with_the_exact_text(talk, capsys):
    talk.source.reason = "length"
    run(talk, capsys, "a", "/continue")
    turns, begun, _ = talk.source.asked[1]
    assert (turns, begun) == ([{"role": "user", "content": "a"}], " 1th")
    assert texts(talk) == ["a", "1th 2th"]
    with pytest.raises(UsageError, match="no answer"):
        run(talk, capsys, "/clear", "/continue")


def test_regenerate_keeps_the_answer_before_as_a_branch(talk, capsys):
    run(talk, capsys, "a", "/regenerate 5")
    assert texts(talk) == ["a", "2th"]
    assert talk.source.asked[1][2]["seed"] == 5
    assert re.findall(r"^([* ]) (\d)", run(talk, capsys, "/branches"), re.MULTILINE) == [(" ", "1"), ("*", "2")]
    run(talk, capsys, "/branch 1")
    assert texts(talk) == ["a", "1th"]
    with pytest.raises(UsageError, match="found   1 to 2"):
        run(talk, capsys, "/branch 3")


def test_branch_offers_the_message_to_change(talk, capsys):
    run(talk, capsys, "a", "b", "/branch")
    assert (texts(talk), talk.draft) == (["a", "1th"], "b")
    run(talk, capsys, "c")
    assert texts(talk) == ["a", "1th", "c", "3th"]


def test_undo_takes_turns_back(talk, capsys):
    run(talk, capsys, "a", "b", "c", "/undo 2")
    assert texts(talk) == ["a", "1th"]
    assert len(talk.conversation.messages) == 2
    run(talk, capsys, "/undo")
    with pytest.raises(UsageError):
        run(talk, capsys, "/undo")


def test_a_message_that_cannot_be_sent_is_the_next_draft(talk, capsys):
    run(talk, capsys, "a")
    talk.source.error = LlamaKitError("broken")
    with pytest.raises(LlamaKitError, match="broken"):
        talk.say("b")
    assert (texts(talk), talk.draft) == (["a", "1th"], "b")


def test_options_are_checked_and_reset(talk, capsys):
    run(
        talk,
        capsys,
        "/set top_k 3",
        "/set heat=0.5",
        "/set stop END",
        '/set bans ["x"]',
        "/set limit 3",
        "/set mode 2",
        "a",
    )
    params = talk.source.asked[0][2]
    assert [params[k] for k in ("top_k", "heat", "stop", "bans", "limit", "mode")] == [3, 0.5, ["END"], ["x"], 3, 2]
    run(talk, capsys, "/reset top_k", "/reset heat")
    assert talk.settings.values["top_k"] == 7
    assert "heat" not in talk.settings.values
    listed = run(talk, capsys, "/set").splitlines()
    assert listed[0].startswith("* ")
    assert len(listed) == len(talk.knobs())
    run(talk, capsys, "/reset all")
    assert talk.settings.values == {"top_k": 7}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/set top_k 101", "0..100"), ("/set top_k x", "0..100"), ("/set heat 0", "above 0, up to 2"),
        ("/set heat nan", "heat"), ("/set heat inf", "heat"), ("/set mode 3", "0, 1, 2"),
        ("/set topk 3", "top_k, stop are nearest"), ("/set limit 0", "1 or more"), ("/set seed -2", "seed"),
        ("/set bans [", "bans"), ("/reset nothing", "no option"), ("/reset", "/reset NAME"),
        ("/undo x", "number of turns"), ("/undo 99999999999999999999", "number of turns"),
        ("/nonsense", "/help lists"), ("/regenrate", "did you mean /regenerate?"), ("/load", "needs FILE"),
        ("/load nowhere", "cannot be read"), ("/file nowhere", "cannot be read"), ("/save x", "nothing to save"),
        ("/copy", "no answer"), ("/copy x", "/copy code"), ("/probs", "no probabilities"), ("/probs 0", "1 to 20"),
        ("/prompt", "nothing was sent"), ("/stats", "nothing was"),
        ("/grammar x.gbnf", "no sampler that takes 'grammar' is installed"), ("/json {}", "no sampler that takes"),
        ("/lora fary", "fairy is nearest"), ("/lora fairy=x", "not a scale"), ("/lora fairy=nan", "not a scale"),
        ("/help nothing", "no command"), ("/edit", "terminal"), ("/", "no command"), ("/ set", "no command"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(talk, capsys, line, words):
    with pytest.raises(UsageError) as caught:
        run(talk, capsys, line)
    assert words in str(caught.value)


def test_constraints_are_options_where_a_sampler_takes_them(talk, capsys, tmp_path):
    talk.source.with_grammar = True
    file = tmp_path / "g.gbnf"
    file.write_text('root ::= "x"')
    run(talk, capsys, f"/grammar {file}")
    assert talk.settings.values["grammar"] == 'root ::= "x"'
    run(talk, capsys, '/json {"type": "object"}')
    assert talk.settings.values["json_schema"] == {"type": "object"}
    assert "grammar" not in talk.settings.values
    with pytest.raises(UsageError, match="not JSON"):
        run(talk, capsys, "/json {")
    run(talk, capsys, "/json off")
    assert "json_schema" not in talk.settings.values


def test_a_file_goes_before_the_next_message_only(talk, capsys, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("one two three\n")
    assert "3 tokens" in run(talk, capsys, f"/file {file}")
    run(talk, capsys, "sum up", "again")
    assert [m["content"] for m in talk.source.asked[1][0]] == ["notes.txt:\n\none two three\n\nsum up", "1th", "again"]


def test_saving_and_loading(talk, capsys, tmp_path):
    file = tmp_path / "c.json"
    run(talk, capsys, "/system be brief", "a", "/set heat 0.5", f"/save {file}", f"/save {file}", "/clear")
    assert talk.conversation.messages == {}
    assert talk.conversation.system == "be brief"
    data = json.loads(file.read_text())
    data["conversations"][0]["params"]["gone"] = 1
    file.write_text(json.dumps(data))
    talk.settings.values.clear()
    noted = run(talk, capsys, f"/load {file}")
    assert texts(talk) == ["a", "1th"]
    assert talk.settings.values == {"top_k": 7, "heat": 0.5}
    assert "'gone'" in noted
    other = tmp_path / "other"
    other.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        run(talk, capsys, f"/save {other}")


def test_the_oldest_turns_are_left_out_when_the_context_is_full(talk, capsys):
    talk.conversation.system = "be brief"
    talk.say("word " * 15)
    talk.say("word " * 8)
    assert "left out" not in capsys.readouterr().err
    noted = run(talk, capsys, "word " * 8)
    assert "turn 1 left out" in noted
    turns = talk.source.asked[2][0]
    assert [t["role"] for t in turns] == ["system", "user", "assistant", "user"]
    assert len(texts(talk)) == 6
    shown = run(talk, capsys, "/context")
    assert "used" in shown
    assert "turn 2 is left out" in shown


def test_probabilities_and_the_prompt_are_shown(talk, capsys):
    talk.n_probs = 5
    shown = run(talk, capsys, "a b", "/probs 2")
    assert shown.split() == ["'", "1th'", "75.0%", "'", "other'", "25.0%"]
    assert run(talk, capsys, "/prompt").splitlines() == ["a b", "2 tokens: 0 1"]
    assert "1 answer, 1 token written" in run(talk, capsys, "/stats").replace("1 answer,  ", "1 answer, ")


def test_adapters_and_models_go_with_the_request(talk, capsys):
    run(talk, capsys, "/lora fairy=0.5", "a", "/lora fairy=0", "/model other", "b")
    assert talk.source.asked[0][2]["adapters"] == (("fairy", 0.5),)
    assert talk.source.asked[1][2]["adapters"] is None  # another model: its own
    assert talk.conversation.last.model == "other"


def test_choosing_one_adapter_leaves_the_others_as_they_are(talk, capsys):
    talk.source.loras = {"a": 1.0, "b": 0.5, "off": 0.0}
    assert [line.split() for line in run(talk, capsys, "/lora").splitlines()] == [
        ["a", "1", "by", "default"], ["b", "0.5", "by", "default"], ["off", "0", "by", "default"],
    ]  # fmt: skip
    run(talk, capsys, "/lora a=off")
    assert talk.adapters == {"b": 0.5}
    run(talk, capsys, "/lora off=2")
    assert talk.adapters == {"b": 0.5, "off": 2.0}


def test_of_several_forms_the_last_one_holds(talk, capsys, tmp_path):
    talk.source.with_grammar = True
    file = tmp_path / "g.gbnf"
    file.write_text('root ::= "x"')
    run(talk, capsys, "/set regex a+")
    assert "regex no longer" in run(talk, capsys, f"/grammar {file}")
    assert set(talk.settings.values) & {"grammar", "regex"} == {"grammar"}
    assert "grammar no longer" in run(talk, capsys, '/set choices ["yes", "no"]')
    assert "choices no longer" in run(talk, capsys, '/json {"type": "object"}')
    assert "no longer" not in run(talk, capsys, "/set heat 0.5")
    assert set(talk.settings.values) & {"grammar", "regex", "choices", "json_schema"} == {"json_schema"}


def test_every_command_has_help(talk, capsys):
    listed = run(talk, capsys, "/help")
    for name in commands.table():
        assert f"/{name}" in listed
        assert name in run(talk, capsys, f"/help /{name}")
    assert all(len(line) <= 80 for line in listed.splitlines())


def test_tab_completes(talk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "sub").mkdir()
    completions: Completions = commands.completions(talk)
    words = lambda text: [word for word, _ in completions.of(text)]  # noqa: E731
    assert words("/re") == ["regenerate", "reset"]
    assert words("/set to") == ["top_k"]
    assert words("/reset a") == ["all"]
    assert words("/file ") == ["notes.txt", "sub/"]
    assert words("/file .h") == [".hidden"]
    assert words("/model o") == ["other"]
    assert words("/set top_k ") == []
    assert words("hello /re") == []
    assert words("/file nowhere/x") == []


LONG = "a" * 300
NO_FILES = [
    f"/save {LONG}", f"/load {LONG}", f"/file {LONG}", "/save a\0b", "/load a\0b", "/file a\0b", "/lora a\0b",
    f"/lora {LONG}", "/save ~nobody-at-all/x", "/load ~nobody-at-all/x", "/lora ~nobody-at-all/x", "/save /",
    "/save /dev/null/x", "/load /dev/null/x", "/file /", "/save -",
]  # fmt: skip


@pytest.mark.parametrize("line", NO_FILES, ids=lambda line: ascii(line[:16]))
def test_no_name_of_a_file_ends_the_chat(talk, capsys, line):
    """What was said went with it."""
    talk.say("a")
    talk._entry(line)
    assert "error: " in capsys.readouterr().err
    assert texts(talk) == ["a", "1th"]
    assert list(files("~nobody-at-all/")) == list(files("a\0b/")) == []


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices that never end here")
@pytest.mark.parametrize("command", ["/load", "/file"])
def test_a_file_that_never_ends(talk, command):
    """All memory was filled with it."""
    with pytest.raises(UsageError, match="larger than 64 MiB"):
        commands.run(talk, f"{command} /dev/zero")


def test_a_conversation_that_cannot_be_saved_leaves_nothing_and_replaces_no_device(talk, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    talk.say("a")
    (tmp_path / "link.json").symlink_to("kept.json")
    (tmp_path / "kept.json").write_text("old")
    talk.file = (tmp_path / "kept.json").resolve()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(LlamaKitError, match="No space left"):
            commands.run(talk, f"/save {tmp_path / 'link.json'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.json", "link.json"]
    assert (tmp_path / "kept.json").read_text() == "old"
    commands.run(talk, f"/save {tmp_path / 'link.json'}")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "kept.json").stat().st_mode & 0o777 == 0o600
    talk.terminal.reads = True
    monkeypatch.setattr(talk.terminal, "ask", lambda question: True)
    with pytest.raises(LlamaKitError, match="is not a regular file"):
        commands.run(talk, f"/save {os.devnull}")
