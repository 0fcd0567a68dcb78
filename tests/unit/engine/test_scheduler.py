"""Who gets the rows of a step."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from llamakit.engine.scheduler import schedule


def sequences(*pending: int):
    return [SimpleNamespace(n_pending=n, number=i) for i, n in enumerate(pending)]


def plan(pending, n_row=8, n_out=4, n_seq=4):
    return [(c.sequence.number, c.n, c.last) for c in schedule(sequences(*pending), n_row, n_out, n_seq)]


def test_generating_sequences_come_before_prompts():
    assert plan([20, 1, 1]) == [(1, 1, True), (2, 1, True), (0, 6, False)]


def test_a_prompt_is_cut_to_what_is_left():
    assert plan([5, 5]) == [(0, 5, True), (1, 3, False)]


def test_a_finished_sequence_takes_nothing():
    assert plan([0, 3]) == [(1, 3, True)]


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 16), st.integers(1, 6), st.integers(1, 6))
def test_limits_hold_and_something_moves(pending, n_row, n_out, n_seq):
    chunks = plan(pending, n_row, n_out, n_seq)
    assert sum(n for _, n, _ in chunks) <= n_row
    assert sum(last for _, _, last in chunks) <= n_out
    assert len(chunks) <= n_seq
    assert bool(chunks) == any(pending)
    assert all(0 < n <= pending[i] and last == (n == pending[i]) for i, n, last in chunks)
