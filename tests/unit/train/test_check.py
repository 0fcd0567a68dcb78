"""The parts of `llamakit data check`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.train.data.check import histogram, percentiles, round_width, runs
from llamakit.train.samples import sample


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=200))
def test_bins_hold_every_length_once(lengths):
    bins = histogram(lengths)
    assert sum(each.count for each in bins) == len(lengths)
    assert len(bins) <= 12
    for each in bins:
        assert each.count == sum(each.low <= length <= each.high for length in lengths)
    assert [each.low for each in bins[1:]] == [each.high + 1 for each in bins[:-1]]
    assert bins[-1].count


@pytest.mark.parametrize(("least", "width"), [(0.1, 1), (1, 1), (1.1, 2), (3, 5), (6, 10), (41.7, 50), (501, 1000)])
def test_round_widths(least, width):
    assert round_width(least) == width


def test_percentiles():
    assert percentiles(list(range(1, 102))) == {"0": 1, "5": 6, "50": 51, "95": 96, "100": 101}
    assert percentiles([]) == {}
    assert histogram([]) == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=3), st.booleans()), max_size=20))
def test_runs_are_the_text(of_bytes, parts):
    tokenizer = of_bytes()
    tokens, weights = [1], [0.0]
    for text, loss in parts:
        more = tokenizer.encode(text)
        tokens += more
        weights += [float(loss)] * len(more)
    found = runs(sample(tokens, weights), tokenizer)
    assert "".join(run.text for run in found) == "<s>" + "".join(text for text, _ in parts)
    assert all(one.loss != other.loss for one, other in pairwise(found))


def test_a_word_keeps_its_space(vocabulary):
    tokenizer = vocabulary("llama-spm")
    tokens = tokenizer.encode("Hello my world", add_special=True)
    found = runs(sample(tokens, np.r_[np.zeros(2), np.ones(len(tokens) - 2)]), tokenizer)
    assert [run.text for run in found] == ["<s>Hello", " my world"]


def test_the_first_token_does_not_count(of_bytes):
    found = runs(sample(of_bytes().encode("ab", add_special=True), [1, 1, 1]), of_bytes())
    assert [(run.text, run.loss) for run in found] == [("<s>", False), ("ab", True)]


def test_of_a_very_long_sample_the_ends_are_shown(of_bytes):
    tokenizer = of_bytes()
    tokens = tokenizer.encode("a" * 3000 + "b" * 3000, add_special=True)
    weights = [0.0] * 100 + [1.0] * (len(tokens) - 100)
    found = runs(sample(tokens, weights), tokenizer)
    assert [(run.loss, len(run.text)) for run in found] == [(False, 102), (True, 1948), (False, 35), (True, 2048)]
    assert found[2].text == f"\n[{len(tokens) - 4096:,} tokens that are not shown]\n"
    assert set(found[-1].text) == {"b"}
