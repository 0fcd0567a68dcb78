"""Options of a training run."""

from __future__ import annotations

import msgspec
import pytest

from llamakit.errors import UsageError
from llamakit.options import build_options, fields_of
from llamakit.train.cursor import total_steps
from llamakit.train.defaults import settled
from llamakit.train.options import PROJECTIONS, TrainOptions


def test_defaults():
    options = TrainOptions()
    assert (options.rank, options.alpha, options.warmup, options.min_lr) == (16, 16.0, 0.05, 0.1)
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
    ("batch", -1), ("epochs", -1.0), ("seed", -1), ("nice", 20),
])  # fmt: skip
def test_wrong_values_are_named(name, value):
    with pytest.raises(UsageError, match=name) as caught:
        build_options(TrainOptions, {"lr": 1e-3, name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(("n_window", "batch", "epochs", "steps"), [
    (1, 1, 100, 100), (5, 1, 20, 100), (19, 1, 6, 114), (20, 2, 10, 100), (39, 3, 8, 104), (40, 4, 10, 100),
    (200, 4, 2, 100), (396, 4, 2, 198), (400, 4, 1, 100), (4001, 4, 1, 1001),
])  # fmt: skip
def test_few_data_are_gone_through_until_there_are_steps_enough(n_window, batch, epochs, steps):
    found = settled(TrainOptions(), n_window, 4096)
    assert (found.batch, found.epochs) == (batch, epochs)
    assert total_steps(n_window, found.batch, 1, found.epochs) == steps


def test_what_is_asked_for_stays():
    options = TrainOptions(batch=7, epochs=0.5, lr=3e-5)
    assert settled(options, 3, 64) == options
    assert settled(TrainOptions(batch=4), 5, 4096).epochs == 50
    found = settled(TrainOptions(grad_accumulation=4), 100, 4096)
    assert (found.batch, found.epochs) == (2, 8)  # 13 steps an epoch


@pytest.mark.parametrize(("n_embd", "full", "lr"), [
    (256, False, 8e-4), (64, False, 1e-3), (1024, False, 4e-4), (4096, False, 2e-4), (8192, False, 2e-4),
    (256, True, 2e-4),
])  # fmt: skip
def test_adapters_of_narrow_models_are_trained_faster(n_embd, full, lr):
    assert settled(TrainOptions(full=full), 400, n_embd).lr == pytest.approx(lr)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "1e308", "9" * 50, "", "0x5", "one"])
def test_numbers_that_no_option_takes(text):
    """Of every option with a number: not one of them ends in a run."""
    for field in fields_of(TrainOptions):
        if field.kind in ("int", "float"):
            with pytest.raises(UsageError, match=field.name):
                build_options(TrainOptions, {field.name: field.parse(text)})
