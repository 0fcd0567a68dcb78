"""The folder of a run: one process at a time, nothing half-written left in it, and what cannot be one is told."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from llamakit.cli import run
from llamakit.errors import LlamaKitError, UsageError
from llamakit.train import checkpoint
from llamakit.train.folder import held
from llamakit.train.report import LogWriter, StepInfo, read_log
from llamakit.training import Trainer
from tests.unit.train.tiny import trainer

HOLD = """
import sys, time
from pathlib import Path
from llamakit.train.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
fcntl = pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders there")


@contextmanager
def holder(folder, *, killed: bool = True):
    """Another process that has the folder until it is ended or killed."""
    args = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.kill() if killed else process.stdin.close()


@fcntl
@pytest.mark.parametrize("end", ["ended", "killed"])
def test_two_processes_do_not_train_in_one_folder(base, data, tmp_path, end):
    """Whether a run is new or gone on with; a process that was killed has no folder any more."""
    trainer(base, data, tmp_path / "run", steps=2).run()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.gguf")}
    with holder(tmp_path / "run", killed=end == "killed"), holder(tmp_path / "fresh", killed=end == "killed"):
        with pytest.raises(UsageError, match="another process is training in .*run") as caught:
            Trainer.resume(tmp_path / "run", steps=4).run()
        assert caught.value.hint == "wait until it ends, or another --out"
        with pytest.raises(UsageError, match="another process is training in .*fresh"):
            trainer(base, data, tmp_path / "fresh").run()
        assert list((tmp_path / "fresh").iterdir()) == []
        assert before == {path: path.read_bytes() for path in before}
    assert Trainer.resume(tmp_path / "run", steps=4).run().step == 4
    assert trainer(base, data, tmp_path / "fresh").run().step == 6


@fcntl
def test_nor_do_two_threads(tmp_path):
    found = []

    def other():
        try:
            with held(tmp_path):
                found.append("held")
        except UsageError as error:
            found.append(error.message)

    with held(tmp_path), held(tmp_path):  # the same thread may, as `train` does around a run
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [f"another process is training in {tmp_path}"]
    other()
    assert found[1:] == ["held"]


@fcntl
@pytest.mark.parametrize("command", ["finetune", "train"])
def test_the_commands_hold_the_folder_from_the_start(base, data, tmp_path, capsys, command):
    args = {"finetune": ["-m", base], "train": ["--vocab", base, "--layers", 1, "--embd", 16, "--heads", 2]}[command]
    with holder(tmp_path / "run"):
        common = ["--data", data, "--out", tmp_path / "run", "-c", 16, "--steps", 1]
        assert run([command, *map(str, [*args, *common])]) == 2
    assert "another process is training in" in capsys.readouterr().err
    assert list((tmp_path / "run").iterdir()) == []


def test_what_a_killed_process_left_half_written_goes(base, data, tmp_path):
    out = tmp_path / "run"
    trainer(base, data, out, steps=2).run()
    parts = [out / ".adapter.gguf.0123abcd.part", out / "checkpoints" / ".step-00000003.gguf.89abcdef.part"]
    parts.append(out / ".curves.png.89abcdef.part")
    others = [
        out / ".mine.part",
        out / ".mine.gguf.0123abcd.part",
        out / "notes.txt",
        out / "checkpoints" / "x.0123abcd.part",
    ]
    for path in (*parts, *others):
        path.write_bytes(b"half")
    Trainer.resume(out, steps=3).run()
    assert [path for path in parts if path.exists()] == []
    assert all(path.exists() for path in others)


