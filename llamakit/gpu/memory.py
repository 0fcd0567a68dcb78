"""What a device holds: weights, states and outputs."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.backend import Buffer, State
from llamakit.errors import UsageError
from llamakit.gguf import GGMLType, native
from llamakit.gpu.driver import At, Block
from llamakit.gpu.packed import packing, weight_bytes
from llamakit.gpu.packings import PACKINGS, PANEL, PLACES, STEP
from llamakit.gpu.source import MOST, too_large
from llamakit.gpu.top import top
from llamakit.graph.graph import DType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from llamakit.backend import LogitEdits, TensorSource, Top
    from llamakit.gpu.driver import Driver
    from llamakit.gpu.source import Kernels

I8_BLOCK = 256  # values of a state that share a scale
ALIGNED = 32  # bytes, as tensors of files are: more than kernels ask for
TRIED = 1 << 12  # bytes of a file by which it is found whether a device takes them in place
STAGED = 1 << 24  # bytes of a file that are repacked at once


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a tensor, in a block of their own: devices limit how large one may be."""

    place: At
    first: int
    n_row: int


class GPUWeight:
    """A tensor of a file: in panels, or in GGUF's blocks as they are; a vector as float32.

    `packed`: whether it is in panels. Then the file's blocks go to the device a stage at a time, to be repacked there.
    `in_place`: whether it lies where the file is mapped, as is possible where a device uses the host's memory.
    """

    def __init__(self, kernels: Kernels, source: TensorSource) -> None:
        self.name, self.shape, self.type, driver = source.name, source.shape, source.type, kernels.driver
        self.n_bytes = weight_bytes(kernels.traits, source.type, source.shape)
        self.packed = self.in_place = False
        if len(source.shape) == 1:
            self.type = GGMLType.F32
            values = native.dequantize(source.type, source.whole(), source.shape)
            self.parts = [Part(At(driver.allocate(values.nbytes)), 0, 1)]
            driver.write(self.parts[0].place, values)
            return
        *outer, n_in = source.shape
        n_row, row_bytes = math.prod(outer), source.type.n_bytes(n_in)
        form = packing(kernels.traits, source.type, source.shape)
        if form is not None:
            self.packed, self.parts = True, _panels(driver, n_row, form.panel_bytes(n_in))
            try:
                self._repack(kernels, source, n_row, row_bytes)
            except BaseException:
                for part in self.parts:  # not when whoever keeps the error is done with it
                    part.place.block.free()
                raise
            return
        shared = _shared(driver, source, n_row, row_bytes)
        if shared is not None:
            self.in_place, self.parts = True, shared
            return
        self.parts = parts_of(driver, n_row, row_bytes)
        size = row_bytes * self.parts[0].n_row
        for start, piece in _cut_pieces(source, size):
            driver.write(self.parts[start // size].place.plus(start % size), piece)

    @property
    def place(self) -> At:
        """Where a vector lies."""
        return self.parts[0].place

    def _repack(self, kernels: Kernels, source: TensorSource, n_row: int, row_bytes: int) -> None:
        """Make the panels, as many at once as a stage has room for."""
        driver = kernels.driver
        n_staged = min(max(min(STAGED, driver.traits.most_bytes) // row_bytes // PANEL, 1) * PANEL, n_row)
        size, stage = n_staged * row_bytes, At(driver.allocate(n_staged * row_bytes))
        try:
            for start, piece in _cut_pieces(source, size):
                driver.write(stage.plus(start % size), piece)
                stop = start + len(piece)
                if stop % size == 0 or stop == n_row * row_bytes:
                    begin = start // size * n_staged
                    self._repack_stage(kernels, source, stage, range(begin, stop // row_bytes), row_bytes)
            driver.finish()
        finally:
            stage.block.free()

    def _repack_stage(self, kernels: Kernels, source: TensorSource, stage: At, rows: range, row_bytes: int) -> None:
        """Make panels of the rows that lie in a stage."""
        n_in = source.shape[-1]
        kernel = kernels.get("repack", "repack", source.type, packed=True)
        panel = PACKINGS[source.type].panel_bytes(n_in)
        for part in self.parts:
            low, high = max(rows.start, part.first), min(rows.stop, part.first + part.n_row)
            items = -(-(high - low) // PANEL) * -(-n_in // STEP) * PLACES
            from_, to = (low - rows.start) * row_bytes, (low - part.first) // PANEL * panel
            if high > low:
                kernels.items(kernel, items, stage.plus(from_), part.place.plus(to), high - low, n_in)


def parts_of(driver: Driver, n_row: int, row_bytes: int) -> list[Part]:
    """New memory for the rows of a tensor, in as few blocks as the device allows."""
    return [Part(At(driver.allocate(n * row_bytes)), first, n) for first, n in _rows_of_parts(driver, n_row, row_bytes)]


def _rows_of_parts(driver: Driver, n_row: int, row_bytes: int) -> list[tuple[int, int]]:
    """(first row, rows) of each."""
    most = max(driver.traits.most_bytes // row_bytes, 1)
    return [(first, min(most, n_row - first)) for first in range(0, n_row, most)]


def taken(driver: Driver, source: TensorSource) -> int:
    """Bytes of its own that a device takes for a tensor."""
    return 0 if _lies_in_place(driver, source) else weight_bytes(driver.traits, source.type, source.shape)


def _lies_in_place(driver: Driver, source: TensorSource) -> bool:
    """Whether a tensor is used where its file is mapped: as it is there, and aligned.

    Drivers of GPUs copy memory that does not begin at a page, and do not say so: then the copy is ours, and counted.
    """
    if not driver.shares or len(source.shape) == 1 or packing(driver.traits, source.type, source.shape) is not None:
        return False
    data, aligned = source.whole(), ALIGNED if driver.info.kind == "cpu" else mmap.PAGESIZE
    return bool(data.ctypes.data % aligned == 0) and _shares(driver, data)


def _shares(driver: Driver, data: npt.NDArray[np.uint8]) -> bool:
    """Whether it takes memory of the host, as it says: tried once, with a piece of `data`."""
    if not driver.share_tried:
        driver.share_tried = True
        block = driver.share(data[:TRIED])
        driver.shares = block is not None
        if block is not None:
            block.free()
    return driver.shares


def _shared(driver: Driver, source: TensorSource, n_row: int, row_bytes: int) -> list[Part] | None:
    """The parts of a tensor where its file is mapped; None if the device does not take them there."""
    if not _lies_in_place(driver, source):
        return None
    data, found = source.whole(), []
    for first, n in _rows_of_parts(driver, n_row, row_bytes):
        block = driver.share(data[first * row_bytes : (first + n) * row_bytes])
        if block is None:
            return None
        found.append(Part(At(block), first, n))
    return found


def _panels(driver: Driver, n_row: int, panel_bytes: int) -> list[Part]:
    """The same for rows in panels: a part ends with one, or with the tensor."""
    parts = parts_of(driver, -(-n_row // PANEL), panel_bytes)
    rows = [(PANEL * part.first, PANEL * (part.first + part.n_row)) for part in parts]
    return [Part(part.place, a, min(b, n_row) - a) for part, (a, b) in zip(parts, rows, strict=True)]


def _cut_pieces(source: TensorSource, size: int) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """(offset, bytes) of a tensor, none across a multiple of `size`."""
    for offset, piece in source.pieces():
        for start, stop in _cuts(offset, offset + len(piece), size):
            yield start, np.ascontiguousarray(piece[start - offset : stop - offset])


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
