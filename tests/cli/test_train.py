"""`llamakit train`: from a text file to a model that runs, and what goes wrong on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from llamakit import Session
from llamakit.cli import run
from llamakit.gguf import open_gguf
from llamakit.gguf.writer import GGUFWriter
from llamakit.testing.vocabulary import BYTES
from llamakit.train import checkpoint
from llamakit.train.report import read_log
from llamakit.train.vocabulary import add_vocabulary

TEXT = "the cat sat on the mat and the dog sat on the log.\n"
QUICK = ("--backend", "cpu", "-c", 32, "-b", 2, "--layers", 1, "--embd", 16, "--heads", 2, "--save-every", 2)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n\n".join(f"{i} and {TEXT * 8}" for i in range(30)))
    return path


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocabulary.gguf"
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        add_vocabulary(writer, BYTES, "{% for m in messages %}{{ m.content }}{% endfor %}")
    return path


def trained(capsys, *args):
    """Exit code, the record on stdout, and what stderr says."""
    code = run(["train", *map(str, args), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


def test_a_text_becomes_a_model_that_writes_like_it(capsys, text, tmp_path):
    out = tmp_path / "run"
    code, record, told = trained(
        capsys, "--data", text, "--out", out, *QUICK, "--steps", 150, "--lr", 1e-2, "--name", "cats", "-q"
    )
    assert (code, record["reason"], told) == (0, "done", "")
    assert Path(record["file"]) == out / "model.gguf"
    losses = [entry.loss for entry in read_log(out / "log.jsonl")]
    assert len(losses) == 150
    assert losses[-1] < 0.4 * losses[0]
    with open_gguf(out / "model.gguf") as file:
        assert file.metadata["general.name"] == "cats"
        assert file.metadata["llama.context_length"] == 32
        assert "<|assistant|>" in file.metadata["tokenizer.chat_template"]
        assert "output.weight" not in file.tensors
    with Session(out / "model.gguf", backend="cpu") as session:
        assert "cat sat" in session.generate("the ", max_tokens=30, samplers=("greedy",)).text
        assert session.tokenizer.encode("<|user|>", parse_special=True) == [session.tokenizer.id_of("<|user|>")]


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(capsys, text, tmp_path):
    args = ("--data", text, *QUICK, "--val-split", 0)
    trained(capsys, *args, "--out", tmp_path / "whole", "--steps", 6)
    code, record, told = trained(capsys, *args, "--out", tmp_path / "parts", "--steps", 6, "--max-minutes", 1e-9)
    assert (code, record["reason"], record["step"]) == (0, "time", 1)
    assert f"llamakit train resume {tmp_path / 'parts'}" in told
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "parts", moved)  # with its init.gguf
    code, record, _ = trained(capsys, "resume", moved, "--max-minutes", 0, *QUICK[:2])
    assert (code, record["step"]) == (0, 6)
    assert (moved / "model.gguf").read_bytes() == (tmp_path / "whole" / "model.gguf").read_bytes()


def test_the_vocabulary_and_template_of_another_model(capsys, text, vocabulary, tmp_path):
    args = ("--data", text, "--out", tmp_path / "run", *QUICK, "--vocab", vocabulary, "--steps", 1, "--no-tied")
    assert trained(capsys, *args, "--ff", 64, "--kv-heads", 1, "--rope-base", 5e5)[0] == 0
    with open_gguf(tmp_path / "run" / "model.gguf") as made, open_gguf(vocabulary) as source:
        keys = [key for key in source.metadata if key.startswith("tokenizer.")]
        assert keys == [key for key in made.metadata if key.startswith("tokenizer.")]
        for key in keys:
            found, expected = (file.metadata[key] for file in (made, source))
            assert found == expected if isinstance(found, (str, bool, int)) else list(found) == list(expected), key
            assert made.metadata.value_type(key) == source.metadata.value_type(key)
        assert made.tensors["output.weight"].shape == (259, 16)
        assert made.tensors["blk.0.attn_k.weight"].shape == (8, 16)
        assert made.tensors["blk.0.ffn_up.weight"].shape == (64, 16)
        assert made.metadata["llama.rope.freq_base"] == 5e5


def test_the_defaults_of_pretraining(capsys, text, vocabulary, tmp_path):
    common = ("--out", tmp_path / "run", *QUICK, "--vocab", vocabulary, "--steps", 1)
    trained(capsys, "--data", text, *common, "--optimizer-options", "weight_decay=0.2")
    _, head = checkpoint.latest(tmp_path / "run" / "checkpoints")
    o = head.options
    assert (o.full, o.train_on, o.packing, o.lr) == (True, "all", "wrapped", 1e-3)
    assert o.optimizer_options == {"beta2": 0.95, "weight_decay": 0.2}
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"prompt": "the cat", "completion": "sat on the mat"}) + "\n")
    common = ("--out", tmp_path / "chats", *QUICK, "--vocab", vocabulary, "--steps", 1)
    assert trained(capsys, "--data", chats, *common, "--optimizer", "sgd")[0] == 0
    _, head = checkpoint.latest(tmp_path / "chats" / "checkpoints")
    assert (head.options.packing, head.options.optimizer_options) == ("segments", {})


def test_as_many_steps_as_fit_into_the_time(capsys, text, vocabulary, tmp_path):
    args = ("--data", text, "--out", tmp_path / "run", *QUICK, "--vocab", vocabulary, "--max-minutes", 0.02)
    code, record, _ = trained(capsys, *args)
    assert code == 0
    assert record["total"] >= 1
    _, head = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert head.options.steps == record["total"]


def test_the_vocabulary_leaves_out_what_looks_like_a_control_token(capsys, tmp_path):
    (tmp_path / "a.txt").write_text("<|user|> and </s> and <tool_call> are names. " * 50)
    args = ("--data", tmp_path / "a.txt", "--out", tmp_path / "run", *QUICK, "--steps", 1)
    assert trained(capsys, *args)[0] == 0
    with Session(tmp_path / "run" / "model.gguf") as session:
        pieces = session.file.metadata["tokenizer.ggml.tokens"]
        assert not [piece for piece in pieces if "|" in piece and not piece.startswith("<|")]
        assert len(session.tokenizer.encode("<|user|>")) > 1


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--embd", 17], "--embd 17 is not a multiple of 4"),
        (["--params", "big", "--layers", 0], "--params 'big' is not a size of a model"),
        (["--params", "1k", "--layers", 0, "--embd", 0], "no model of 1k parameters"),
        (["--vocab-size", 100], "no room for pieces"),
        (["--vocab-size", 100000], "no vocabulary of 100000 tokens"),
        (["--vocab", "missing.gguf"], "missing.gguf"),
        (["--vocab", "text.txt"], "text.txt"),
        (["--optimizer", "adamx"], "adamx"),
        (["--data", "none.txt"], "none.txt"),
        (["--data", "empty.txt"], "no text"),
    ],
)
def test_what_is_wrong_is_told(capsys, text, tmp_path, monkeypatch, args, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n")
    data = [] if "--data" in args else ["--data", text]
    code, _, told = trained(capsys, *data, "--out", tmp_path / "run", *QUICK, *args)
    assert code in (2, 3, 5, 6)
    assert error in told
    assert not (tmp_path / "run" / "model.gguf").exists()


def test_a_full_disk_leaves_nothing_half_written(capsys, text, vocabulary, tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    args = ("--data", text, "--out", tmp_path / "run", *QUICK, "--vocab", vocabulary, "--steps", 1)
    code, _, told = trained(capsys, *args)
    assert code != 0
    assert "init.gguf cannot be written: No space left on device" in told
    assert not (tmp_path / "run").exists()


def test_data_and_out_are_asked_for(capsys, text, tmp_path):
    assert "--out is missing" in trained(capsys, "--data", text)[2]
    assert "--data is missing" in trained(capsys, "--out", tmp_path / "run")[2]


def test_a_folder_with_a_run_is_left_alone(capsys, text, vocabulary, tmp_path):
    args = ("--data", text, "--out", tmp_path / "run", *QUICK, "--vocab", vocabulary, "--steps", 1)
    assert trained(capsys, *args)[0] == 0
    before = (tmp_path / "run" / "init.gguf").stat().st_mtime_ns
    code, _, told = trained(capsys, *args)
    assert code == 2
    assert "holds a run already" in told
    assert (tmp_path / "run" / "init.gguf").stat().st_mtime_ns == before


def test_first_weights_depend_on_the_seed_alone(capsys, text, vocabulary, tmp_path):
    made = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        common = ("--data", text, "--out", tmp_path / name, *QUICK, "--vocab", vocabulary, "--steps", 1)
        trained(capsys, *common, "--seed", seed)
        with open_gguf(tmp_path / name / "init.gguf") as file:
            made[name] = file.tensor("blk.0.attn_q.weight")
    assert np.array_equal(made["a"], made["b"])
    assert not np.array_equal(made["a"], made["c"])
