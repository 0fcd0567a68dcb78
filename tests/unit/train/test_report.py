"""The log of a run, its curves, and event files for TensorBoard."""

from __future__ import annotations

import errno
import json
import struct
import sys
import types
from pathlib import Path

import pytest
from llamakit.plugins.frontends.cli import train_run

from llamakit.errors import FileWriteError, LlamaKitError, UsageError
from llamakit.train.report import History, LogEntry, LogWriter, StepInfo, duration, memory_used, read_log


def step(number, **more):
    values = {"total": 100, "epoch": number / 50, "loss": 5 - number / 50, "lr": 1e-4, "grad_norm": 0.5, "tokens": 1000}
    return StepInfo(step=number, **values | {"seconds": 2.0} | more)


def write(path, steps, **how):
    with LogWriter(path, **how) as log:
        for number in steps:
            log(step(number))


def test_a_line_has_the_names_that_are_promised(tmp_path):
    path = tmp_path / "log.jsonl"
    with LogWriter(path) as log:
        log(step(1))
        log(step(2, val_loss=3.5))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {
        "step": 1, "epoch": 0.02, "loss": 4.98, "lr": 1e-4, "grad_norm": 0.5, "tokens_per_second": 500.0
    }  # fmt: skip
    assert second["val_loss"] == 3.5


def test_lines_are_there_at_once(tmp_path):
    path = tmp_path / "log.jsonl"
    log = LogWriter(path)
    log(step(1))
    assert [entry.step for entry in read_log(path)] == [1]
    log.close()


def test_a_new_run_begins_anew_and_one_that_goes_on_cuts_what_is_done_again(tmp_path):
    path = tmp_path / "log.jsonl"
    write(path, range(1, 8))
    with path.open("ab") as file:
        file.write(b'{"step": 8, "lo')  # killed while it wrote
    write(path, [6, 7], after_step=5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5, 6, 7]
    write(path, [1])
    assert [entry.step for entry in read_log(path)] == [1]


def test_the_reader_passes_over_what_is_no_entry(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b'{"step":1,"loss":2}\nnonsense\n\n[]\n\xff\n{"loss":1}\n{"step":2,"loss":null,"more":1}\n{"step":1,"l'
    )
    assert read_log(path) == [LogEntry(step=1, loss=2.0), LogEntry(step=2)]
    assert read_log(tmp_path / "none.jsonl") == []


def test_the_last_entry_of_a_step_wins(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step":2,"loss":1}\n{"step":1,"loss":2}\n{"step":2,"loss":3}\n')
    assert [(entry.step, entry.loss) for entry in read_log(path)] == [(1, 2.0), (2, 3.0)]


def test_what_is_not_finite_is_null(tmp_path):
    path = tmp_path / "log.jsonl"
    with LogWriter(path) as log:
        log(step(1, loss=float("nan"), grad_norm=float("inf")))
    assert json.loads(path.read_text())["loss"] is None
    assert read_log(path)[0].grad_norm is None


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(LlamaKitError, match=r"log.jsonl cannot be written: No such file"):
        LogWriter(tmp_path / "none" / "log.jsonl")
    log = LogWriter(tmp_path / "log.jsonl")
    log.close()
    with open("/dev/full", "ab", buffering=0) as full:  # noqa: PTH123
        log._file = full
        with pytest.raises(LlamaKitError, match=r"cannot be written: No space left"):
            log(step(1))


def test_progress():
    history = History()
    history(step(10, seconds=2.0, val_loss=3.0))
    assert history.seconds_left == 180
    history(step(20, seconds=4.0, val_loss=3.5))
    assert history.seconds_left == pytest.approx(80 * 2.2)
    assert (history.val_loss, history.best) == (3.5, (3.0, 10))
    assert History().seconds_left == 0


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03"), (183845, "2 d 3:04:05"),
    (86400, "1 d 0:00:00"),
])  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_memory_is_measured():
    assert 1 << 20 < memory_used() < 1 << 40


@pytest.mark.parametrize("entries", [
    [LogEntry(step=i, loss=5 / (i + 1), lr=1e-4, grad_norm=0.5, val_loss=2.0 if i % 50 == 0 else None)
     for i in range(200)],
    [LogEntry(step=1, loss=2.0)],
    [],
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_curves(tmp_path, entries, suffix):
    pytest.importorskip("matplotlib")
    from llamakit.train.curves import draw_curves

    path = tmp_path / f"curves{suffix}"
    draw_curves(entries, path, "a run")
    data = path.read_bytes()
    assert data.startswith({".png": b"\x89PNG", ".svg": b"<?xml"}[suffix])
    if suffix == ".svg" and len(entries) > 1:
        assert data.count(b"<path") > 10


def test_the_running_mean():
    from llamakit.train.curves import running_mean

    assert running_mean([1, 2, 3, 6], 2) == [1, 1.5, 2.5, 4.5]


def scalars(folder):
    """(step, name, value) of all event files in a folder, by the documented form of TFRecord."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, value.tag, round(value.simple_value, 4)) for value in event.summary.value]
            at += 12 + length + 4
    return found


def test_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    from llamakit.train.tensorboard import TensorBoardWriter

    log = TensorBoardWriter(tmp_path)
    log(step(1))
    log(step(2, val_loss=3.5))
    log.close()
    found = scalars(tmp_path)
    assert (1, "train/loss", 4.98) in found
    assert (2, "validation/loss", 3.5) in found
    assert not any(name == "validation/loss" for number, name, _ in found if number == 1)


def test_event_files_without_the_library(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    from llamakit.train.tensorboard import TensorBoardWriter

    with pytest.raises(UsageError, match="tensorboardX") as caught:
        TensorBoardWriter(tmp_path)
    assert caught.value.hint == "pip install 'llamakit[tensorboard]'"


class Figure:
    """What draws as matplotlib does, to a disk that is full."""

    def __init__(self, **how):
        self.called = []

    def __getattr__(self, name):
        return lambda *args, **how: self if name != "subplots" else (self, self)

    def savefig(self, file, **how):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_picture_that_cannot_be_drawn_is_not_there_and_fails_no_run(monkeypatch, tmp_path, capsys):
    """The run was done, and ended as an internal error or with half a picture."""
    module = types.ModuleType("matplotlib.figure")
    module.Figure = Figure
    monkeypatch.setitem(sys.modules, "matplotlib", types.ModuleType("matplotlib"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", module)
    (tmp_path / "curves.png").write_bytes(b"old")
    from llamakit.train import curves

    monkeypatch.setattr(curves, "_draw_losses", lambda axes, entries: None)
    monkeypatch.setattr(curves, "_line", lambda *args, **how: None)
    monkeypatch.setattr(Figure, "get_lines", lambda self: [], raising=False)
    with pytest.raises(FileWriteError, match="No space left"):
        curves.draw_curves([], tmp_path / "curves.png", "a $run")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"curves.png": b"old"}
    told = []
    trainer = types.SimpleNamespace(folder=tmp_path, session=types.SimpleNamespace(path=Path("a.gguf")))
    context = types.SimpleNamespace(console=types.SimpleNamespace(detail=told.append))
    train_run.curves(context, trainer)
    assert "No space left" in told[0]
