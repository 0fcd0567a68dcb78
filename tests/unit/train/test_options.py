"""Options of a training run."""

from __future__ import annotations

import msgspec
import pytest

from llamakit.errors import UsageError
from llamakit.options import build_options, fields_of
from llamakit.train.options import PROJECTIONS, TrainOptions


def test_defaults():
    options = TrainOptions()
    assert (options.rank, options.alpha, options.lr, options.warmup, options.min_lr) == (16, 16.0, 2e-4, 0.05, 0.1)
    assert options.targets == list(PROJECTIONS)
    assert len(PROJECTIONS) == 7


def test_every_option_is_described():
    for field in fields_of(TrainOptions):
        assert field.description.endswith("."), field.name


def test_they_survive_a_checkpoint():
    options = TrainOptions(data=["a.jsonl"], rank_pattern={"ffn_*": 8}, optimizer_options={"beta1": 0.8}, seed=7)
    assert msgspec.json.decode(msgspec.json.encode(options), type=TrainOptions) == options


@pytest.mark.parametrize(("name", "value"), [
    ("rank", 0), ("alpha", 0.0), ("lr", -1.0), ("schedule", "cosin"), ("val_split", 1.0), ("rank_pattern", {"a": -1}),
    ("batch", 0), ("epochs", 0.0), ("seed", -1), ("nice", 20),
])  # fmt: skip
def test_wrong_values_are_named(name, value):
    with pytest.raises(UsageError, match=name) as caught:
        build_options(TrainOptions, {"lr": 1e-3, name: value})
    assert caught.value.param == name
