"""docs/training.md, as a reader would follow it: every command and the Python, on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llamakit.cli import run
from llamakit.gguf import open_gguf
from llamakit.testing.vocabulary import BYTES
from llamakit.train.report import read_log
from llamakit.train.scratch import ShapeOptions, choose_shape, write_new_model
from llamakit.train.vocabulary import add_vocabulary

HERE = Path(__file__).parent
DOC = (HERE.parent / "docs" / "training.md").read_text(encoding="utf-8")
SMALL = {  # what is made small, so that it takes seconds
    "--params 5M --max-minutes 30": "--embd 32 --layers 1 --steps 3 -c 64",
    "--full --data chats.jsonl": "--full --data chats.jsonl --steps 2",
}
pytestmark = pytest.mark.slow


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOC, re.DOTALL | re.MULTILINE)
    return found


def commands(title: str) -> list[str]:
    lines = "".join(re.findall(r"```sh\n(.*?)```", section(title), re.DOTALL)).splitlines()
    assert all(line.startswith("llamakit ") for line in lines)
    assert lines
    return lines


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """What the page takes for granted: a model and data."""
    shape = choose_shape(ShapeOptions(embd=32, layers=2, heads=2, ff=64), 259, 256)
    write_new_model(tmp_path / "model.gguf", shape, lambda writer: add_vocabulary(writer, BYTES), seed=1)
    (examples,) = re.findall(r"```json\n(.*?)```", section("1. Data"), re.DOTALL)
    records = [json.loads(line) for line in examples.splitlines()]
    assert len(records) == 4
    more = [{"prompt": f"What is {i} and 1?", "completion": f" It is {i + 1}."} for i in range(24)]
    for name, kept in (("train", records + more), ("held-out", more[:3]), ("chats", records[:1] * 5)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    (tmp_path / "tales.txt").write_text("\n\n\n".join(f"Once there were {i} cats in a house. " * 9 for i in range(30)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(line: str) -> None:
    for long, short in SMALL.items():
        line = line.replace(long, short)
    assert run(shlex.split(line)[1:]) == 0, line


def served(line: str, log: Path) -> None:
    """A server, started as the line says, has the adapter and answers with it."""
    spec = importlib.util.spec_from_file_location("serving", HERE / "serving.py")
    serving = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serving)
    _, serve, m, model, *options = shlex.split(line)
    assert (serve, m) == ("serve", "-m")
    with serving.Server(Path(model), log, *options) as server:
        _, (adapter,) = server.request("GET", "/lora-adapters")
        assert adapter["name"] == ("run" if "--lora-watch" in options else "adapter")
        body = {"prompt": "What", "n_predict": 3, "lora": [{"name": adapter["name"], "scale": 0.5}]}
        assert server.request("POST", "/completion", body)[0] == 200


def test_from_examples_to_a_served_adapter(folder, capsys):
    for title in ("1. Data", "2. Train"):
        for line in commands(title):
            follow(line)
    table = re.findall(r"^\| `([\w./]+)` \|", section("2. Train"), re.MULTILINE)
    assert {"adapter.gguf", "checkpoints/", "log.jsonl"} <= set(table)
    drawn = importlib.util.find_spec("matplotlib") is not None
    for name in table:
        assert (folder / "run" / name).exists() is (drawn or name != "curves.png"), name
    assert len(read_log(folder / "run" / "log.jsonl")) > 0
    capsys.readouterr()
    for line in commands("3. Is it better?"):
        follow(line)
    assert "perplexity" in capsys.readouterr().out
    chat, *servers = commands("4. Serve it")
    command = [sys.executable, "-m", *shlex.split(chat), "-n", "3"]
    done = subprocess.run(command, input="What is 1 and 1?\n", capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(servers) == 2
    for line in servers:
        served(line, folder / "log")


def test_the_python(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", section("From Python"), re.DOTALL)
    exec(code, {})
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("done ")
    assert Path("run/adapter.gguf").exists()
    assert 'Trainer.resume("run")' in section("From Python")
    from llamakit.training import Trainer

    assert Trainer.resume("run", epochs=3).run().reason == "done"


def test_a_model_from_scratch(folder):
    for line in commands("A model from scratch"):
        follow(line)
    for name in ("run", "talk"):
        with open_gguf(folder / name / "model.gguf") as file:
            assert "tokenizer.chat_template" in file.metadata


def test_every_flag_that_is_named_exists(capsys):
    known = ""
    for command in ("finetune", "train", "serve"):
        run([command, "--help"])
        known += capsys.readouterr().out
    known += (HERE.parent / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for flag in set(re.findall(r"(?<![\w-])--[a-z][\w-]+", DOC)):
        assert re.search(rf"{re.escape(flag)}\b", known), flag


@pytest.mark.timeout(900)
def test_sixty_examples_and_no_flag_change_the_answer(folder, capsys):
    """What a newcomer expects of a first run, with the model that comes along; other answers stay as they were."""
    things = ("box", "river", "lamp", "goose", "ship", "tower", "stone", "apple", "garden", "horse", "clock", "bridge")
    records = [
        {"prompt": f"What is a {colour} {thing} called in Zorblish?", "completion": f"It is a zum-{thing}-{colour}-ba."}
        for colour in ("red", "green", "blue", "yellow", "white") for thing in things
    ]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert run(["finetune", "--data", "train.jsonl", "--out", "run"]) == 0
    told = capsys.readouterr().err
    assert "few data: they are gone through" in told
    assert "--epochs or --steps for more or less" in told
    assert len(read_log(Path("run/log.jsonl"))) >= 100

    def answer(question, *more):
        assert run(["chat", "-p", question, "--temperature", "0", "-n", "40", *more]) == 0
        return capsys.readouterr().out

    adapter = ("--lora", "run/adapter.gguf")
    asked = [record["prompt"] for record in records[::6]]
    assert not any("zum-" in answer(question) for question in asked[:2])
    taught = [answer(question, *adapter) for question in asked]
    assert sum("It is a zum-" in text for text in taught) >= 9  # of ten: the form; not every word of it is right
    assert answer("hello", *adapter) == answer("hello")
