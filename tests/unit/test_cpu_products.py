"""Products of the cpu backend's training kernels beside numpy's in float64, at any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from llamakit.plugins.backends.cpu import _cpu

from llamakit.gguf import GGMLType, native, quants
from llamakit.testing.blocks import random_blocks

training = _cpu.training
POOLS = {n: _cpu.Pool(n) for n in (1, 2, 3)}
MEMORY = {n: training.Workspace(n) for n in POOLS}
# Rows, columns and depth: remainders of every tile, panel and block; few rows, few columns; two slabs along k.
SHAPES = [
    (1, 1, 1), (3, 5, 7), (64, 64, 64), (65, 33, 257), (6, 16, 256), (16, 300, 512), (300, 16, 512), (300, 8, 700),
    (200, 130, 1), (2, 200, 300), (2100, 40, 30), (97, 16, 1030), (2000, 70, 600), (4, 70, 0),
]  # fmt: skip


def products(shape, a, b, start, isa="", **options):
    """The product at each number of threads, which must not matter; its first."""
    found = []
    for n, pool in POOLS.items():
        out = start.copy()
        training.product(isa, pool, MEMORY[n], a, b, out, **options)
        found.append(out)
    assert all(np.array_equal(out, found[0]) for out in found), shape
    return found[0]


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("isa", _cpu.supported_isas())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_either_side_transposed_and_added(shape, isa):
    m, n, k = shape
    rng = np.random.default_rng(m + n + k)
    a, b, start = numbers(rng, m, k), numbers(rng, k, n), numbers(rng, m, n)
    right = a.astype(np.float64) @ b.astype(np.float64)
    for sides in range(4):
        turned_a, turned_b = bool(sides & 1), bool(sides & 2)
        left = np.ascontiguousarray(a.T) if turned_a else a
        other = np.ascontiguousarray(b.T) if turned_b else b
        for add in (False, True):
            found = products(shape, left, other, start, isa, transpose_a=turned_a, transpose_b=turned_b, add=add)
            assert np.abs(found - right - start * add).max() <= 4e-6 * (np.sqrt(k) + 1)


@pytest.mark.parametrize("type_", quants.readable(), ids=lambda t: t.name)
def test_weights_as_their_values(type_):
    """Forward with a bias and back, packed or where they lie in the file: the same bits."""
    rng = np.random.default_rng(int(type_))
    for n_out, n_in, m in ((35, 512, 70), (64, 256, 5), (300, 768, 20)):
        if type_ in quants.supported():
            raw = native.quantize(type_, numbers(rng, n_out, n_in)).reshape(-1)
        else:
            raw = random_blocks(type_, n_out * n_in // type_.block_size).reshape(-1)
        values = native.dequantize(type_, raw, (n_out, n_in)).astype(np.float64)
        packed = _cpu.Weight(int(type_), n_out, n_in, False)
        packed.append(raw, POOLS[1])
        packed.finish(POOLS[1])
        lying = _cpu.Weight.in_place(int(type_), n_out, n_in, np.ascontiguousarray(raw))
        x, dy, bias = numbers(rng, m, n_in), numbers(rng, m, n_out), numbers(rng, n_out)
        unit = np.sqrt((values**2).mean())
        for left, right, options in (
            (x, x @ values.T + bias, {"transpose_b": True, "bias": bias}),
            (dy, dy @ values, {}),
        ):
            start = np.full(right.shape, np.nan, np.float32)
            found = products(type_, left, packed, start, **options)
            assert np.abs(found - right).max() <= 3e-6 * unit * np.sqrt(left.shape[1]) + 1e-6
            assert np.array_equal(found, products(type_, left, lying, start, **options))


def test_an_element_does_not_depend_on_the_others():
    rng = np.random.default_rng(5)
    a, b = numbers(rng, 300, 600), numbers(rng, 600, 200)
    whole = products("all", a, b, np.zeros((300, 200), np.float32))
    for rows in (1, 7, 64, 65, 200):
        for columns in (1, 64, 65, 200):
            start = np.zeros((rows, columns), np.float32)
            part = products((rows, columns), a[:rows].copy(), np.ascontiguousarray(b[:, :columns]), start)
            assert np.array_equal(part, whole[:rows, :columns])


def test_shapes_that_make_no_product():
    zero = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="make no product"):
        training.product("", POOLS[1], MEMORY[1], zero, zero, np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("isa", _cpu.supported_isas())
@pytest.mark.parametrize("shape", [(7, 5, 9), (70, 40, 513), (16, 200, 64)], ids=str)
def test_operands_of_bfloat16(shape, isa):
    """Rounded to nearest, and multiplied exactly."""
    m, n, k = shape
    rng = np.random.default_rng(k)
    a, b = numbers(rng, m, k), numbers(rng, k, n)
    for sides in range(4):
        turned_a, turned_b = bool(sides & 1), bool(sides & 2)
        left = np.ascontiguousarray(a.T) if turned_a else a
        other = np.ascontiguousarray(b.T) if turned_b else b
        options = {"transpose_a": turned_a, "transpose_b": turned_b, "pairs": True}
        found = products(shape, left, other, np.zeros((m, n), np.float32), isa, **options)
        right = rounded(a) @ rounded(b)
        assert np.abs(found - right).max() <= 4e-6 * (np.sqrt(k) + 1)


def rounded(x):
    raw = native.quantize(GGMLType.BF16, x)
    return native.dequantize(GGMLType.BF16, raw.reshape(-1), x.shape).astype(np.float64)
