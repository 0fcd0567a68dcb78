"""What is written takes the place of nothing that it was made from, nor of what is not the command's own."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys

import click
import numpy as np
import pytest

from llamakit.cli import llamakit, run
from llamakit.errors import UsageError
from llamakit.gguf import open_gguf
from llamakit.testing.lora import write_gguf_adapter

TRAINED = ("--steps", "1", "--ctx", "16", "--batch", "1", "--quiet")


@pytest.fixture
def files(small_model, tmp_path):
    """A model, an adapter for it as GGUF and as a PEFT folder, and a text, in a folder of the test's own."""
    model, lora, text = tmp_path / "model.gguf", tmp_path / "lora.gguf", tmp_path / "text.txt"
    shutil.copyfile(small_model, model)
    with open_gguf(model) as file:
        n_out, n_in = file.tensors["blk.0.attn_q.weight"].shape
    pair = {"lora_a": np.ones((2, n_in), np.float32), "lora_b": np.ones((n_out, 2), np.float32)}
    write_gguf_adapter(lora, {f"blk.0.attn_q.weight.{part}": values for part, values in pair.items()})
    assert run(["lora", "export", str(lora), "-m", str(model), "-o", str(tmp_path / "peft")]) == 0
    text.write_text("Once upon a time there was a cat.\n" * 40)
    return tmp_path


