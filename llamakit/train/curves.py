"""The picture of a run: loss and validation, learning rate and norm of the gradient. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.errors import UsageError
from llamakit.gguf.atomic import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llamakit.train.report import LogEntry

WINDOW = 0.02  # of the run that the smooth curve of the loss is a mean of


def draw_curves(entries: Sequence[LogEntry], path: Path, title: str = "") -> None:
    """Write a .png, .svg or .pdf of a log, whole or not at all."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"curves need matplotlib: {error}", hint="pip install 'llamakit[plot]'") from None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    if title:
        figure.suptitle(title, parse_math=False)  # a name with $ in it is no formula
    left, right = figure.subplots(1, 2)
    _draw_losses(left, entries)
    rate, norm = right, right.twinx()
    _line(rate, entries, "lr", color="tab:green", label="learning rate")
    _line(norm, entries, "grad_norm", color="tab:purple", alpha=0.5, label="norm of the gradient")
    rate.set(xlabel="step", ylabel="learning rate")
    norm.set(ylabel="norm of the gradient")
    for axes in (rate, norm):
        axes.set_ylim(bottom=0)
    rate.grid(alpha=0.3)
    rate.legend(handles=[*rate.get_lines(), *norm.get_lines()], loc="upper right")
    with whole_file(path) as file:
        figure.savefig(file, dpi=150, format=path.suffix[1:])


def _draw_losses(axes: Any, entries: Sequence[LogEntry]) -> None:
    """Each step's loss in the background, its mean over some steps, and the validations."""
    steps, losses = _points(entries, "loss")
    width = max(1, round(len(losses) * WINDOW))
    _line(axes, entries, "loss", color="tab:blue", alpha=0.3 if width > 1 else 1.0, label="loss")
    if width > 1:
        axes.plot(steps, running_mean(losses, width), color="tab:blue", label=f"mean of {width} steps")
    steps, losses = _points(entries, "val_loss")
    if losses:
        axes.plot(steps, losses, color="tab:orange", marker="o", markersize=4, label="validation")
    axes.set(xlabel="step", ylabel="loss (nats a token)")
    axes.grid(alpha=0.3)
    if axes.get_lines():
        axes.legend()


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and those before it, `width` in all, fewer at the beginning."""
    means = []
    for end in range(1, len(values) + 1):
        part = values[max(0, end - width) : end]
        means.append(sum(part) / len(part))
    return means


def _line(axes: Any, entries: Sequence[LogEntry], name: str, **how: Any) -> None:
    steps, values = _points(entries, name)
    axes.plot(steps, values, **how)


def _points(entries: Sequence[LogEntry], name: str) -> tuple[list[int], list[float]]:
    found = [(entry.step, getattr(entry, name)) for entry in entries if getattr(entry, name) is not None]
    return [step for step, _ in found], [value for _, value in found]
