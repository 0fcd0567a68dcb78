"""Packing: every token that counts is in one window once, segments are apart, windows are full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.train.pack import fit, make_batch, pack, pieces
from llamakit.train.samples import Samples, sample

# Samples as lists of weights; the tokens are numbered through all of them, so that each is found again.
LISTS = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=40), max_size=60)


def numbered(lists):
    start, made = 1, []
    for weights in lists:
        made.append(sample(range(start, start + len(weights)), weights))
        start += len(weights)
    return Samples(made)


def counted(batch):
    """(target, weight) of all rows that count, sorted."""
    rows = np.flatnonzero(batch.weights)
    return sorted(zip(batch.targets[rows].tolist(), batch.weights[rows].tolist(), strict=True))


def expected(samples, n_ctx):
    """The same from the samples as they are."""
    found = []
    for each in samples:
        pairs = zip(each.tokens[1 : n_ctx + 1].tolist(), each.weights[1 : n_ctx + 1].tolist(), strict=True)
        found += [pair for pair in pairs if pair[1]]
    return sorted(found)


def whole(windows):
    return windows.batch(range(len(windows)))


@settings(max_examples=200, deadline=None)
@given(LISTS, st.integers(1, 48), st.sampled_from(["segments", "none"]), st.integers(0, 2**63 - 1))
def test_each_token_that_counts_is_a_target_once(lists, n_ctx, mode, seed):
    samples = numbered(lists)
    windows = pack(samples, n_ctx, mode, seed=seed)
    wanted = expected(samples, n_ctx)
    assert bool(len(windows)) == bool(wanted)
    if len(windows):
        assert counted(whole(windows)) == wanted
    assert windows.lost_tokens == samples.loss_tokens - len(wanted)
    assert windows.truncated == sum(any(weights[n_ctx + 1 :]) for weights in lists)
    assert windows.dropped == sum(not any(weights[1 : n_ctx + 1]) for weights in lists)


@settings(max_examples=200, deadline=None)
@given(LISTS, st.integers(1, 48), st.integers(0, 100))
def test_rows_of_a_window(lists, n_ctx, seed):
    windows = pack(numbered(lists), n_ctx, seed=seed)
    for i in range(len(windows)):
        batch = windows.batch([i])
        assert 0 < batch.rows <= n_ctx
        assert batch.rows == windows.rows[i]
        assert {a.shape for a in (batch.tokens, batch.targets, batch.weights, batch.positions, batch.sequences)} == {
            (batch.rows,)
        }
        assert batch.n_sequence == len(windows.contents(i)) == batch.sequences[-1] + 1
        start = 0
        for number in range(batch.n_sequence):
            rows = np.flatnonzero(batch.sequences == number)
            assert rows.tolist() == list(range(start, start + len(rows)))  # one behind the other
            assert batch.positions[rows].tolist() == list(range(len(rows)))
            assert (batch.targets[rows] == batch.tokens[rows] + 1).all()  # within its own sample
            assert batch.weights[rows[-1]] > 0  # nothing is computed that nobody needs
            start += len(rows)


@settings(max_examples=100, deadline=None)
@given(LISTS, st.integers(1, 48), st.integers(0, 3))
def test_the_same_samples_give_the_same_windows(lists, n_ctx, seed):
    first, second = (pack(numbered(lists), n_ctx, seed=seed) for _ in range(2))
    assert [first.contents(i).tolist() for i in range(len(first))] == [
        second.contents(i).tolist() for i in range(len(second))
    ]


@settings(max_examples=100, deadline=None)
@given(LISTS, st.integers(1, 48), st.integers(1, 5))
def test_bounds_on_rows_hold(lists, n_ctx, batch):
    windows = pack(numbered(lists), n_ctx)
    for start in range(0, len(windows), batch):
        made = windows.batch(range(start, min(start + batch, len(windows))))
        assert made.rows <= windows.most_rows(batch) <= batch * n_ctx


def test_windows_are_nearly_full():
    rng = np.random.default_rng(1)
    lengths = np.minimum(rng.geometric(1 / 60, 5000) + 1, 257)
    samples = Samples(sample(range(n), [1.0] * n) for n in lengths.tolist())
    windows = pack(samples, 256)
    assert windows.fill > 0.99
    assert pack(samples, 256, "none").fill < 0.3


def test_two_halves_share_a_window_and_a_whole_one_does_not():
    samples = Samples(sample(range(n + 1), [1.0] * (n + 1)) for n in (5, 8, 3, 4, 4))
    windows = pack(samples, 8)
    found = sorted(sorted((samples.lengths[windows.contents(i)] - 1).tolist()) for i in range(len(windows)))
    assert found == [[3, 5], [4, 4], [8]]


@settings(max_examples=200, deadline=None)
@given(LISTS, st.integers(1, 48))
def test_wrapped_loses_nothing(lists, n_ctx):
    samples = numbered(lists)
    windows = pack(samples, n_ctx, "wrapped")
    flat = [weight for weights in lists for weight in weights]
    wanted = [(i + 1, weight) for i, weight in enumerate(flat) if i and weight]
    assert windows.truncated == windows.dropped == windows.lost_tokens == 0
    assert bool(len(windows)) == bool(wanted)
    if len(windows):
        batch = whole(windows)
        assert counted(batch) == wanted
        assert (batch.targets == batch.tokens + 1).all()


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(1, 40))
def test_pieces_overlap_by_one(length, n_ctx):
    parts = list(pieces(sample(range(length), [1.0] * length), n_ctx))
    targets = [token for part in parts for token in part.tokens[1:].tolist()]
    assert targets == list(range(1, length))
    assert all(part.n_row <= n_ctx for part in parts)


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 40))
def test_pieces_without_overlap_make_the_whole(length, n_ctx):
    parts = list(pieces(sample(range(length), [1.0] * length), n_ctx, overlap=0))
    assert [token for part in parts for token in part.tokens.tolist()] == list(range(length))


def test_what_nothing_depends_on_is_cut():
    cut = fit(sample([1, 2, 3, 4, 5], [0, 0, 1, 0, 0]), 10)
    assert cut.tokens.tolist() == [1, 2, 3]
    assert fit(sample([1, 2, 3], [1, 0, 0]), 10).n_row == 0  # the first token is not a target


def test_the_end_of_a_long_sample_is_kept_behind_its_first_token():
    cut = fit(sample([1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 1, 1, 0]), 3, "end")
    assert cut.tokens.tolist() == [1, 4, 5, 6]
    assert cut.weights.tolist() == [0, 0, 1, 1]
    samples = Samples([sample(range(10), [0] * 9 + [1])])
    assert (len(pack(samples, 4)), len(pack(samples, 4, keep="end"))) == (0, 1)
    assert pack(samples, 4, keep="end").truncated == 1


def test_padding_counts_nothing():
    batch = make_batch([sample([1, 2, 3], [0, 1, 1])])
    padded = batch.padded(5)
    assert padded.targets.tolist() == [2, 3, -1, -1, -1]
    assert padded.weights.tolist() == [1, 1, 0, 0, 0]
    assert padded.positions.tolist() == [0, 1, 0, 1, 2]
    assert padded.sequences.tolist() == [0, 0, 1, 1, 1]
    assert padded.n_sequence == 2
    assert (padded.loss_weight, padded.loss_tokens) == (batch.loss_weight, batch.loss_tokens) == (2.0, 2)
    assert batch.padded(2) is batch
    with pytest.raises(ValueError, match="do not fit"):
        batch.padded(1)


def test_samples_in_three_arrays():
    given_ = [sample([1, 2], [1, 1]), sample([], []), sample([3], [1]), sample([4, 5, 6], [0, 1, 0.5])]
    samples = Samples(given_)
    assert len(samples) == 4
    assert samples.lengths.tolist() == [2, 0, 1, 3]
    assert samples.loss_tokens == sum(each.loss_tokens for each in given_) == 3
    for one, other in zip(samples, given_, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.weights.tolist() == other.weights.tolist()
        assert one.digest() == other.digest()
    assert samples[0].tokens.dtype == np.int32
    assert samples[0].weights.dtype == np.float32
    with pytest.raises(IndexError):
        samples[4]
