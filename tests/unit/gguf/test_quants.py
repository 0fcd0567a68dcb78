"""Tensor formats: numpy definition, native code, and the `gguf` package, to the bit."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamakit import _formats
from llamakit.errors import UsageError
from llamakit.gguf import GGMLType, native, quants
from llamakit.gguf.grids import SETS
from llamakit.testing.blocks import random_blocks

TYPES, READ = quants.supported(), quants.readable()
# Root mean square error of a normal distribution, relative to its deviation, that plain rounding stays under.
ERROR = {
    "F32": 0, "F16": 3e-4, "BF16": 2.5e-3, "Q8_0": 6e-3, "Q8_K": 7.5e-3, "Q6_K": 0.025, "Q5_0": 0.05, "Q5_1": 0.05,
    "Q5_K": 0.045, "Q4_0": 0.1, "Q4_1": 0.09, "Q4_K": 0.09, "Q3_K": 0.19, "Q2_K": 0.36,
    "IQ4_NL": 0.09, "IQ4_XS": 0.09, "MXFP4": 0.13, "TQ1_0": 0.82, "TQ2_0": 0.82,
}  # fmt: skip


def values(n_row: int, n: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_row, n)).astype(np.float32)
    x[0] = 0
    x[1, : n // 2] = 0
    x[2] *= 1e-6
    x[3] = 1.0
    return x


@pytest.mark.parametrize("type", READ, ids=lambda t: t.name)
def test_decoding_is_equal_to_the_bit_in_numpy_native_and_gguf(type):
    raw = random_blocks(type, 1024)
    shape = (4, 256 * type.block_size)
    ours = quants.dequantize(type, raw, shape)
    assert np.array_equal(ours, native.dequantize(type, raw, shape))
    if type.name == "Q8_K":
        return  # the gguf package does not decode it
    theirs = gguf.quants.dequantize(raw.reshape(4, -1), gguf.GGMLQuantizationType(int(type)))
    assert np.array_equal(ours, theirs.reshape(shape).astype(np.float32))


@pytest.mark.parametrize("type", [t for t in READ if t.block_size > 1 and t.name != "Q8_K"], ids=lambda t: t.name)
def test_any_bytes_decode_to_the_same_in_numpy_native_and_gguf(type):
    """Scales that are infinite, no numbers or subnormal too."""
    raw = np.random.default_rng(11).integers(0, 256, (4000, type.type_size), dtype=np.uint8)
    shape = (4000, type.block_size)
    with np.errstate(all="ignore"):
        ours = quants.dequantize(type, raw.reshape(-1), shape)
        theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(int(type)))
    assert np.array_equal(ours, theirs.astype(np.float32), equal_nan=True)
    assert np.array_equal(ours, native.dequantize(type, raw.reshape(-1), shape), equal_nan=True)


@pytest.mark.parametrize("type", TYPES, ids=lambda t: t.name)
def test_encoding_is_equal_to_the_bit_in_numpy_and_native(type):
    x = values(8, 512)
    assert np.array_equal(quants.quantize(type, x), native.quantize(type, x))


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4", "TQ1_0", "TQ2_0"])
def test_encoding_is_equal_to_the_bit_in_gguf(name):
    x = values(64, 256)
    theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
    assert np.array_equal(native.quantize(GGMLType[name], x), theirs.view(np.uint8).reshape(-1))


@pytest.mark.parametrize("type", TYPES, ids=lambda t: t.name)
def test_error_of_rounding(type):
    x = np.random.default_rng(3).normal(size=(64, 1024)).astype(np.float32)
    back = native.dequantize(type, native.quantize(type, x), x.shape)
    assert np.sqrt(np.mean((back - x) ** 2)) <= ERROR[type.name]


@pytest.mark.parametrize("type", [t for t in TYPES if t.block_size > 1], ids=lambda t: t.name)
def test_nan_and_infinity_do_not_crash(type):
    x = np.full((1, 512), np.nan, np.float32)
    x[0, 256:] = np.inf
    assert native.quantize(type, x).size == type.n_bytes(512)


def test_all_halves_convert_as_in_numpy():
    bits = np.arange(65536, dtype=np.uint16)
    ours = native.dequantize(GGMLType.F16, bits.view(np.uint8), (65536,))
    assert np.array_equal(ours.view(np.uint32), bits.view(np.float16).astype(np.float32).view(np.uint32))


def test_floats_round_to_halves_as_in_numpy():
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    x = bits.view(np.float32)
    x = x[~np.isnan(x)]
    x = np.concatenate([x, np.arange(65520, dtype=np.float32), np.float32(2) ** -np.arange(10, 30)])
    with np.errstate(over="ignore"):
        theirs = x.astype(np.float16).view(np.uint8)
    assert np.array_equal(native.quantize(GGMLType.F16, x), theirs)


def test_every_type_of_the_native_table_has_its_name_here():
    assert {t.name: (int(t), t.block_size, t.type_size) for t in GGMLType} == _formats.types
    assert _formats.types["Q4_K"] == (12, 256, 144)


def test_a_row_that_is_no_multiple_is_refused():
    with pytest.raises(UsageError, match="172"):
        native.quantize(GGMLType.Q8_0, np.zeros((2, 172), np.float32))


def test_a_type_that_cannot_be_read_is_named():
    with pytest.raises(UsageError, match="Q8_1 cannot be read yet"):
        quants.dequantize(GGMLType.Q8_1, np.zeros(36, np.uint8), (32,))


@pytest.mark.parametrize("module", [quants, native])
def test_a_type_that_is_only_read_is_named(module):
    with pytest.raises(UsageError, match="IQ2_XS can be read but not written"):
        module.quantize(GGMLType.IQ2_XS, np.zeros((1, 256), np.float32))
    with pytest.raises(ValueError, match="IQ2_XS can be read but not written"):
        _formats.quantize(int(GGMLType.IQ2_XS), np.zeros(256, np.float32))


def test_the_grids_of_the_native_code_are_those_of_the_definition():
    root = Path(__file__).parents[3]
    rows = re.findall(r'kSet_(\w+)\[\] =((?:\s*"[^"]*")+);', (root / "cpp/formats/grids.inc").read_text())
    assert {name: "".join(re.findall(r'"([^"]*)"', text)) for name, text in rows} == SETS
