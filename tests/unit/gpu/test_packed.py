"""Weights in panels: the numpy definition is exact for every type and shape, and kernels make its very bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llamakit.gguf import GGMLType, quants
from llamakit.gpu import memory
from llamakit.gpu.device import GPUDevice
from llamakit.gpu.driver import Traits
from llamakit.gpu.packed import pack, packing, unpack, weight_bytes
from llamakit.gpu.packings import PACKINGS
from llamakit.testing import shim
from llamakit.testing.blocks import random_blocks
from llamakit.testing.conformance import Source
from llamakit.testing.shim import ShimDriver

SHAPES = ((16, 256), (1, 256), (35, 512), (2, 5, 768), (7, 288), (33, 32), (3, 17), (5, 1))
CASES = [(type_, shape) for type_ in PACKINGS for shape in SHAPES if shape[-1] % type_.block_size == 0]
GPU = Traits("cuda", 64, 128, 1 << 30, packed=True)


def name(value) -> str:
    return value.name if isinstance(value, GGMLType) else str(value)


@pytest.mark.parametrize(("type_", "shape"), CASES, ids=name)
def test_what_is_packed_is_unpacked_to_the_bit(type_, shape):
    raw = random_blocks(type_, int(np.prod(shape)) // type_.block_size, seed=3)
    packed = pack(type_, raw, shape)
    assert packed.size == weight_bytes(GPU, type_, shape)
    expected = quants.dequantize(type_, raw, shape)
    assert np.array_equal(unpack(type_, packed, shape).view(np.uint32), expected.view(np.uint32))


def test_a_word_has_what_a_thread_of_a_product_on_tensor_cores_takes():
    """Of place 4 g + t the first word is row g, columns 8 t and on, at nibbles 0, 4, 1, 5, 2, 6, 3, 7."""
    codes = np.random.default_rng(1).integers(0, 16, (16, 64))
    raw = np.zeros((16, 2, 18), np.uint8)
    blocks = codes.reshape(16, 2, 32)
    raw[:, :, 2:] = blocks[:, :, :16] | blocks[:, :, 16:] << 4
    words = pack(GGMLType.Q4_0, raw.reshape(-1), (16, 64))[:512].view("<u4").reshape(32, 4)
    for place in range(32):
        g, t = divmod(place, 4)
        for i, (row, block) in enumerate(((g, 0), (g + 8, 0), (g, 1), (g + 8, 1))):
            found = [(int(words[place, i]) >> 4 * nibble) & 15 for nibble in (0, 4, 1, 5, 2, 6, 3, 7)]
            assert found == codes[row, 32 * block + 8 * t :][:8].tolist()


def test_a_panel_takes_what_its_planes_take():
    """Sizes of 16 rows of 256 columns: those of the file, but for scales that lie in bit fields there."""
    sizes = {type_.name: form.panel_bytes(256) for type_, form in PACKINGS.items()}
    same = {type_.name: 16 * type_.n_bytes(256) for type_ in PACKINGS}
    more = {"Q3_K": 64, "Q4_K": 64, "Q5_K": 64, "IQ4_XS": 32, "Q8_K": -512}  # of Q8_K no sums
    assert sizes == {each: n + more.get(each, 0) for each, n in same.items()}
    assert PACKINGS[GGMLType.Q4_0].panel_bytes(288) == 5 * 576  # five steps, not eight


def test_what_is_not_packed():
    """Vectors, float32, what reads grids, digits of base 3; and all of it where a device has no panels."""
    raw = {type_.name for type_ in quants.readable() if packing(GPU, type_, (32, 256)) is None}
    grids = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"}
    assert raw == {"F32", "TQ1_0", *grids}
    assert packing(GPU, GGMLType.Q4_0, (256,)) is None
    assert packing(replace(GPU, packed=False), GGMLType.Q4_0, (32, 256)) is None
    assert weight_bytes(GPU, GGMLType.F16, (256,)) == 1024
    assert weight_bytes(GPU, GGMLType.IQ2_XS, (3, 256)) == 3 * 74
    assert weight_bytes(replace(GPU, packed=False), GGMLType.Q4_0, (3, 32)) == 54


@pytest.mark.skipif(shim.compiler() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("type_", PACKINGS, ids=name)
def test_kernels_make_the_same_bytes(type_, monkeypatch):
    """In stages of few panels, from pieces of odd sizes, and into parts of a tensor."""
    monkeypatch.setattr(memory, "STAGED", 30_000)
    for shape in (shape for type_of, shape in CASES if type_of is type_):
        driver = ShimDriver(packed=True)
        panel = PACKINGS[type_].panel_bytes(shape[-1])
        driver.traits = replace(driver.traits, most_bytes=max(2 * panel, 16 * type_.n_bytes(shape[-1])))
        source = Source("w", type_, np.random.default_rng(3).normal(size=shape).astype(np.float32))
        weight = GPUDevice(driver).load(source, frozenset())
        made = [np.empty(part.place.block.n_bytes, np.uint8) for part in weight.parts]
        for part, into in zip(weight.parts, made, strict=True):
            driver.read(part.place, into)
        assert np.array_equal(np.concatenate(made), pack(type_, source.whole(), shape))
        assert sum(part.n_row for part in weight.parts) == np.prod(shape[:-1])
        assert driver.used == weight.n_bytes  # the stage was given back
