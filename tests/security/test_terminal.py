"""What files say never steers a terminal, and metadata that promises too much costs nothing."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from llamakit.plugins.frontends.rest.logs import JsonFormat, TextFormat

from llamakit import cli
from llamakit.errors import ModelFileError
from llamakit.gguf import GGUFWriter, open_gguf
from llamakit.session import Session
from llamakit.terminal import keep_style, one_line, safe
from tests.waiting import until

EVIL = "\x1b]0;pwned\x07\x9b31m\u202eevil\x7f\r\x08 name\x1b[2J\nerror: forged"
BAD = [chr(code) for code in (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x202E, 0x2066)]


def run(*args):
    """Standard output and error of a command, as text."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with redirect_stdout(out), redirect_stderr(out):
        cli.run([str(arg) for arg in args])
    return out.buffer.getvalue().decode()


@pytest.fixture(scope="module")
def copy(small_model, tmp_path_factory):
    """A copy of the model with other metadata and more tensors: `copy({"key": value}, {"name": tensor})`."""

    def make(metadata, tensors=None, name="model.gguf"):
        file = tmp_path_factory.mktemp("copy") / name
        with open_gguf(small_model) as model, GGUFWriter(file) as writer:
            for key in model.metadata:
                if key not in metadata:
                    writer.add(key, model.metadata[key], *model.metadata.value_type(key))
            for key, value in metadata.items():
                kind = model.metadata.value_type(key) if key in model.metadata else ()
                writer.add(key, value, *kind)
            for each, info in model.tensors.items():
                writer.add_tensor(each, model.raw(each), info.type, info.shape)
            for each in tensors or ():
                info = model.tensors["output_norm.weight"]
                writer.add_tensor(each, model.raw("output_norm.weight"), info.type, info.shape)
        return file

    return make


def test_texts():
    assert safe("a\tb\n\x1b[31mc\x9b") == "a\tb\n\ufffd[31mc\ufffd"
    assert one_line("a\tb\nc\u2028d") == "a b c d"
    assert keep_style("\x1b[1mbold\x1b[0m \x1b]0;x\x07") == "\x1b[1mbold\x1b[0m \ufffd]0;x\ufffd"
    assert not any(c in safe(EVIL) + one_line(EVIL) for c in BAD)


@pytest.mark.parametrize(
    "command",
    ["inspect", "inspect --tensors", "inspect --check", "inspect --json", "inspect --json --check", "lora info",
     "generate -v -n 2 -p x -m", "tokenize once -m", "embed x -m", "perplexity -f TEXT -m", "data check FILE -m",
     "quantize FILE OUT Q8_0", "quantize --json FILE OUT Q8_0", "quantize FILE OUT nothing",
     "lora merge -l ADAPTER -o OUT -m", "lora info --json", "export-lora -o OUT -l ADAPTER -m", "doctor", "plugins"],
)  # fmt: skip
def test_names_from_files_are_shown_without_control_characters(copy, tmp_path, command):
    file = copy({"general.name": EVIL, f"x.{EVIL}": EVIL, "general.description": [EVIL] * 3}, {f"t{EVIL}": 0})
    text = tmp_path / "text.txt"
    text.write_text(EVIL * 20)
    names = {"FILE": file, "OUT": tmp_path / "out.gguf", "ADAPTER": file, "TEXT": text}
    words = [names.get(each, each) for each in command.split()]
    shown = run(*words, *([file] if "FILE" not in words else []))
    assert shown
    assert "no such option" not in shown
    assert not any(c in shown for c in BAD), repr(shown)
    assert "\nerror: forged" not in shown


def test_a_name_that_is_no_text(small_model, tmp_path):
    """Names of files may be any bytes; as JSON they ended commands with an internal error."""
    folder = os.fsencode(tmp_path)
    name = os.fsdecode(folder + b"/\xff\xfe.gguf")
    shutil.copyfile(small_model, name)
    for args in (("inspect",), ("inspect", "--json"), ("generate", "-n", "1", "-p", "x", "-m"), ("lora", "info")):
        shown = run(*args, name)
        assert shown
        assert "internal" not in shown


def test_a_defect_is_shown_without_control_characters(small_model, monkeypatch):
    def defect(path):
        raise RuntimeError(f"{EVIL} \udcff")

    monkeypatch.setattr("llamakit.gguf.open_gguf", defect)
    shown = run("inspect", small_model)
    assert "internal error" in shown
    assert not any(c in shown for c in BAD), repr(shown)
    report = Path(re.search(r"report  (\S+)", shown)[1])
    assert report.stat().st_mode & 0o077 == 0
    assert "RuntimeError" in report.read_text()
    report.unlink()


@pytest.mark.parametrize("style", [TextFormat, JsonFormat])
def test_lines_of_logs(style):
    record = logging.LogRecord("llamakit", logging.INFO, "", 0, "%s", (f"GET {EVIL} \ud800",), None)
    record.fields = {"path": f"/{EVIL}\udcff"}
    line = style().format(record)
    assert not any(c in line for c in [*BAD, "\n"]), repr(line)
    line.encode()
    if style is JsonFormat:
        assert json.loads(line)["path"] == f"/{EVIL}\udcff"


def test_errors_about_files_are_shown_without_control_characters(copy, tmp_path):
    (tmp_path / f"{EVIL.replace('/', '')}.gguf").write_bytes(b"GGUF" + bytes(60))
    for args in (("inspect", tmp_path / f"no{EVIL}.gguf"), ("inspect", next(tmp_path.iterdir()))):
        shown = run(*args)
        assert "error" in shown
        assert not any(c in shown for c in BAD), repr(shown)
    wrong = copy({"general.architecture": f"llama{EVIL}"})
    assert not any(c in run("generate", "-p", "x", "-m", wrong) for c in BAD)


def test_the_lines_of_a_server_that_starts(copy, process):
    server = process(model=copy({"general.name": EVIL}))
    until(lambda: "ready in" in server.output())
    assert not any(c in server.output() for c in BAD), repr(server.output())
    assert "\nerror: forged" not in server.output()


@pytest.mark.parametrize("count", [6, 1_000_000, (1 << 24)])
@pytest.mark.usefixtures("stories260k")
def test_layers_that_are_not_there(copy, count):
    file = copy({"llama.block_count": count})
    began = time.process_time()
    with Session(file) as session, pytest.raises(ModelFileError, match="tensors of layer 5 are missing"):
        session.model  # noqa: B018
    assert time.process_time() - began < 1
    shown = run("inspect", "--check", file)
    assert f"block_count is {count:,}, but tensors of layer 5 are missing" in shown
