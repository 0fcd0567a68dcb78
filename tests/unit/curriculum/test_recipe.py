"""The recipe: its options are those of training, and what is done is not done again."""

from __future__ import annotations

import json
import subprocess

import pytest
from curriculum import recipe
from curriculum.mix import STAGES

from llamakit import Session
from llamakit.options import build_options
from llamakit.train.options import TrainOptions


@pytest.mark.parametrize("made", recipe.RECIPES.values())
def test_phases_are_the_stages_and_have_options_that_training_knows(made):
    assert [phase.stage for phase in made.phases] == [stage.name for stage in STAGES]
    for phase in made.phases:
        options = build_options(TrainOptions, recipe.COMMON | phase.options)
        assert options.full


def test_flags_are_as_the_command_line_takes_them():
    options = {"full": True, "shuffle": False, "lr": 1e-3, "optimizer_options": {"beta2": 0.98, "eps": 1e-8}}
    assert recipe.flags(options) == [
        "--full", "--no-shuffle", "--lr", "0.001", "--optimizer-options", "beta2=0.98",
        "--optimizer-options", "eps=1e-08",
    ]  # fmt: skip


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    asked: list[list[str]] = []

    def trained(command, check):
        """Stands for the trainer: the model that it is given, or that of the folder which it goes on with."""
        asked.append(command)
        out = command[command.index("--out") + 1] if "--out" in command else command[-1]
        if len(asked) == 2:
            (tmp_path / "middle" / "checkpoints").mkdir(parents=True)
            (tmp_path / "middle" / "checkpoints" / "step-00000001.gguf").touch()
            (tmp_path / "middle" / "model.gguf").touch()
            raise subprocess.CalledProcessError(130, command)
        (tmp_path / out).mkdir(exist_ok=True)
        (tmp_path / out / "model.gguf").touch()

    monkeypatch.setattr(subprocess, "run", trained)
    with pytest.raises(subprocess.CalledProcessError):
        recipe.train(recipe.SHORT, tmp_path, 1)
    assert recipe.train(recipe.SHORT, tmp_path, 1) == tmp_path / "brief" / "model.gguf"
    bases = [command[command.index("-m", 3) + 1] for command in asked if "--data" in command]
    assert bases == [
        str(tmp_path / f"{name}.gguf")
        for name in ("first", "easy/model", "middle/model", "hard/model", "long/model", "wide/model", "both/model")
    ]
    assert asked[2][3:] == ["finetune", "resume", str(tmp_path / "middle")]


def test_the_first_steps_leave_a_model_and_its_tests(tmp_path):
    recipe.prepare(recipe.SHORT, tmp_path, None)
    before = (tmp_path / "first.gguf").stat().st_mtime_ns
    recipe.prepare(recipe.SHORT, tmp_path, None)
    assert (tmp_path / "first.gguf").stat().st_mtime_ns == before
    assert len((tmp_path / "data" / "easy.jsonl").read_text(encoding="utf-8").splitlines()) == 400
    tests = recipe.evaluate.read(tmp_path / "data" / "tests.jsonl")
    assert len(tests) == 10 * recipe.SHORT.tests
    with Session(tmp_path / "first.gguf", threads=1) as session:
        assert session.model.hparams.n_embd == recipe.SHORT.shape.n_embd
        assert recipe.evaluate.score(session, tests[:2])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_short_run_learns_something(tmp_path):
    recipe.run(recipe.SHORT, tmp_path, None, 1)
    logs = [(tmp_path / phase.stage / "log.jsonl").read_text(encoding="utf-8") for phase in recipe.SHORT.phases]
    losses = [[json.loads(line)["val_loss"] for line in log.splitlines() if "val_loss" in line] for log in logs]
    assert losses[3][-1] < 0.8 * losses[0][0]  # of the same tasks; later stages have others
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    kinds = {record["kind"] for record in recipe.evaluate.read(tmp_path / "data" / "tests.jsonl")}
    for name in ("wide", "brief"):
        records = recipe.evaluate.read(tmp_path / "data" / f"tests-{name}.jsonl")
        kinds |= {f"{record['kind']}, {name}" for record in records}
    assert set(scores) == kinds
    assert (tmp_path / "model.gguf").stat().st_size < (tmp_path / "first.gguf").stat().st_size / 3