def refused(folder, capsys, *args):
    """The message of a command that must change no file."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run([str(each) for each in args]) == 2
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("lora merge -m model.gguf -l lora.gguf -o lora.gguf", "an adapter"),
        ("lora merge -m model.gguf -l peft -o peft/adapter_model.safetensors", "an adapter"),
        ("lora merge -m model.gguf -l peft/adapter_model.safetensors -o peft/adapter_config.json", "an adapter"),
        ("lora merge -m model.gguf -l lora.gguf -o model.gguf", "the base"),
        ("lora import lora.gguf -m model.gguf -o model.gguf", "the base"),
        ("lora import peft -m model.gguf -o peft/adapter_config.json", "the adapter"),
        ("lora export lora.gguf -m model.gguf -o model.gguf", "the base"),
        ("lora export lora.gguf -m model.gguf -o lora.gguf --to ggla", "the adapter"),
        ("lora export peft -m model.gguf -o peft", "the adapter"),
        ("convert-checkpoint -i model.gguf -o model.gguf", "the checkpoint"),
        ("convert-checkpoint -i lora.gguf --vocab-model model.gguf -o model.gguf", "the vocabulary's model"),
        ("finetune --model-base model.gguf --train-data text.txt --lora-out model.gguf", "what is learned from"),
        ("finetune --model-base model.gguf --train-data text.txt --checkpoint-out text.txt", "learned from"),
        ("train-text-from-scratch --vocab-model model.gguf --train-data text.txt --model-out model.gguf", "from"),
        ("train-text-from-scratch --vocab-model model.gguf --train-data text.txt --checkpoint-in lora.gguf "
         "--model-out lora.gguf", "the checkpoint"),
        ("finetune -m model.gguf --data text.txt --full --out .", "what the run learns from"),
        ("train --vocab model.gguf --data text.txt --out .", "what the run learns from"),
    ],
)  # fmt: skip
def test_no_command_writes_over_what_it_reads(files, capsys, monkeypatch, command, what):
    """The base, the adapter or the data was gone."""
    monkeypatch.chdir(files)
    assert f"{what}: name another file or folder" in refused(files, capsys, *command.split())


def test_what_lies_in_the_folder_of_an_adapter_may_be_made_again(files):
    """The second time it was refused, as if it were the adapter."""
    for command in ("lora merge -m model.gguf -l peft", "lora import peft -m model.gguf"):
        args = [str(files / part) if (files / part).exists() else part for part in command.split()]
        for _ in range(2):
            assert run([*args, "-o", str(files / "peft" / "made.gguf")]) == 0


def test_a_link_that_leads_nowhere_hides_no_adapter(files, capsys, monkeypatch):
    """Where one lay beside the adapter, the rest of the folder was not looked at."""
    monkeypatch.chdir(files)
    for name in range(20):
        (files / "peft" / str(name)).symlink_to("nowhere")
    args = ["lora", "merge", "-m", "model.gguf", "-l", "peft", "-o", "peft/adapter_model.safetensors"]
    assert "an adapter:" in refused(files, capsys, *args)


def test_a_link_to_what_is_read_is_what_is_read(files, capsys):
    (files / "link.gguf").symlink_to("model.gguf")
    (files / "hard.gguf").hardlink_to(files / "model.gguf")
    for name in ("link.gguf", "hard.gguf"):
        told = refused(files, capsys, "quantize", files / "model.gguf", files / name, "Q8_0")
        assert "would replace the source" in told


def test_no_part_of_a_split_model_is_written_over(files, capsys):
    """Only the one that was named was looked at."""
    from llamakit.gguf import GGUFWriter

    parts = [files / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    for i, path in enumerate(parts):
        with open_gguf(files / "model.gguf") as file, GGUFWriter(path) as writer:
            for key in file.metadata:
                writer.add(key, file.metadata[key], *file.metadata.value_type(key))
            writer.add("split.count", 2)
            for name in list(file.tensors)[i::2]:
                writer.add_tensor(name, file.raw(name), file.tensors[name].type, file.tensors[name].shape)
    assert "the source:" in refused(files, capsys, "quantize", parts[0], parts[1], "Q8_0")
    args = ["finetune", "--model-base", parts[0], "--train-data", files / "text.txt", "--lora-out", parts[1],
            "--adam-iter", "1", "--ctx", "16", "--batch", "1"]  # fmt: skip
    assert "what is learned from:" in refused(files, capsys, *args)
    args = ["convert-checkpoint", "-i", files / "lora.gguf", "--vocab-model", parts[0], "-o", parts[1]]
    assert "the vocabulary's model:" in refused(files, capsys, *args)


@pytest.mark.parametrize(("name", "full"), [("model.gguf", True), ("adapter.gguf", False), ("log.jsonl", False)])
def test_a_run_in_a_folder_with_files_of_others(files, capsys, name, full):
    """A model that was there was gone after the first checkpoint, and data of this name at once."""
    folder = files / "out"
    folder.mkdir()
    (folder / name).write_bytes(b'{"messages": []}\n')
    args = ["finetune", "-m", files / "model.gguf", "--data", files / "text.txt", "--out", folder, *TRAINED]
    assert "is there already; the run would replace it" in refused(files, capsys, *args, *["--full"] * full)
    (folder / name).unlink()
    assert run([str(each) for each in args]) == 0


def test_data_that_is_called_as_the_log(files, capsys):
    folder = files / "out"
    folder.mkdir()
    data = folder / "log.jsonl"
    data.write_text('{"step": 1, "text": "Once upon a time there was a cat."}\n')
    args = ["finetune", "-m", files / "model.gguf", "--data", data, "--out", folder, *TRAINED]
    assert "what the run learns from:" in refused(files, capsys, *args)


def test_a_run_that_ended_before_its_first_checkpoint_may_be_started_again(files):
    folder = files / "out"
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step":1,"loss":3.5}\n')
    args = ["finetune", "-m", files / "model.gguf", "--data", files / "text.txt", "--out", folder, *TRAINED]
    assert run([str(each) for each in args]) == 0


# -- names that cannot be, pipes, and ends ----------------------------------------------------------------------------


def test_a_name_may_be_as_long_as_the_disk_takes(files):
    """What is not whole yet has a longer name, which was too long for names of other scripts."""
    out = files / ("漢" * 83 + ".gg")
    assert run(["quantize", str(files / "model.gguf"), str(out), "Q8_0"]) == 0
    assert out.exists()


LONG = "a" * 300


@pytest.mark.parametrize(
    "command",
    [f"quantize model.gguf {LONG} Q8_0", f"lora merge -m model.gguf -l {LONG} -o out.gguf",
     f"finetune -m model.gguf --data {LONG} --out run", "finetune -m model.gguf --data ~nobody/x --out run",
     f"finetune -m model.gguf --data text.txt --val-data {LONG} --out run", f"data check {LONG} -m model.gguf",
     f"lora info {LONG}", f"lora export lora.gguf -m model.gguf -o {LONG}", f"lora info {LONG}.safetensors",
     f"convert-checkpoint -i model.gguf -o {LONG}", f"generate -m model.gguf -p x -n 1 --logdir {LONG}",
     f"train --data {LONG} --out run", f"--config {LONG} config"],
)  # fmt: skip
def test_names_that_are_too_long_are_told(files, capsys, monkeypatch, command):
    """Of some commands that was an internal error with a report."""
    monkeypatch.chdir(files)
    assert run(command.split()) in (2, 3, 6)
    told = capsys.readouterr().err
    assert "error: " in told
    assert "internal" not in told


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names there")
def test_data_is_no_pipe(files, capsys):
    """It is read more than once: only what the first look had left over was learned from, without a word."""
    os.mkfifo(files / "pipe.txt")
    told = refused_data(files, capsys, files / "pipe.txt")
    assert "is a pipe or a device; data are read more than once" in told
    assert "is a pipe or a device" in refused_data(files, capsys, "/dev/null")


def refused_data(files, capsys, data):
    assert run(["data", "check", str(data), "-m", str(files / "model.gguf")]) == 6
    return capsys.readouterr().err


ENDED = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that are run in the background have both ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
from llamakit.cli import main
from llamakit.gguf import quantize
def slow(*args):
    print("at work", flush=True)
    time.sleep(0.3)
    return as_ever(*args)
as_ever, quantize.dequantize = quantize.dequantize, slow
main(["quantize", *sys.argv[1:], "Q8_0"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nobody is asked to end there")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_command_that_is_ended_leaves_nothing_half_written(files, number):
    """kill, or closing the terminal, left a hidden file as large as the model, each time."""
    args = [sys.executable, "-c", ENDED, files / "model.gguf", files / "out.gguf"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"at work\n"
        process.send_signal(getattr(signal, number))
        process.stdout.read()
        assert process.wait(60) == (130 if number == "SIGINT" else -getattr(signal, number))
    assert not [path.name for path in files.iterdir() if path.name.endswith(".part")]
    assert not (files / "out.gguf").exists()


@pytest.mark.parametrize("fails", [1, 2])
def test_a_peft_folder_is_replaced_as_a_whole(files, monkeypatch, fails):
    """On a disk that got full in between, new weights had the old scale."""
    before = {path.name: path.read_bytes() for path in (files / "peft").iterdir()}
    with open_gguf(files / "model.gguf") as file:
        n_out, n_in = file.tensors["blk.0.attn_q.weight"].shape
    pair = {"lora_a": np.ones((4, n_in), np.float32), "lora_b": np.ones((n_out, 4), np.float32)}
    other = write_gguf_adapter(
        files / "other.gguf", {f"blk.0.attn_q.weight.{part}": values for part, values in pair.items()}, alpha=1.0
    )
    called = []

    def fsync(descriptor):
        called.append(descriptor)
        if len(called) == fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        args = ["lora", "export", other, "-m", files / "model.gguf", "-o", files / "peft"]
        assert run([str(each) for each in args]) == 6
    assert {path.name: path.read_bytes() for path in (files / "peft").iterdir()} == before


STDOUT = {
    "quantize model.gguf - Q8_0": "OUT",
    "lora merge -m model.gguf -l lora.gguf -o -": "--output",
    "lora import peft -o -": "--output",
    "lora export lora.gguf -o - --to gguf": "--output",
    "export-lora -m model.gguf -l lora.gguf -o -": "--model-out",
    "convert-checkpoint -i model.gguf -o -": "--output",
    "generate -m model.gguf -p a -n 1 --prompt-cache -": "--prompt-cache",
    "generate -m model.gguf -p a -n 1 --logdir -": "--logdir",
    "bench -m model.gguf --plot -": "--plot",
    "finetune -m model.gguf --data text.txt -o -": "--out",
    "train --data text.txt --out=- --params 100K": "--out",
    "finetune --model-base model.gguf --train-data text.txt --lora-out -": "--lora-out",
    "finetune --model-base model.gguf --train-data text.txt --checkpoint-out -": "--checkpoint-out",
    "train-text-from-scratch --vocab-model model.gguf --train-data text.txt --model-out -": "--model-out",
}


@pytest.mark.parametrize("command", STDOUT)
def test_a_dash_is_no_file_to_write(files, capsys, monkeypatch, command):
    """It means standard output to people, who got a file called - and an empty pipe."""
    monkeypatch.chdir(files)
    error = refused(files, capsys, *command.split())
    assert f"{STDOUT[command]} -: " in error
    assert not (files / "-").exists()


def test_every_option_to_write_by_refuses_a_dash():
    """What the help calls an output, of any command, so that a new one is not forgotten."""
    words = re.compile(r"\b(out|output|dest|destination|logdir|plot|prompt_cache|model_out|train_out)\b")
    context = click.Context(llamakit)
    found = {}
    for name in llamakit.list_commands(context):
        command = llamakit.get_command(context, name)
        for each in [command, *getattr(command, "commands", {}).values()]:
            found |= {f"{name} {each.name} {p.name}": p for p in each.params if words.search(p.name)}
    assert len(found) >= 10
    for param in found.values():
        with pytest.raises(UsageError, match="not to standard output"):
            param.type.convert("-", param, context)


def test_a_file_called_a_dash_can_be_written(files, monkeypatch):
    monkeypatch.chdir(files)
    assert run(["quantize", "model.gguf", "./-", "Q8_0"]) == 0
    assert (files / "-").exists()
