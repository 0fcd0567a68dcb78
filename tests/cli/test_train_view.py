"""What a person sees of a training run."""

from __future__ import annotations

import io

import pytest
from llamakit.plugins.frontends.cli.console import Console
from llamakit.plugins.frontends.cli.train_view import TrainView, plain_line, rendered, sparkline
from rich.console import Console as RichConsole

from llamakit.train.report import History, StepInfo


def step(number, **more):
    values = {"total": 100, "epoch": number / 50, "loss": 5 - number / 50, "lr": 1e-4, "grad_norm": 0.5, "tokens": 1000}
    return StepInfo(step=number, **values | {"seconds": 2.0} | more)


def test_plain_lines_are_few(capsys):
    with TrainView(Console()) as view:
        for number in range(1, 51):
            view(step(number, val_loss=4.5 if number == 30 else None))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/100", "step 30/100", "step 50/100"]
    assert lines[1].startswith(
        "step 30/100  epoch 0.60  loss 4.4000  validation 4.5000  lr 1.00e-04  gradient 0.5  500 "
    )
    assert "left 2:20" in lines[1]


def test_slow_steps_get_a_line_each(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with TrainView(Console()) as view:
        for number in range(1, 6):
            now[0] += 11
            view(step(number))
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_quiet_is_quiet(capsys):
    with TrainView(Console(quiet=True)) as view:
        view(step(1))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_live_view(width):
    history = History()
    for number in range(1, 41):
        history(step(number, val_loss=4.5 if number == 30 else None))
    out = io.StringIO()
    RichConsole(file=out, width=width).print(rendered(history, "finetune"))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    if width >= 80:
        assert "step 40/100" in text
        assert "4.5000  (best 4.5000 at step 30)" in text
        assert "500 tokens/s" in text
        assert "left 2:00" in text


def test_a_live_view_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(Console, "is_terminal", True)
    with TrainView(Console()) as view:
        view(step(1))
        view(step(2))
    err = capsys.readouterr().err
    assert "step 2/100" in err
    assert "loss" in err


def test_the_end_is_announced(monkeypatch, capfd):
    with TrainView(Console()) as view:
        view.stopping()
    assert capfd.readouterr().err == "stopping after this step; Ctrl-C again ends at once\n"
    with TrainView(Console(quiet=True)) as view:
        view.stopping()
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(Console, "is_terminal", True)
    with TrainView(Console()) as view:
        view(step(1))
        view.stopping()
    assert "stopping after this step" in capfd.readouterr().err


@pytest.mark.parametrize(("values", "text"), [
    ([], ""), ([1.0], "▁"), ([1, 2, 3, 4, 5, 6, 7, 8], "▁▂▃▄▅▆▇█"), ([3, 3], "▁▁"), ([1, float("nan"), 2], "▁ █"),
    ([float("inf")], " "),
])  # fmt: skip
def test_sparklines(values, text):
    assert sparkline(values) == text


def test_many_values_are_averaged():
    assert sparkline([float(i) for i in range(1000)], 4) == "▁▃▆█"


def test_a_line_without_validation():
    history = History()
    history(step(1))
    assert "validation" not in plain_line(history)
