"""Who gets the rows of a step."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from llamakit.engine.scheduler import Limits, schedule


def group(number, *pending, lockstep=False, draft=0, scored=False):
    """A group whose tracks have so many tokens to evaluate."""
    tracks = [SimpleNamespace(n_pending=n, tokens=[7] * n, draft=[7] * draft if n == 1 else []) for n in pending]
    request = SimpleNamespace(prompt_logprobs=0 if scored else None)
    return SimpleNamespace(
        number=number,
        tracks=tracks,
        lockstep=lockstep,
        request=request,
        in_prefill=any(n > 1 for n in pending),
        forked=False,
    )


def plan(groups, rows=8, outputs=4, sequences=4, prompt_rows=100):
    return [
        (c.group.number, c.n, c.n_output) for c in schedule(groups, Limits(rows, outputs, sequences, prompt_rows, 512))
    ]


def test_answers_come_before_prompts():
    assert plan([group(0, 20), group(1, 1), group(2, 1)]) == [(1, 1, 1), (2, 1, 1), (0, 6, 0)]


def test_a_prompt_is_cut_to_what_is_left():
    assert plan([group(0, 5), group(1, 5)]) == [(0, 5, 1), (1, 3, 0)]


def test_beside_answers_prompts_get_only_so_many_rows():
    assert plan([group(0, 5), group(1, 1)], prompt_rows=2) == [(1, 1, 1), (0, 2, 0)]
    assert plan([group(0, 5)], prompt_rows=2) == [(0, 5, 1)]


def test_guessed_tokens_take_rows_and_outputs():
    assert plan([group(0, 1, draft=1), group(1, 1, draft=5)]) == [(0, 2, 2), (1, 2, 2)]
    assert plan([group(0, 1, draft=9), group(1, 1), group(2, 1)]) == [(0, 2, 2), (1, 1, 1), (2, 1, 1)]


def test_tracks_in_lockstep_go_all_or_none():
    assert plan([group(0, 1), group(1, 1, 1, lockstep=True)], outputs=2) == [(0, 1, 1)]
    assert plan([group(1, 1, 1, lockstep=True)]) == [(1, 1, 1), (1, 1, 1)]
    assert plan([group(1, 4, 1, lockstep=True)]) == [(1, 3, 0)]  # the last token waits for the other track


def test_a_scored_prompt_gives_logits_for_every_row():
    assert plan([group(0, 9, scored=True)]) == [(0, 4, 4)]


def test_nothing_to_do_takes_nothing():
    assert plan([group(0, 0), group(1, 3)]) == [(1, 3, 1)]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=12),
    st.integers(1, 16),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 20),
)
def test_limits_hold_and_something_moves(pending, rows, outputs, sequences, prompt_rows):
    groups = [group(i, n, draft=draft) for i, (n, draft) in enumerate(pending)]
    chunks = plan(groups, rows, outputs, sequences, prompt_rows)
    assert sum(n for _, n, _ in chunks) <= rows
    assert sum(n_output for _, _, n_output in chunks) <= outputs
    assert len(chunks) <= sequences
    assert bool(chunks) == any(n for n, _ in pending)
    for i, n, n_output in chunks:
        assert 0 < n <= pending[i][0] + (pending[i][1] if pending[i][0] == 1 else 0)
        assert n_output in (0, n) or (n_output == 1 and n == pending[i][0])
