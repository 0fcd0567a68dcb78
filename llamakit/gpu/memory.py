"""What a device holds: weights, states and outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.backend import Buffer, State
from llamakit.errors import UsageError
from llamakit.gguf import GGMLType, native
from llamakit.gpu.driver import At, Block
from llamakit.gpu.source import MOST, too_large
from llamakit.gpu.top import top
from llamakit.graph.graph import DType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.backend import LogitEdits, TensorSource, Top
    from llamakit.gpu.driver import Driver
    from llamakit.gpu.source import Kernels

I8_BLOCK = 256  # values of a state that share a scale


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a tensor, in a block of their own: devices limit how large one may be."""

    place: At
    first: int
    n_row: int


class GPUWeight:
    """A tensor of a file: GGUF's blocks as they are, a vector as float32."""

    def __init__(self, driver: Driver, source: TensorSource) -> None:
        self.name, self.shape, self.type = source.name, source.shape, source.type
        if len(source.shape) == 1:
            self.type = GGMLType.F32
            values = native.dequantize(source.type, source.whole(), source.shape)
            self.parts = [Part(At(driver.allocate(values.nbytes)), 0, 1)]
            driver.write(self.parts[0].place, values)
            self.n_bytes = values.nbytes
            return
        *outer, _ = source.shape
        self.n_bytes, n_row = source.n_bytes, math.prod(outer)
        self.parts = parts_of(driver, n_row, source.n_bytes // n_row)
        size = source.n_bytes // n_row * self.parts[0].n_row
        for offset, piece in source.pieces():
            for start, stop in _cuts(offset, offset + len(piece), size):
                place = self.parts[start // size].place.plus(start % size)
                driver.write(place, np.ascontiguousarray(piece[start - offset : stop - offset]))

    @property
    def place(self) -> At:
        """Where a vector lies."""
        return self.parts[0].place


def parts_of(driver: Driver, n_row: int, row_bytes: int) -> list[Part]:
    """New memory for the rows of a tensor, in as few blocks as the device allows."""
    most = max(driver.traits.most_bytes // row_bytes, 1)
    return [
        Part(At(driver.allocate(min(most, n_row - first) * row_bytes)), first, min(most, n_row - first))
        for first in range(0, n_row, most)
    ]


def _cuts(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """The range, cut at multiples of `size`."""
    edges = [start, *range((start // size + 1) * size, stop, size), stop]
    return [(a, b) for a, b in pairwise(edges) if b > a]


def state_bytes(shape: tuple[int, ...], dtype: DType) -> int:
    """Bytes of a state: of I8 the codes, then a scale for each 256."""
    n = math.prod(shape)
    if dtype is DType.I8:
        blocks = -(-n // I8_BLOCK)
        return blocks * (I8_BLOCK + 4)
    return max(n, 1) * (2 if dtype is DType.BF16 else 4)


class GPUState(State):
    """A tensor that programs change."""

    def __init__(self, driver: Driver, shape: tuple[int, ...], dtype: DType) -> None:
        self.shape, self.dtype, self.driver = shape, dtype, driver
        if math.prod(shape) > MOST:
            raise too_large(f"a state of {math.prod(shape):,} elements")
        self.n_bytes = state_bytes(shape, dtype)
        self.place = At(driver.allocate(-(-self.n_bytes // 4) * 4))
        driver.zero(self.place, -(-self.n_bytes // 4) * 4)

    def read(self) -> Any:
        """A copy of the value."""
        raw = np.empty(self.n_bytes, np.uint8)
        self.driver.read(self.place, raw)
        n = math.prod(self.shape)
        if self.dtype is DType.BF16:
            return (raw.view(np.uint16)[:n].astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        if self.dtype is DType.I8:
            blocks = len(raw) // (I8_BLOCK + 4)
            codes = raw[: blocks * I8_BLOCK].view(np.int8).reshape(blocks, I8_BLOCK).astype(np.float32)
            scales = raw[blocks * I8_BLOCK :].view(np.float32)
            return (codes * scales[:, None]).reshape(-1)[:n].reshape(self.shape)
        return raw.view(np.float32)[:n].reshape(self.shape)

    def write(self, value: Any) -> None:
        """Replace the value."""
        if np.shape(value) != self.shape:
            raise UsageError(f"a state of shape {self.shape} cannot take a value of shape {np.shape(value)}")
        flat = np.ascontiguousarray(value, np.float32).reshape(-1)
        if flat.size:
            self.driver.write(self.place, _encoded(flat, self.dtype))


def _encoded(flat: Any, dtype: DType) -> Any:
    """The bytes of a state."""
    if dtype is DType.BF16:
        return native.quantize(GGMLType.BF16, flat)
    if dtype is DType.I8:
        blocks = np.zeros((-(-flat.size // I8_BLOCK), I8_BLOCK), np.float32)
        blocks.reshape(-1)[: flat.size] = flat
        scales = np.abs(blocks).max(axis=1) / np.float32(127)
        codes = np.divide(blocks, scales[:, None], out=np.zeros_like(blocks), where=scales[:, None] > 0)
        return np.concatenate([np.rint(codes).astype(np.int8).reshape(-1).view(np.uint8), scales.view(np.uint8)])
    return flat


class GPUBuffer(Buffer):
    """An output, where the program left it."""

    on_host = False

    def __init__(self, kernels: Kernels, place: At, shape: tuple[int, ...]) -> None:
        self.kernels, self.place, self.shape = kernels, place, shape

    def numpy(self) -> Any:
        """A copy on the host."""
        out = np.empty(self.shape, np.float32)
        if out.size:
            self.kernels.driver.read(self.place, out)
        return out

    def rows(self, rows: Sequence[int]) -> Any:
        """Some rows on the host."""
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        for i, row in enumerate(rows):
            self.kernels.driver.read(self.place.plus(4 * row * math.prod(self.shape[1:])), out[i])
        return out

    def top(self, rows: Sequence[int], k: int, edits: Sequence[LogitEdits | None] | None = None) -> Top:
        """The likeliest of rows, found on the device."""
        return top(self.kernels, self.place, self.shape[-1], list(rows), k, list(edits or [None] * len(rows)))


__all__ = ["Block", "GPUBuffer", "GPUState", "GPUWeight", "Part", "parts_of", "state_bytes"]
