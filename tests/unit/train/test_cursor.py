"""The order of the data, and finding a place in it again."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.train.cursor import Cursor, CursorState, shuffled, steps_per_epoch, total_steps

SEEDS = st.integers(0, 2**63 - 1)


@settings(deadline=None)
@given(st.integers(1, 200), SEEDS, st.integers(1, 50), st.booleans())
def test_an_epoch_has_every_window_once(n, seed, batch, shuffle):
    cursor = Cursor(n, seed=seed, shuffle=shuffle)
    for epoch in range(3):
        taken = []
        while cursor.epoch == epoch:
            part = cursor.take(batch)
            assert 0 < len(part) <= batch
            taken += part.tolist()
        assert sorted(taken) == list(range(n))
        assert shuffle or taken == list(range(n))


@settings(deadline=None)
@given(st.integers(1, 60), SEEDS, st.lists(st.integers(1, 20), min_size=1, max_size=30), st.data())
def test_restore_at_any_micro_step(n, seed, batches, data):
    straight = Cursor(n, seed=seed)
    states, taken = [], []
    for batch in batches:
        states.append(straight.state)
        taken.append(straight.take(batch).tolist())
    at = data.draw(st.integers(0, len(batches) - 1))
    state = msgspec.json.decode(msgspec.json.encode(states[at]), type=CursorState)
    resumed = Cursor(n, seed=data.draw(SEEDS))
    resumed.restore(state)
    assert [resumed.take(batch).tolist() for batch in batches[at:]] == taken[at:]
    assert resumed.state == straight.state


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_steps_are_counted_as_they_are_made(n, batch, accumulation, epochs):
    cursor = Cursor(n, seed=1)
    steps = 0
    while cursor.epoch < epochs:
        micro_steps = cursor.take_step(batch, accumulation)
        assert 1 <= len(micro_steps) <= accumulation
        steps += 1
    assert cursor.position == 0  # a step never mixes epochs
    assert steps == total_steps(n, batch, accumulation, epochs) == epochs * steps_per_epoch(n, batch, accumulation)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 10), (0.5, 5), (0.01, 1), (2.05, 21), (0.1 + 0.2, 3)])
def test_parts_of_epochs(epochs, steps):
    assert total_steps(40, 4, 1, epochs) == steps


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(shuffled(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_order_is_the_same_everywhere():
    """Written down once: a checkpoint must find its place on another machine and with another numpy."""
    assert shuffled(12, 42, 0).tolist() == [11, 7, 1, 6, 10, 4, 3, 5, 9, 0, 2, 8]
    assert shuffled(12, (1 << 63) - 1, 3).tolist() == [7, 10, 3, 9, 6, 4, 5, 2, 8, 1, 11, 0]


def test_every_place_is_as_likely():
    counts = np.zeros((8, 8))
    for seed in range(4000):
        counts[np.arange(8), shuffled(8, seed, 0)] += 1
    chi = ((counts - 500) ** 2 / 500).sum()
    assert chi < 100  # 49 degrees of freedom: above 100 once in 50,000


def test_done_counts_epochs():
    cursor = Cursor(8, seed=0)
    cursor.take(6)
    assert cursor.done == 0.75
    cursor.take(6)
    assert cursor.done == 1.0


@pytest.mark.parametrize(
    "state", [CursorState(0, 0, 5), CursorState(0, -1, 0), CursorState(0, 0, -1), CursorState(0, 1 << 70, 0)]
)
def test_a_place_that_is_not_there(state):
    with pytest.raises(ValueError, match="there are 5 windows"):
        Cursor(5).restore(state)


def test_no_windows():
    with pytest.raises(ValueError, match="windows"):
        Cursor(0)
