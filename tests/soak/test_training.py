"""Runs that are killed at random moments end like one that was never stopped, to the byte.

LLAMAKIT_SOAK_KILLS sets how many are killed (100).
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llamakit.testing.killing import Runs
from llamakit.testing.vocabulary import BYTES
from llamakit.train import checkpoint
from llamakit.train.scratch import ShapeOptions, choose_shape, write_new_model
from llamakit.train.vocabulary import add_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("LLAMAKIT_SOAK_KILLS", "100"))
OPTIONS = {
    "ctx": 16, "batch": 2, "rank": 2, "lr": 1e-2, "save_every": 1, "keep": 2, "steps": 16, "val_split": 0.02,
    "val_every": 5, "packing": "wrapped", "grad_accumulation": 2,
}  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(60 + 20 * KILLS)
def test_a_run_killed_at_any_moment_ends_as_if_it_never_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, data = tmp_path / "base.gguf", tmp_path / "data.txt"
    shape = choose_shape(ShapeOptions(embd=16, layers=1, heads=2, kv_heads=1, ff=32), 259, 64)
    write_new_model(base, shape, lambda writer: add_vocabulary(writer, BYTES), seed=1)
    data.write_text("".join(f"{i} cats sat on {i * i} mats. " for i in range(200)))
    runs = Runs(base, data, tmp_path, OPTIONS)
    runs.finish(0, threads=2)
    seconds = runs.finish(1)
    expected = runs.ending(0)
    assert "adapter.gguf" in expected
    assert runs.ending(1) == expected
    rng = np.random.default_rng()
    kills, number = 0, 1
    at: Counter[int] = Counter()
    while kills < KILLS:
        number += 1
        killed = runs.kill_after(number, rng.uniform(0, seconds))  # while it starts, computes, or saves
        at[max((step for step, _ in checkpoint.numbered(runs.out(number) / "checkpoints")), default=0)] += killed
        kills += killed
        runs.finish(number)
        assert runs.ending(number) == expected, f"run {number}"
    with capsys.disabled():
        print(f"\n{kills} kills after steps {dict(sorted(at.items()))}, {number + 1} equal endings")
