"""Plans beside what runs then take, and advice that fits."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from llamakit.cli import run
from llamakit.gguf.quantize import quantize_file
from llamakit.testing.vocabulary import BYTES
from llamakit.train.options import TrainOptions
from llamakit.train.plan import advice
from llamakit.train.scratch import ShapeOptions, choose_shape, write_new_model
from llamakit.train.vocabulary import add_vocabulary
from tests.unit.train.tiny import TEXT

REAL = """
import ctypes, gc, json, sys
from llamakit import Session

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

base, data, warm, out, options = *sys.argv[1:5], json.loads(sys.argv[5])
with Session(warm, backend="cpu", threads=2) as session:  # a run of the same kind, for all that is imported
    session.trainer(data=[data], out=out + "-warm", ctx=32, batch=1, steps=1, **options["kind"]).run()
session = Session(base, backend="cpu", threads=2)
trainer = session.trainer(data=[data], out=out, **options["kind"], **options["sizes"])
trainer.windows, trainer.graphs, trainer.check_folder()
gc.collect()
ctypes.CDLL("libc.so.6").malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = status("VmRSS:")
trainer.run()
print(json.dumps({"peak": status("VmHWM:") - before}))
"""
SHAPE = ShapeOptions(embd=512, layers=6, heads=8, kv_heads=4, ff=1408)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 17 million parameters in F32 and Q8_0, and a text."""
    folder = tmp_path_factory.mktemp("plan")
    write_new_model(folder / "f32.gguf", choose_shape(SHAPE, 259, 512), lambda w: add_vocabulary(w, BYTES), seed=1)
    quantize_file(folder / "f32.gguf", folder / "q8_0.gguf", "q8_0")
    (folder / "data.txt").write_text(TEXT * 400)
    return folder


def planned(folder, capsys, name: str, sizes: dict, kind: dict, *more: str) -> dict:
    flags = []
    for key, value in {**sizes, **kind}.items():
        flag = key.replace("_", "-")
        flags += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
    data = ["-m", str(folder / f"{name}.gguf"), "--data", str(folder / "data.txt"), "--threads", "2"]
    assert run(["finetune", "plan", *data, *flags, *more, "--backend", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def real(folder, out, name: str, base, sizes: dict, kind: dict) -> int:
    """The peak of a process of its own that does two steps and saves."""
    options = json.dumps({"sizes": {**sizes, "steps": 2}, "kind": kind})
    args = [folder / f"{name}.gguf", folder / "data.txt", base, out, options]
    told = subprocess.check_output([sys.executable, "-c", REAL, *map(str, args)], text=True, timeout=300)
    return json.loads(told.splitlines()[-1])["peak"]


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
CASES = {
    "adapter": ("q8_0", {"ctx": 256, "batch": 4}, {"val_split": 0.0}),
    "again": ("q8_0", {"ctx": 256, "batch": 4}, {"val_split": 0.0, "checkpointing": "on"}),
    "validated": ("q8_0", {"ctx": 256, "batch": 4}, {"val_split": 0.1}),
    "full": ("f32", {"ctx": 256, "batch": 1}, {"val_split": 0.0, "full": True}),
}


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_within_five_percent_of_the_real_peak(folder, base, tmp_path, capsys, case):
    name, sizes, kind = CASES[case]
    told = planned(folder, capsys, name, sizes, kind)["memory"]
    peak = real(folder, tmp_path / "run", name, base, sizes, kind)
    print(f"{case}: {told / 2**20:.1f} MiB planned, {peak / 2**20:.1f} MiB at the peak")
    assert peak > 60 << 20
    assert told == pytest.approx(peak, rel=0.05)


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_is_advised_fits_when_it_is_run(folder, base, tmp_path, capsys):
    name, sizes, kind = CASES["adapter"]
    limit = 170 << 20
    found = planned(folder, capsys, name, sizes, kind, "--memory", str(limit))
    assert found["memory"] > limit
    made = found["advice"]
    assert made["fits"]
    assert made["memory"] <= limit
    again = planned(folder, capsys, name, {**sizes, **made["changes"]}, kind, "--memory", str(limit))
    assert again["memory"] == made["memory"]
    assert "advice" not in again
    peak = real(folder, tmp_path / "run", name, base, {**sizes, **made["changes"]}, kind)
    print(f"{made['flags']}: {made['memory'] / 2**20:.1f} MiB advised, {peak / 2**20:.1f} MiB at the peak")
    assert peak <= 1.02 * limit
    assert peak == pytest.approx(made["memory"], rel=0.05)


def memory_of(changes: dict) -> int:
    """Of a run with 8 windows of 1024 tokens a micro-step: 10 that stay, 4 of moments, 12 a window."""
    values = 12 * changes.get("batch", 8) * changes.get("ctx", 1024) / 1024
    values *= 0.5 if changes.get("checkpointing") == "on" else 1.0
    return round(10 + (1 if changes.get("optimizer") == "adamw_8bit" else 4) + values)


@pytest.mark.parametrize(("limit", "changes"), [
    (110, {}), (109, {"batch": 4, "grad_accumulation": 4}), (26, {"batch": 1, "grad_accumulation": 16}),
    (25, {"checkpointing": "on", "batch": 1, "grad_accumulation": 16}),
    (19, {"checkpointing": "on", "optimizer": "adamw_8bit", "batch": 1, "grad_accumulation": 16}),
    (15, {"checkpointing": "on", "optimizer": "adamw_8bit", "ctx": 512, "batch": 1, "grad_accumulation": 16}),
    (12, {"checkpointing": "on", "optimizer": "adamw_8bit", "ctx": 256, "batch": 1, "grad_accumulation": 16}),
])  # fmt: skip
def test_what_changes_least_is_advised(limit, changes):
    found = advice(TrainOptions(batch=8, grad_accumulation=2), 1024, memory_of, limit)
    assert (found.changes, found.fits) == (changes, True)
    assert found.memory == memory_of(changes) <= limit


def test_what_takes_least_is_told_where_nothing_fits():
    options = TrainOptions(batch=3, optimizer="sgd", checkpointing="on")
    found = advice(options, 200, memory_of, 5)
    assert (found.changes, found.fits) == ({"ctx": 128, "batch": 1, "grad_accumulation": 3}, False)
    assert found.flags == "--ctx 128 --batch 1 --grad-accumulation 3"
    assert advice(TrainOptions(batch=1, optimizer="sgd", checkpointing="on"), 64, memory_of, 5).flags == ""


def test_advice_for_people(base, data, capsys):
    args = ["finetune", "plan", "-m", str(base), "--data", str(data), "--backend", "cpu", "-c", "64"]
    assert run([*args, "--memory", "1.7M"]) == 0
    told = capsys.readouterr().out
    assert "of 1.70 MiB allowed" in told
    (flags, size) = re.search(r"^it does not fit; this does: (.*) \((.*) MiB\)$", told, re.MULTILINE).groups()
    assert float(size) <= 1.7
    assert run([*args, *flags.split(), "--memory", "1.7M"]) == 0
    assert "does not fit" not in capsys.readouterr().out
    assert run([*args, "--memory", "1K"]) == 0
    assert re.search(
        r"^it does not fit: with --checkpointing on .* it still takes ", capsys.readouterr().out, re.MULTILINE
    )


@pytest.mark.parametrize("size", ["", "x", "-1", "nan", "inf", "1e9", "9" * 400, "8 Q", "0x10"])
def test_sizes_that_are_none(base, data, capsys, size):
    assert run(["finetune", "plan", "-m", str(base), "--data", str(data), "--memory", size]) == 2
    assert "--memory cannot be" in capsys.readouterr().err
