"""Learning rates: the shapes of the schedules, and 2023's to its test vectors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.train.options import Schedule2023, TrainOptions
from llamakit.train.schedule import cosine, factor, linear, schedule_2023, warmup_steps

VECTORS = {0: 0, 50: 0.5, 99: 0.99, 100: 0.977975, 550: 0.479604, 1000: 0.1, 5000: 0.1}
WITH_RESTARTS = {100: 1.0, 550: 0.620396, 1000: 0.122025, 1100: 0.1, 1101: 0.999998, 2201: 0.999998, 5000: 0.932268}


@pytest.mark.parametrize(("step", "wanted"), VECTORS.items())
def test_2023_without_restarts(step, wanted):
    assert schedule_2023(step, Schedule2023()) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("step", "wanted"), WITH_RESTARTS.items())
def test_2023_with_restarts(step, wanted):
    assert schedule_2023(step, Schedule2023(restart=True)) == pytest.approx(wanted, abs=1e-6)


def test_2023_has_a_floor_under_the_warm_up_too():
    options = Schedule2023(floor=0.2)
    assert schedule_2023(0, options) == pytest.approx(0.2)
    assert schedule_2023(50, options) == pytest.approx(0.2 + 0.5 * 0.8)


def test_2023_by_the_options_of_a_run():
    options = TrainOptions(schedule="2023", schedule_2023=Schedule2023(warmup=10), warmup=0.9)
    assert factor(options, 5, 1000) == pytest.approx(0.5)


@pytest.mark.parametrize(("warmup", "total", "steps"), [
    (0.05, 1000, 50), (0.05, 10, 0), (0.5, 1, 0), (0, 100, 0), (1, 100, 1), (30, 100, 30), (500, 100, 99),
])  # fmt: skip
def test_steps_of_warm_up(warmup, total, steps):
    assert warmup_steps(warmup, total) == steps


def test_warm_up_rises_in_equal_parts_and_never_stands_at_nothing():
    options = TrainOptions(warmup=4)
    rates = [factor(options, step, 100) for step in range(6)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] < 1


@pytest.mark.parametrize(("schedule", "wanted"), [
    ("cosine", [1, 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2, 0.55, 0.1 + 0.9 * (1 + math.cos(3 * math.pi / 4)) / 2]),
    ("linear", [1, 0.775, 0.55, 0.325]),
    ("constant", [1, 1, 1, 1]),
])  # fmt: skip
def test_shapes(schedule, wanted):
    options = TrainOptions(schedule=schedule, warmup=0)
    assert [factor(options, step, 4) for step in range(4)] == pytest.approx(wanted)


def test_beyond_the_end_it_stays_at_the_minimum():
    assert cosine(100, 100, 0.1) == cosine(150, 100, 0.1, 3, 2.0) == pytest.approx(0.1)
    assert linear(100, 100, 0.1) == linear(150, 100, 0.1) == pytest.approx(0.1)


def test_cycles_restart_at_the_highest_rate():
    rates = [cosine(step, 90, 0.1, 3) for step in range(90)]
    assert [rates[i] for i in (0, 30, 60)] == pytest.approx([1, 1, 1])
    assert rates[:30] == pytest.approx(rates[30:60])
    assert rates[29] < 0.11


def test_growing_cycles():
    rates = [cosine(step, 70, 0.0, 3, 2.0) for step in range(70)]
    assert [i for i, rate in enumerate(rates) if rate == 1] == [0, 10, 30]


@settings(deadline=None)
@given(
    st.sampled_from(["cosine", "linear", "constant", "2023"]), st.floats(0, 200), st.integers(1, 5000),
    st.integers(1, 6), st.floats(1, 3), st.floats(0, 1), st.data(),
)  # fmt: skip
def test_rates_keep_to_their_bounds(schedule, warmup, total, cycles, growth, minimum, data):
    options = TrainOptions(schedule=schedule, warmup=warmup, cycles=cycles, cycle_growth=growth, min_lr=minimum)
    step = data.draw(st.integers(0, 2 * total))
    rate = factor(options, step, total)
    assert 0 <= rate <= 1 + 1e-12
    if schedule != "2023" and step >= warmup_steps(warmup, total):
        assert rate >= minimum - 1e-12
