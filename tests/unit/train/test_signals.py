"""What ends a run from outside, or does not: signals, a terminal that is closed, a reader that goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from llamakit.train import checkpoint
from llamakit.train.report import read_log
from llamakit.training import Trainer
from tests.waiting import until

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="signals of POSIX"), pytest.mark.slow]


# A shell cannot take back that a signal is ignored.
NOT_IGNORED = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def running(base, data, out, *more, before: str = "", steps: int = 100_000, **streams):
    """`llamakit finetune` in a process of its own, which a closed terminal ends even where tests run under nohup."""
    args = ["-m", base, "--data", data, "--out", out, "--backend", "cpu", "-c", 16, "-b", 2, "--threads", 1]
    command = [sys.executable, "-m", "llamakit", "finetune", *map(str, [*args, "--steps", steps, *more])]
    if before:
        command = ["sh", "-c", f'{before}; exec "$@"', "sh", *command]
    command = [sys.executable, "-c", NOT_IGNORED, *command]
    with subprocess.Popen(command, **{"stderr": subprocess.PIPE, "text": True, **streams}) as process:
        try:
            yield process
        finally:
            process.kill()


def shown_by_shells(process) -> int:
    """The exit code, which is 128 and the signal's number for a process that one has ended."""
    return 128 - process.returncode if process.returncode < 0 else process.returncode


def steps_of(out) -> list[int]:
    return [entry.step for entry in read_log(out / "log.jsonl")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_a_checkpoint(base, data, tmp_path, number):
    out = tmp_path / "run"
    with running(base, data, out) as process:
        until(lambda: len(steps_of(out)) >= 2)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on:     llamakit finetune resume {out}" in told
    *_, (step, _) = checkpoint.numbered(out / "checkpoints")
    assert steps_of(out) == list(range(1, step + 1))
    assert (out / "adapter.gguf").exists()
    assert Trainer.resume(out, steps=step + 1).run().step == step + 1


def test_a_run_that_ignores_a_closed_terminal_goes_on(base, data, tmp_path):
    """As nohup has it."""
    out = tmp_path / "run"
    with running(base, data, out, before="trap '' HUP", steps=300) as process:
        until(lambda: len(steps_of(out)) >= 2)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=90)
    assert process.returncode == 0
    assert steps_of(out)[-1] == 300


def test_a_second_signal_ends_at_once_and_leaves_nothing_half_written(base, data, tmp_path):
    out = tmp_path / "run"
    with running(base, data, out, "--save-every", 1) as process:
        until(lambda: len(steps_of(out)) >= 5)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        process.communicate(timeout=60)
    assert shown_by_shells(process) == 130  # the second may come when the first has done its work
    assert [path.name for path in out.rglob("*.part")] == []
    last = checkpoint.numbered(out / "checkpoints")[-1][0]
    assert Trainer.resume(out, steps=last + 1).run().step == last + 1


def test_a_run_whose_lines_nobody_reads_goes_on(base, data, tmp_path):
    """`llamakit finetune ... 2>&1 | head`, or a window that was closed."""
    out = tmp_path / "run"
    with running(base, data, out, "--val-every", 20, steps=100) as process:
        for _ in range(4):
            assert process.stderr.readline()
        process.stderr.close()
        process.wait(90)
    assert steps_of(out) == list(range(1, 101))
    assert checkpoint.numbered(out / "checkpoints")[-1][0] == 100


def test_a_terminal_that_is_closed_ends_the_run_with_a_checkpoint(base, data, tmp_path):
    """The live view writes to it until then."""
    pty = pytest.importorskip("pty")
    out, (master, slave) = tmp_path / "run", pty.openpty()
    with running(base, data, out, stderr=slave, start_new_session=True) as process:
        os.close(slave)
        until(lambda: len(steps_of(out)) >= 2)
        os.close(master)
        process.send_signal(signal.SIGHUP)  # what a terminal of one's own session sends
        process.wait(60)
    last = checkpoint.numbered(out / "checkpoints")[-1][0]
    assert steps_of(out) == list(range(1, last + 1))
    assert (out / "adapter.gguf").exists()


def test_a_run_killed_while_it_exports_goes_on_to_the_same_bytes(base, data, tmp_path):
    """Between the checkpoint of the best weights and what is served of them, and in the middle of writing that."""
    script = """
import os, sys, json, signal
from llamakit import Session
from llamakit.gguf.writer import GGUFWriter
base, data, out, moment, options = *sys.argv[1:5], json.loads(sys.argv[5])
write = GGUFWriter._write
def killed(self, file):
    if self.path.name == "adapter.gguf" and (self.path.parent / "checkpoints" / "step-00000004.gguf").exists():
        if moment == "middle":
            write(self, file)
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, file)
GGUFWriter._write = killed
Session(base, backend="cpu").trainer(data=[data], out=out, **options).run()
"""
    options = {"ctx": 16, "batch": 2, "rank": 2, "save_every": 2, "val_split": 0.0, "packing": "wrapped", "steps": 6}
    for moment in ("before", "middle"):
        out = tmp_path / moment
        args = [sys.executable, "-c", script, *map(str, (base, data, out, moment)), json.dumps(options)]
        assert subprocess.run(args, check=False).returncode == -signal.SIGKILL
        assert len(list(out.glob(".*.part"))) == 1
        assert Trainer.resume(out).run().step == 6
        assert list(out.glob(".*.part")) == []
    adapters = [(tmp_path / moment / "adapter.gguf").read_bytes() for moment in ("before", "middle")]
    assert adapters[0] == adapters[1]
