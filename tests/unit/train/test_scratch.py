"""Shapes of new models."""

from __future__ import annotations

import pytest

from llamakit.errors import UsageError
from llamakit.train.scratch import ShapeOptions, choose_shape, parse_count, usual_heads


@pytest.mark.parametrize("params", ["500k", "1M", "5M", "11M", "124M", "1.1B", "7B"])
@pytest.mark.parametrize("kv_heads", [0, 2])
def test_a_shape_is_found_for_every_size(params, kv_heads):
    shape = choose_shape(ShapeOptions(params=params, kv_heads=kv_heads), 4096, 512)
    assert shape.n_parameter == pytest.approx(parse_count(params), rel=0.3)
    assert shape.n_embd % (2 * shape.n_head) == 0
    assert shape.n_head % shape.n_head_kv == 0
    assert 32 <= shape.n_embd / shape.n_head <= 128
    assert 32 <= shape.n_embd / shape.n_layer <= 64


def test_what_is_given_stays():
    shape = choose_shape(ShapeOptions(params="5M", layers=4, heads=4), 4096, 512)
    assert (shape.n_layer, shape.n_head) == (4, 4)
    assert shape.n_parameter == pytest.approx(5e6, rel=0.2)
    shape = choose_shape(ShapeOptions(params="5M", embd=192), 4096, 512)
    assert shape.n_embd == 192
    assert shape.n_parameter == pytest.approx(5e6, rel=0.2)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="no model of 100k parameters"):
        choose_shape(ShapeOptions(params="100k"), 4096, 512)
    with pytest.raises(UsageError, match="--heads 6 is not a multiple of 4"):
        choose_shape(ShapeOptions(embd=96, layers=2, heads=6, kv_heads=4), 4096, 512)
    for text in ("", "5X", "-3M", "nan", "1e99"):
        with pytest.raises(UsageError, match="is not a size of a model"):
            parse_count(text)


def test_heads_divide_the_width():
    for embd in range(2, 2048, 2):
        assert embd % (2 * usual_heads(embd)) == 0, embd
    assert (usual_heads(256), usual_heads(512), usual_heads(4096)) == (8, 8, 64)
