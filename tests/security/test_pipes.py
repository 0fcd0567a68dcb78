"""Pipes where files are wanted: texts are read from them, models are not, and none is waited for silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from llamakit.chat.template import source_of
from llamakit.cli import run
from llamakit.errors import UsageError
from llamakit.text_file import read_whole

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


# As a command in the foreground has it: tests that run in the background have Ctrl-C ignored.
START = """
import signal
from llamakit import start, text_file
signal.signal(signal.SIGINT, signal.default_int_handler)
text_file.PATIENCE = 0.1
start.main()
"""
TEXTS = [
    "--config PIPE config", "generate -p a -n 1 --grammar-file PIPE", "generate -p a -n 1 --json-schema-file PIPE",
    "generate -n 1 -f PIPE", "perplexity -f PIPE", "embed -f PIPE", "serve --port 0 --api-key-file PIPE",
    "serve --port 0 --chat-template PIPE", "grammar --grammar-file PIPE", "json-schema-to-grammar PIPE",
    "finetune --model-base MODEL --train-data PIPE",
]  # fmt: skip


@pytest.mark.parametrize("command", TEXTS)
def test_a_pipe_that_nobody_writes_to(pipe, small_model, tmp_path, command):
    """The command waited without a word."""
    words = {"PIPE": str(pipe), "MODEL": str(small_model)}
    args = [words.get(word, word) for word in command.split()]
    process = subprocess.Popen(
        [sys.executable, "-c", START, *args],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    told = []
    try:
        for line in process.stderr:
            told.append(line)
            if "waiting for the end of the pipe" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=20)[1]
    finally:
        process.kill()
    assert "waiting for the end of the pipe" in told[-1], told
    assert process.returncode == 130
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    "command",
    [
        "generate -m PIPE -p a", "quantize PIPE out.gguf Q8_0", "inspect PIPE", "lora info PIPE", "lora info peft",
        "lora info PIPE.safetensors", "generate -m MODEL -p a -n 1 --lora PIPE", "finetune -m MODEL --data PIPE -o run",
        "lora import PIPE -o a.gguf", "generate -m MODEL -p a -n 1 --prompt-cache PIPE",
    ],
)  # fmt: skip
def test_models_adapters_and_data_are_no_pipes(pipe, small_model, tmp_path, monkeypatch, capsys, command):
    """`lora info` of a PEFT folder waited for ever where its configuration was a pipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "peft").mkdir()
    os.mkfifo(tmp_path / "peft" / "adapter_config.json")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    os.mkfifo(tmp_path / "adapter_model.safetensors")
    words = {"PIPE": str(pipe), "MODEL": str(small_model), "PIPE.safetensors": "adapter_model.safetensors"}
    assert run([words.get(word, word) for word in command.split()]) in (2, 3, 6)
    assert "is a pipe or a device" in capsys.readouterr().err


def write(pipe, *parts):
    def writing():
        with pipe.open("wb", buffering=0) as file:
            for part in parts:
                file.write(part)

    threading.Thread(target=writing, daemon=True).start()


def test_what_is_written_to_a_pipe_is_read_to_its_end(pipe, capsys):
    write(pipe, b"a" * 100_000, b"b")
    assert read_whole(pipe) == b"a" * 100_000 + b"b"
    write(pipe, b"{{ ", b"x }}")
    assert source_of(str(pipe)) == "{{ x }}"
    write(pipe, b"threads = 3\n")
    assert run(["--config", str(pipe), "config"]) == 0
    assert "3" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("threads"))
    write(pipe, b'root ::= "zz"')
    assert run(["generate", "-p", "a", "-n", "3", "--grammar-file", str(pipe)]) == 0
    assert capsys.readouterr().out.strip().endswith("zz")


def test_a_shells_process_substitution(tmp_path):
    """A file of no name, /dev/fd/63: settings and keys from a secret store are given so."""
    command = f"{sys.executable} -m llamakit --config <(echo 'threads = 3') config"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, cwd=tmp_path)
    assert b"/dev/fd/" in done.stdout
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no device that never ends")
def test_a_device_that_never_ends(monkeypatch, capsys):
    """All memory was filled with it."""
    for args in (
        ["--config", "/dev/zero", "config"],
        ["grammar", "--grammar-file", "/dev/zero"],
        ["embed", "-f", "/dev/zero"],
    ):
        monkeypatch.setattr("llamakit.plugins.frontends.cli.params.MOST_TEXT", 1 << 20)
        assert run(args) == 2
        assert "/dev/zero is larger than" in capsys.readouterr().err
    with pytest.raises(UsageError, match="larger than"):
        source_of("/dev/zero")


def test_a_large_file_is_in_memory_once(tmp_path):
    """A text to learn from was there twice while it was read, which may be all memory."""
    file, size = tmp_path / "text", 32 << 20
    file.write_bytes(b"a" * size)
    tracemalloc.start()
    try:
        assert len(read_whole(file)) == size
        assert tracemalloc.get_traced_memory()[1] < 1.2 * size
    finally:
        tracemalloc.stop()
    with pytest.raises(UsageError, match="larger than 31 MiB"):
        read_whole(file, 31 << 20)
