"""Lists of any length are in the order that a plain sort gives: falling logit, ties by rising id."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llamakit import _sampling
from llamakit.engine.request import Likely
from llamakit.engine.sampling import make_chain, probabilities, probabilities_after
from llamakit.errors import LlamaKitError
from llamakit.registry import Registry
from llamakit.sampler import SequenceContext

CLASSES = Registry.discover().samplers()
LENGTHS = [1, 2, 511, 512, 700, 9_000, 40_000]  # around those from which on lists are sorted by digits


def hostile(n: int) -> dict[str, np.ndarray]:
    """Rows that a sort by bits, or by the first of them, might get wrong."""
    rng = np.random.default_rng(n)
    normal = rng.normal(size=n).astype(np.float32)
    zeros = np.where(rng.random(n) < 0.5, 0.0, -0.0)
    return {
        "normal": normal * 3,
        "ties": np.round(normal * 2),
        "equal": np.full(n, -2.5),
        "zeros": np.where(rng.random(n) < 0.8, zeros, normal),
        "denormal": np.where(rng.random(n) < 0.9, rng.integers(-40, 40, n) * 1e-45, zeros),
        "masked": np.where(rng.random(n) < 0.9, -np.inf, normal),
        "huge": normal * 6e37,
        "positive": np.abs(normal) + 1,
        "negative": -np.abs(normal) - 1,
        "sorted": np.sort(normal),
        "reversed": np.sort(normal)[::-1],
    }


@pytest.mark.parametrize("n", LENGTHS)
def test_whole_rows_and_lists_are_sorted_as_ever(n):
    for name, row in hostile(n).items():
        x = np.ascontiguousarray(row, np.float32)
        if n == 1 or (x == -np.inf).all():
            x[0] = 1
        order = np.lexsort((np.arange(n), -x))
        shuffled = np.random.default_rng(1).permutation(n).astype(np.int32)
        for k in {1, n // 50, n // 3, n - 1, n} - {0}:
            listed = _sampling.Candidates(x)
            listed.replace(shuffled, x[shuffled])
            for c in (_sampling.Candidates(x), listed):
                ids, logits = c.top_parts(k)[:2]
                assert ids.tolist() == order[:k].tolist(), (name, k)
                assert logits.tobytes() == x[order[:k]].tobytes(), (name, k)  # a negative zero stays one
                c.keep_top(k)
                if k < n:
                    assert c.array()[0].tolist() == order[:k].tolist(), (name, k)


@pytest.mark.parametrize("n", [700, 40_000])
@pytest.mark.parametrize("kind", ["normal", "masked", "positive", "negative", "sorted"])
def test_top_p_keeps_what_a_plain_sort_leaves(n, kind):
    x = np.ascontiguousarray(hostile(n)[kind], np.float32)
    order = np.lexsort((np.arange(n), -x))
    e = np.exp(x[order].astype(np.float64) - x.max())
    sums = np.cumsum(e / e.sum())
    for share in (0.1, 0.6, 0.95, 0.999):
        c = _sampling.Candidates(x)
        _sampling.TopP(share, 1).apply(c)
        ids = c.array()[0].tolist()
        assert ids == order[: len(ids)].tolist()
        assert abs(sums[len(ids) - 1] - share) < 1e-6 or sums[len(ids) - 1] > share
        assert len(ids) == 1 or sums[len(ids) - 2] < share + 1e-6


@pytest.mark.parametrize("n", [6, 700, 9_000])
def test_typical_p_goes_by_distance_and_then_by_rank(n):
    """Logits of few values: whole runs are as near, on both sides of the entropy."""
    x = np.random.default_rng(n).integers(0, 4, n).astype(np.float32)
    order = np.lexsort((np.arange(n), -x))
    p = np.exp((x[order] - x.max()).astype(np.float32)).astype(np.float64)
    p = (p / p.sum()).astype(np.float32).astype(np.float64)
    surprise = -np.log(p)
    nearest = order[np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")]
    for share in (0.01, 0.3, 0.7, 0.99):
        c = _sampling.Candidates(x)
        _sampling.TypicalP(share, 1).apply(c)
        ids = c.array()[0].tolist()
        assert ids == nearest[: len(ids)].tolist()
        assert len(ids) == min(n, int((np.cumsum(p[np.argsort(order)][ids]) <= share).sum()) + 1)


def test_a_list_with_nan_is_refused_like_a_row():
    x = np.zeros(1000, np.float32)
    for k in (1, 10, 999):
        c = _sampling.Candidates(x)
        c.replace(np.arange(1000, dtype=np.int32), np.where(np.arange(1000) == 500, np.nan, 0).astype(np.float32))
        with pytest.raises(_sampling.LogitsError, match="NaN"):
            c.keep_top(k)


@pytest.mark.parametrize("n", [40, 20_000])
def test_many_edits_of_a_list_find_their_tokens(n):
    """From a certain number on by place, which is forgotten when the list changes."""
    x = np.random.default_rng(3).normal(size=n).astype(np.float32)
    ids = np.random.default_rng(4).permutation(n).astype(np.int32)[: n - 5]
    expected = {int(i): x[i] for i in ids}
    c = _sampling.Candidates(x)
    c.replace(ids, x[ids])
    for round_ in range(3):
        changed = np.arange(round_, n, 2, dtype=np.int32)
        c.add(changed, np.full(len(changed), 0.5, np.float32))
        for i in changed.tolist():
            if i in expected:
                expected[i] += np.float32(0.5)
        c.keep_top(len(expected) - 7)
        kept, logits = c.array()
        assert {int(i): float(v) for i, v in zip(kept, logits, strict=True)} == {int(i): expected[i] for i in kept}
        expected = {int(i): expected[i] for i in kept}


def made(n: int, **options):
    return make_chain(CLASSES, options, None, SequenceContext(n_vocab=n, n_ctx=64, seed=1))


@pytest.mark.parametrize("options", [{}, {"top_k": 0, "temperature": 2.0}, {"top_k": 0, "top_p": 1.0}])
def test_probabilities_are_packed_as_python_would(options):
    x = np.random.default_rng(1).normal(size=9000).astype(np.float32) * 3
    for n in (0, 1, 1000, 10_000):
        ids, logits, _, log_sum = _sampling.Candidates(x).top_parts(max(n, 1))
        top = Likely.of(ids[:n].tolist(), [float(v) - log_sum for v in logits[:n]])
        assert probabilities(x, 17, n) == (float(x[17]) - log_sum, top)
        c, chain = _sampling.Candidates(x), made(len(x), **options)
        for sampler in chain.samplers[:-1]:
            sampler.native().apply(c)
        ids, logits, _, log_sum = c.top_parts(n)
        after = Likely.of(ids.tolist(), [math.exp(v - log_sum) for v in logits.tolist()])
        everything = Likely.of(*(part.tolist() for part in c.top_parts(len(x))[:2]))
        for place in (0, len(everything) // 2, len(everything) - 1):
            token, logit = list(everything)[place]
            assert probabilities_after(x, chain, token, n) == (math.exp(logit - log_sum), after)
    x[5] = np.nan
    for call in (lambda: probabilities(x, 17, 3), lambda: probabilities_after(x, made(len(x)), 17, 3)):
        with pytest.raises((_sampling.LogitsError, LlamaKitError), match="NaN"):
            call()


def test_rows_wait_only_where_costly_work_would_begin():
    n = 20_000
    flat, peaked = np.random.default_rng(1).normal(size=(2, n)).astype(np.float32)
    peaked[7] = 60
    x = np.stack([flat, peaked])
    wide = [{"top_p": 1.0}, {"top_p": 0.9}, {"typical_p": 0.9, "top_p": 1.0}, {"tfs_z": 0.9, "top_p": 1.0}]
    chains = [made(n, top_k=0, temperature=1.0, **each) for each in wide] + [made(n, mirostat=i) for i in (1, 2)]
    plain = [made(n), made(n, temperature=0.0), made(n, top_k=0, top_p=0.95, temperature=1.0), made(n, top_k=500)]

    def run(row, chains, *most):
        stages = [chain.stages for chain in chains]
        return [token for token, _ in _sampling.sample_rows(x, [row] * len(stages), stages, *most)]

    over = (1 << 62, _sampling.row_work())
    assert run(0, chains, *over) == [_sampling.WAITS] * len(chains)
    assert run(1, plain, *over) == [7] * len(plain)
    assert run(0, plain[:2], *over) == run(0, plain[:2])
    # The first begins, and what is begun is finished, however much it takes.
    first = run(0, chains, 1 << 62, _sampling.row_work() + 1)
    assert first == run(0, chains[:1]) + [_sampling.WAITS] * (len(chains) - 1)


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("min_keep", [1, 300, 1000, 9000])
def test_a_nucleus_keeps_as_many_as_it_must_of_rows_and_lists(p, min_keep):
    x = np.random.default_rng(7).normal(size=10_000).astype(np.float32) * 8
    kept = []
    for c in (_sampling.Candidates(x), _sampling.Candidates(x)):
        if kept:
            c.array()  # makes a list of it
        _sampling.TopP(p, min_keep).apply(c)
        kept.append([part.tolist() for part in c.array()])
    assert kept[0] == kept[1]
    assert len(kept[0][0]) >= min_keep
