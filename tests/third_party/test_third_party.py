"""Packages of other people, really installed: they appear everywhere, and broken ones break nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest

from llamakit.gguf import open_gguf
from llamakit.testing.renamed import write_renamed
from llamakit.testing.vocabulary import BYTES
from llamakit.train import checkpoint
from llamakit.train.report import read_log
from llamakit.train.scratch import ShapeOptions, choose_shape, write_new_model
from llamakit.train.vocabulary import add_vocabulary

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of an environment that sees this one's packages and has the two test packages installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    purelib = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    purelib.joinpath("outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    packages = [str(HERE / name) for name in ("llamakit-example", "llamakit-broken")]
    copies = []
    for package in packages:  # built from copies: a build leaves files beside its sources
        copy = folder / "src" / Path(package).name
        subprocess.check_call([sys.executable, "-c", f"import shutil; shutil.copytree({package!r}, {str(copy)!r})"])
        copies.append(str(copy))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        *copies,
    ]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return python


def run(python: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "llamakit", *map(str, args)], capture_output=True, text=True, check=False, timeout=100
    )


def test_they_are_listed_with_package_and_reason(python):
    infos = {(i["kind"], i["name"]): i for i in json.loads(run(python, "plugins", "--json").stdout)}
    for key in (
        ("backend", "traced"),
        ("architecture", "example-llama"),
        ("sampler", "cold"),
        ("optimizer", "lion"),
        ("frontend", "example"),
    ):
        assert infos[key]["package"] == "llamakit-example"
        assert infos[key]["version"] == "1.2.3"
        assert infos[key]["available"]
    assert "a_module_that_nobody_has" in infos["sampler", "broken"]["reason"]
    assert "unknown hook 'llamakit_sampler'" in infos["sampler", "misspelt"]["reason"]
    assert "llamakit_samplers" in infos["sampler", "misspelt"]["reason"]
    assert infos["sampler", "top_k"]["available"]


def test_the_command_is_there(python):
    assert "example" in run(python, "--help").stdout
    assert run(python, "greet", "you").stdout == "hello you\n"


def test_the_option_is_a_flag_a_setting_and_checked(python, small_model, tmp_path):
    help_ = run(python, "generate", "-h").stdout
    assert "--cold.strength" in help_
    assert "from other packages" in help_
    settings = json.loads(run(python, "config", "--json").stdout)
    assert settings["sampling.cold.strength"]["value"] == 1.0
    assert "backend.traced.inner" in settings
    base = (
        "generate",
        "-m",
        small_model,
        "-p",
        "Once",
        "-n",
        "12",
        "--seed",
        "5",
        "--samplers",
        "top_k;cold;temperature",
    )
    hot = run(python, *base, "--cold.strength", "0")
    cold = run(python, *base, "--cold.strength", "10")
    assert hot.returncode == cold.returncode == 0
    assert cold.stdout != hot.stdout
    wrong = run(python, *base, "--cold.strength", "11")
    assert wrong.returncode == 2
    assert "0..10" in wrong.stderr.replace(".0", "")


def test_the_backend_runs(python, stories260k):
    done = run(python, "generate", "-m", stories260k, "-p", "", "-n", "5", "--temp", "0", "--backend", "traced", "-v")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Once upon a time,"
    assert "traced" in done.stderr


def test_the_architecture_is_known(python, stories260k, tmp_path):
    path = write_renamed(stories260k, tmp_path / "example.gguf", "example-llama")
    done = run(python, "generate", "-m", path, "-p", "", "-n", "5", "--temp", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Once upon a time,"
    assert json.loads(run(python, "inspect", "--check", path, "--json").stdout)["faults"] == []


def test_the_optimizer_trains(python, tmp_path):
    listed = run(python, "plugins", "--kind", "optimizer").stdout
    assert "lion" in listed
    assert "adamw" in listed
    assert "top_k" not in listed
    (tmp_path / "data.txt").write_text("the cat sat on the mat. " * 100)
    shape = choose_shape(ShapeOptions(embd=16, layers=1, heads=2, ff=32), 259, 64)
    base = tmp_path / "base.gguf"
    write_new_model(base, shape, lambda writer: add_vocabulary(writer, BYTES), seed=1)
    command = (
        "finetune",
        "-m",
        base,
        "--data",
        tmp_path / "data.txt",
        "--optimizer",
        "lion",
        "-c",
        32,
        "--backend",
        "cpu",
    )
    out = tmp_path / "run"
    how = ("--full", "--lr", "1e-2", "--packing", "wrapped", "--schedule", "constant", "--warmup", 0)
    done = run(python, *command, "--out", out, *how, "--steps", 20, "--optimizer-options", "beta2=0.98")
    assert done.returncode == 0, done.stderr
    losses = [entry.loss for entry in read_log(out / "log.jsonl")]
    assert losses[-1] < losses[0] - 1
    with open_gguf(base) as before, open_gguf(checkpoint.latest(out / "checkpoints")[0]) as after:
        name = "blk.0.attn_q.weight"
        moved = np.abs(after.tensor(name) - before.tensor(name)) / 1e-2
        assert np.allclose(moved, np.round(moved), atol=1e-3)  # whole steps, as only its update makes them
        assert moved.max() > 1
        assert after.tensor(f"{name}.m").shape == (16, 16)
    wrong = run(python, *command, "--out", tmp_path / "b", "--optimizer-options", "beta2=1.5")
    assert wrong.returncode == 2
    assert "beta2" in wrong.stderr


def test_a_broken_plugin_is_named_when_it_is_asked_for(python, small_model):
    done = run(python, "generate", "-m", small_model, "-p", "x", "--samplers", "broken")
    assert done.returncode == 2
    assert "broken" in done.stderr
    assert run(python, "doctor").returncode == 1
