"""Runs on a model so small that a step takes no time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit import Session

if TYPE_CHECKING:
    from pathlib import Path

    from llamakit.training import Trainer

TEXT = "the cat sat on the mat and the dog sat on the log. "
QUICK = {
    "ctx": 16, "batch": 2, "rank": 2, "lr": 1e-2, "save_every": 2, "val_split": 0.0, "packing": "wrapped", "steps": 6
}  # fmt: skip


def trainer(base: Path, data: Path | str, out: Path | str, **options: object) -> Trainer:
    """A run of six steps, or as `options` say."""
    return Session(base, backend="cpu").trainer(data=[str(data)], out=str(out), **{**QUICK, **options})