def test_a_folder_that_stays_empty_goes(base, tmp_path):
    with pytest.raises(LlamaKitError):
        trainer(base, tmp_path / "missing.txt", tmp_path / "deep" / "run").run()
    assert not (tmp_path / "deep" / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(LlamaKitError):
        trainer(base, tmp_path / "missing.txt", tmp_path / "mine").run()
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("command", ["finetune", "train"])
@pytest.mark.parametrize("kind", ["file", "below a file", "link to nothing", "loop", "too long"])
def test_what_cannot_be_a_folder_is_told(base, data, tmp_path, capsys, command, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "below a file":
        out.write_text("mine")
        out /= "run"
    elif kind == "link to nothing":
        out.symlink_to(tmp_path / "nothing")
    elif kind == "loop":
        out.symlink_to(out)
    else:
        out = tmp_path / ("x" * 300)
    args = {"finetune": ["-m", base], "train": ["--vocab", base, "--layers", 1, "--embd", 16, "--heads", 2]}[command]
    code = run([command, *map(str, [*args, "--data", data, "--out", out, "-c", 16, "--steps", 1])])
    told = capsys.readouterr().err
    assert code in (2, 6)
    assert "internal" not in told
    assert {
        "file": "is a file; a folder is needed", "below a file": "cannot be written: Not a directory",
        "link to nothing": "is a link to nothing; a folder is needed", "loop": "is a link to nothing",
        "too long": "cannot be written: File name too long",
    }[kind] in told  # fmt: skip
    assert "another --out" in told
    assert not kind.endswith("file") or (tmp_path / "out").read_text() == "mine"


def test_a_link_to_a_folder_is_a_folder(base, data, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert trainer(base, data, tmp_path / "link").run().step == 6
    assert (tmp_path / "there" / "adapter.gguf").exists()


def test_what_to_do_is_said_as_it_is(tmp_path):
    """Where there is a checkpoint, and where there is none; for a full disk, and for one that cannot be written."""
    full, closed = OSError(28, "No space left on device"), PermissionError(13, "Permission denied")
    out = tmp_path / "run"
    assert checkpoint.write_error(out / "log.jsonl", full).hint == "make room, or another --out"
    assert checkpoint.write_error(out, closed).hint == "another --out"
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "step-00000001.gguf").touch()
    for path in (out, out / "log.jsonl", out / "checkpoints" / "step-00000002.gguf"):
        for error, act in ((full, "make room"), (closed, "make it writable")):
            found = checkpoint.write_error(path, error)
            assert found.message == f"{path} cannot be written: {error.strerror}"
            assert (
                found.hint == f"the last checkpoint is as it was; {act} and go on with llamakit finetune resume {out}"
            )


def test_half_a_line_of_the_log_is_an_error_and_passed_over(tmp_path):
    """What a full disk takes of a line is not an entry, and the next run cuts it off."""

    class Half:
        def __init__(self, file):
            self.file = file

        def write(self, line):
            return self.file.write(line[: len(line) // 2])

        def close(self):
            self.file.close()

    step = StepInfo(step=1, total=3, epoch=0.1, loss=2.0, lr=1e-3, grad_norm=1.0, tokens=5, seconds=1.0)
    path = tmp_path / "log.jsonl"
    with LogWriter(path) as log:
        log(step)
        log._file = Half(log._file)
        with pytest.raises(LlamaKitError, match="log.jsonl cannot be written: No space left"):
            log(step)
    assert not path.read_bytes().endswith(b"\n")
    assert [entry.step for entry in read_log(path)] == [1]
    with LogWriter(path, after_step=1):
        pass
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")


MOUNT = "mount -t tmpfs -o size={size}k tmpfs {where}"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs a small disk, which only root can make")
@pytest.mark.parametrize("size", [8, 64, 100, 128, 160, 280, 300])
def test_a_disk_that_is_really_full(base, data, tmp_path, size):
    """Wherever it happens: first checkpoint, adapter, log or a later one; what is there is whole, and can go on."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(MOUNT.format(size=size, where=place).split(), capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        out = place / "run"
        with pytest.raises(LlamaKitError, match="No space left on device"):
            trainer(base, data, out, rank=8, targets=["*"], save_every=1, steps=5000, keep=1000).run()
        assert [path.name for path in place.rglob("*.part")] == []
        for path in place.rglob("*.gguf"):
            assert run(["inspect", "-m", str(path)]) == 0
        steps = [step for step, _ in checkpoint.numbered(out / "checkpoints")]
        assert steps == list(range(1, len(steps) + 1))
        if steps:
            subprocess.run(f"mount -o remount,size=4m {place}".split(), check=True)
            assert Trainer.resume(out, steps=steps[-1] + 1, keep=1).run().step == steps[-1] + 1
            assert [entry.step for entry in read_log(out / "log.jsonl")] == list(range(1, steps[-1] + 2))
    finally:
        subprocess.run(["umount", str(place)], check=True)
