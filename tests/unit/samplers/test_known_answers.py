"""Samplers against the known answers that the field publishes, and against their formulas in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit import _sampling
from llamakit.engine.sampling import NativeCandidates
from llamakit.registry import Registry
from llamakit.sampler import SequenceContext

REGISTRY = Registry.discover()
P4 = (0.1, 0.2, 0.3, 0.4)
P5 = (0.2, 0.2, 0.2, 0.2, 0.2)


def make(name: str, n_vocab: int = 8, min_keep: int = 1, **options):
    cls = REGISTRY.sampler(name)
    return cls(cls.Options(**options), SequenceContext(n_vocab=n_vocab, n_ctx=64, min_keep=min_keep))


def candidates(probabilities) -> NativeCandidates:
    with np.errstate(divide="ignore"):
        return NativeCandidates(np.log(np.asarray(probabilities, np.float32)))


def left(c: NativeCandidates, normalised: bool = True) -> list[float]:
    """Probabilities of what is left, in order of the candidates."""
    _, logits = c.array()
    p = np.exp(logits.astype(np.float64))
    return list(p / p.sum() if normalised else p)


def run(name: str, probabilities, **options) -> list[float]:
    c = candidates(probabilities)
    make(name, len(probabilities), **options).apply(c)
    return left(c)


@pytest.mark.parametrize(
    ("name", "options", "probabilities", "expected"),
    [
        ("top_k", {"top_k": 1}, P4, [1]),
        ("top_k", {"top_k": 3}, P4, [0.44444, 0.33333, 0.22222]),
        ("top_k", {"top_k": 4}, P4, P4),
        ("top_k", {"top_k": 0}, P4, P4),
        ("top_p", {"top_p": 0.0}, P4, [1]),
        ("top_p", {"top_p": 0.7}, P4, [0.571429, 0.428571]),
        ("top_p", {"top_p": 0.8}, P4, [0.44444, 0.33333, 0.22222]),
        ("top_p", {"top_p": 1.0}, P4, P4),
        ("min_p", {"min_p": 0.0}, P4, P4),
        ("min_p", {"min_p": 0.24}, P4, P4),
        ("min_p", {"min_p": 0.26}, P4, [0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9]),
        ("min_p", {"min_p": 0.49}, P4, [0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9]),
        ("min_p", {"min_p": 0.51}, P4, [3 / 7, 4 / 7]),
        ("min_p", {"min_p": 0.76}, P4, [1]),
        ("min_p", {"min_p": 1.0}, P4, [1]),
        ("tfs_z", {"tfs_z": 0.25}, (0.1, 0.15, 0.2, 0.25, 0.3), [1]),
        ("tfs_z", {"tfs_z": 0.75}, (0.1, 0.15, 0.2, 0.25, 0.3), [0.3 / 0.55, 0.25 / 0.55]),
        ("tfs_z", {"tfs_z": 0.99}, (0.1, 0.15, 0.2, 0.25, 0.3), [0.3 / 0.55, 0.25 / 0.55]),
        ("typical_p", {"typical_p": 0.5}, (0.97, 0.01, 0.01, 0.01), [1]),
        ("typical_p", {"typical_p": 0.5}, (0.4, 0.2, 0.2, 0.2), [1 / 3, 1 / 3, 1 / 3]),
        ("temperature", {"temperature": 1.0}, P4, P4),
        ("temperature", {"temperature": 0.0}, P4, [1]),
        ("temperature", {"temperature": 0.5}, P4, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
    ],
)
def test_published_cases(name, options, probabilities, expected):
    assert run(name, probabilities, **options) == pytest.approx(list(expected), abs=2e-5)


@pytest.mark.parametrize(
    ("options", "history", "expected"),
    [
        ({"repeat_penalty": 50.0}, [0], [0, 0.25, 0.25, 0.25, 0.25]),
        ({"repeat_penalty": 50.0}, [0, 1, 2], [0, 0, 0, 0.5, 0.5]),
        ({"repeat_penalty": 50.0}, [0, 1, 2, 0, 0], [0, 0, 0, 0.5, 0.5]),
        ({"frequency_penalty": 5.0, "presence_penalty": 5.0}, [0], [0.000011, 0.249997, 0.249997, 0.249997, 0.249997]),
        (
            {"frequency_penalty": 5.0, "presence_penalty": 5.0},
            [0, 1, 2],
            [0.000023, 0.000023, 0.000023, 0.499966, 0.499966],
        ),
        (
            {"frequency_penalty": 5.0, "presence_penalty": 5.0},
            [0, 1, 2, 0, 0],
            [0, 0.000023, 0.000023, 0.499977, 0.499977],
        ),
        ({"repeat_penalty": 50.0, "repeat_last_n": 1}, [0, 1], [0.25, 0, 0.25, 0.25, 0.25]),
        ({"repeat_penalty": 50.0, "repeat_last_n": -1}, [0] + [1] * 40, [0, 0, 1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_penalties(options, history, expected):
    sampler = make("penalties", 5, **options)
    sampler.accept_many(history)
    c = candidates(P5)
    sampler.apply(c)
    assert left(c) == pytest.approx(expected, abs=2e-5)


def test_newline_may_be_spared():
    cls = REGISTRY.sampler("penalties")
    context = SequenceContext(n_vocab=5, n_ctx=64, newline_id=1)
    sampler = cls(cls.Options(repeat_penalty=50.0, penalize_nl=False), context)
    sampler.accept_many([0, 1])
    c = candidates(P5)
    sampler.apply(c)
    assert left(c) == pytest.approx([0, 0.25, 0.25, 0.25, 0.25], abs=1e-5)


QUEUE_N = 10_000


@pytest.mark.parametrize("top_p", [0.0, 0.0003, 0.8, 1.0])
@pytest.mark.parametrize("top_k", [1, 100, 10_000])
def test_chains_on_a_large_vocabulary_have_closed_forms(top_p, top_k):
    """Logit ln(id): probabilities are proportional to the id, sums of ids say what stays."""
    c = candidates(np.arange(1, QUEUE_N + 1) / QUEUE_N)
    make("top_k", QUEUE_N, top_k=top_k).apply(c)
    make("top_p", QUEUE_N, top_p=top_p).apply(c)
    ids = np.arange(QUEUE_N, QUEUE_N - top_k, -1)
    reached = np.cumsum(ids) / ids.sum() >= top_p - 1e-9
    expected = top_k if top_p >= 1 else max(1, int(reached.argmax()) + 1)
    assert abs(len(c) - expected) <= (1 if top_p == 0.8 else 0)
    found = c.array()[0].tolist()
    if len(c) == QUEUE_N:
        found.sort(reverse=True)  # nothing was cut, so nothing was sorted
    assert found == list(range(QUEUE_N - 1, QUEUE_N - 1 - len(c), -1))


rows = st.lists(st.floats(-30, 30, width=32) | st.just(-np.inf), min_size=1, max_size=300).filter(
    lambda row: any(x > -np.inf for x in row)
)


@settings(deadline=None)
@given(rows, st.integers(0, 320))
def test_top_k_is_a_stable_sort(row, k):
    x = np.asarray(row, np.float32)
    c = NativeCandidates(x)
    make("top_k", len(row), top_k=k).apply(c)
    if 0 < k < len(row):
        assert c.array()[0].tolist() == np.argsort(-x, kind="stable")[:k].tolist()
    else:
        assert len(c) == len(row)


@settings(deadline=None)
@given(rows, st.floats(0, 0.999))
def test_top_p_is_the_smallest_prefix(row, p):
    x = np.asarray(row, np.float32)
    c = NativeCandidates(x)
    make("top_p", len(row), top_p=p).apply(c)
    order = np.argsort(-x, kind="stable")
    probabilities = np.exp(x[order].astype(np.float64) - x.max())
    sums = np.cumsum(probabilities / probabilities.sum())
    n = len(c)
    assert c.array()[0].tolist() == order[:n].tolist()
    assert n == 1 or sums[n - 2] < p + 1e-6
    assert sums[n - 1] >= p - 1e-6


@settings(deadline=None)
@given(rows, st.floats(0.001, 1))
def test_min_p_is_a_share_of_the_best(row, p):
    x = np.asarray(row, np.float32)
    c = NativeCandidates(x)
    make("min_p", len(row), min_p=p).apply(c)
    kept = set(c.array()[0].tolist())
    assert {i for i in range(len(row)) if x[i] >= x.max() + np.log(p) + 1e-4} <= kept
    assert all(x[i] >= x.max() + np.log(p) - 1e-4 for i in kept)


def test_mirostat_2_holds_its_target_surprise():
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=2000) * 2).astype(np.float32)
    cls = REGISTRY.sampler("mirostat")
    for version in (1, 2):
        sampler = cls(cls.Options(mirostat=version, mirostat_tau=4.0), SequenceContext(n_vocab=2000, n_ctx=64, seed=3))
        surprises = []
        for _ in range(600):
            c = NativeCandidates(logits)
            sampler.apply(c)
            sampler.accept(c.chosen)
            ids, kept = c.array()  # the surprise it steers is that among what it kept
            p = np.exp(kept - kept.max())
            surprises.append(-np.log2(p[ids == c.chosen][0] / p.sum()))
        assert np.mean(surprises[100:]) == pytest.approx(4.0, abs=0.3)


def test_dist_draws_by_probability():
    cls = REGISTRY.sampler("dist")
    sampler = cls(cls.Options(), SequenceContext(n_vocab=4, n_ctx=64, seed=1))
    counts = np.zeros(4)
    for _ in range(20_000):
        c = candidates(P4)
        sampler.apply(c)
        counts[c.chosen] += 1
        sampler.accept(c.chosen)
    assert counts / counts.sum() == pytest.approx(P4, abs=0.015)


def test_penalties_count_the_last_tokens_only_as_they_come():
    """Counts that are kept are those of the window, whatever was forgotten, copied or begun anew."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=6).astype(np.float32)
    for window in (1, 3, 7, 1 << 20):
        stage, tokens = _sampling.Penalties(window, 1.3, 0.5, 0.25, -1), []
        for token in rng.integers(0, 6, 40).tolist():
            stage.accept(token)
            tokens.append(token)
            expected = logits.copy()
            for each in set(tokens[-window:]):
                value = expected[each] * np.float32(1.3) if expected[each] <= 0 else expected[each] / np.float32(1.3)
                expected[each] = value - (tokens[-window:].count(each) * 0.5 + 0.25)
            for one in (stage, stage.clone()):
                row = _sampling.Candidates(logits)
                one.apply(row)
                ids, values = row.array()
                np.testing.assert_allclose(values[np.argsort(ids)], expected, rtol=1e-6)
        stage.reset()
        row = _sampling.Candidates(logits)
        stage.apply(row)
        np.testing.assert_array_equal(row.array()[1][np.argsort(row.array()[0])], logits)
