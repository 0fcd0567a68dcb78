"""The picture of `llamakit bench --plot`: tokens per second against depth, and against the number of sequences."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from llamakit.gguf.atomic import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from llamakit.engine.bench import Measurement


def _test(m: Measurement) -> str:
    return f"tg{m.n_gen}" if m.n_gen else f"pp{m.n_prompt}"


def _beside_depth(m: Measurement) -> str:
    return _test(m) + (f" x {m.batch}" if m.batch > 1 else "")


def _beside_batch(m: Measurement) -> str:
    return _test(m) + (f" at {m.depth:,}" if m.depth else "")


PANELS: list[tuple[str, Callable[[Measurement], int], Callable[[Measurement], str]]] = [
    ("tokens in the context before", lambda m: m.depth, _beside_depth),
    ("sequences that generate at once", lambda m: m.batch, _beside_batch),
]


def draw(found: Iterable[Measurement], title: str, path: Path) -> None:
    """Write a .png or .svg file; matplotlib is needed."""
    found = list(found)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(title, parse_math=False)  # a name with $ in it is no formula
    for axes, (label, place, series), lines in zip(
        figure.subplots(1, 2), PANELS, (found, [m for m in found if m.n_gen]), strict=True
    ):
        _panel(axes, label, lines, place, series)
    with whole_file(path) as file:
        figure.savefig(file, dpi=150, format=path.suffix[1:])


def _panel(axes: Any, label: str, lines: list[Measurement], place: Any, series: Any) -> None:
    """One pair of axes: a line for each series, with the deviations of its points."""
    points: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for m in lines:
        points[series(m)].append((place(m), m.tokens_per_second, m.deviation))
    for name, each in points.items():
        x, y, spread = zip(*sorted(each), strict=True)
        axes.errorbar(x, y, yerr=spread, marker="o", capsize=3, label=name)
    axes.set(xlabel=label, ylabel="tokens per second")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if points:
        axes.legend()
