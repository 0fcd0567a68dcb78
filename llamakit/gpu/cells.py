"""The KV cache of a GPU: of each layer a row of bytes a cell, in the canonical form of session files."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.backend import KVCache, KVSpec
from llamakit.errors import OutOfMemoryError, UsageError
from llamakit.gguf import GGMLType
from llamakit.gpu.driver import At
from llamakit.gpu.source import stored_defines

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from llamakit.gpu.source import Kernels
    from llamakit.graph.attrs import RopeAttrs

KV_TYPES = {name.lower(): GGMLType[name] for name in ("F32", "F16", "BF16", "Q8_0")}


def cell_bytes(spec: KVSpec) -> list[tuple[int, int]]:
    """Of each layer the bytes of a cell's keys, and of its keys and values."""
    type_ = KV_TYPES[spec.type]
    sizes = [tuple(-(-n // type_.block_size) * type_.type_size for n in layer.n_values) for layer in spec.layers]
    return [(k, k + v) for k, v in sizes]


def cache_bytes(spec: KVSpec) -> int:
    """Bytes of a whole cache."""
    return spec.n_block * spec.block_size * sum(row for _, row in cell_bytes(spec))


@lru_cache(maxsize=64)
def turns_of(rope: RopeAttrs) -> npt.NDArray[np.uint64]:
    """Of each pair the turns that a position makes, as a fraction of 2^64: see `rotate` in basic.cl."""
    from fractions import Fraction
    from math import pi

    return np.array([round(Fraction(f) / (2 * Fraction(pi)) * 2**64) % 2**64 for f in rope.inv_freq], np.uint64)


class GPUKV(KVCache):
    """Keys and values of all layers, a block of memory each."""

    def __init__(self, kernels: Kernels, spec: KVSpec) -> None:
        block = KV_TYPES[spec.type].block_size
        for k, v in (layer.n_values for layer in spec.layers):
            if k % block or v % block:
                raise UsageError(
                    f"KV type {spec.type} stores blocks of {block} values; this model has {k} and {v} a position:"
                    " use f16 instead"
                )
        self.spec, self.kernels, self.rows = spec, kernels, cell_bytes(spec)
        self.n_cell, driver = spec.n_block * spec.block_size, kernels.driver
        self.layers: list[At] = []
        for _, row in self.rows:
            n_bytes = max(-(-self.n_cell * row // 4) * 4, 4)
            if n_bytes > driver.traits.most_bytes:
                raise OutOfMemoryError(
                    f"keys and values of a layer take {n_bytes / 2**30:.2f} GiB; this device gives at most"
                    f" {driver.traits.most_bytes / 2**30:.2f} GiB at once",
                    hint="a smaller --ctx-size, or --kv-type q8_0",
                )
            self.layers.append(At(driver.allocate(n_bytes, host=driver.traits.cache_on_host)))
            driver.zero(self.layers[-1], n_bytes)
        self._turns = [None if layer.rope is None else self._constant(turns_of(layer.rope)) for layer in spec.layers]

    def copy(self, source: Sequence[int], destination: Sequence[int]) -> None:
        """Copy whole blocks."""
        size, driver = self.spec.block_size, self.kernels.driver
        for (_, row), place in zip(self.rows, self.layers, strict=True):
            for a, b in zip(source, destination, strict=True):
                if a != b:
                    driver.copy(place.plus(a * size * row), place.plus(b * size * row), size * row)

    def shift(self, source: Sequence[int], destination: Sequence[int], delta: int) -> None:
        """Copy cells with their keys rotated; what is read is put aside first."""
        n, kernels = len(source), self.kernels
        if n == 0:
            return
        old, new = self._cells(source), self._cells(destination)
        aside = At(kernels.driver.allocate(n * max(row for _, row in self.rows)))
        for i, layer in enumerate(self.spec.layers):
            k_bytes, row = self.rows[i]
            gather = kernels.get("gather_bytes", "bytes")
            kernels.items(gather, n * row, self.layers[i], old, aside, n, row)
            rope, turns = layer.rope, self._turns[i]
            if rope is None or turns is None:
                kernels.items(kernels.get("scatter_bytes", "bytes"), n * row, aside, new, self.layers[i], n, row)
                continue
            kernel = kernels.get("shift_cells", "cells", None, stored_defines(self.spec.type))
            kernels.items(
                kernel, n, aside, self.layers[i], new, turns, n, layer.n_head_kv, layer.head_dim_k,
                len(rope.inv_freq), int(rope.pairs == "adjacent"), k_bytes, row, -delta if rope.inverse else delta,
            )  # fmt: skip

    def export(self, cells: Sequence[int]) -> Any:
        """Rows of bytes as they are."""
        n, width = len(cells), max(row for _, row in self.rows)
        out = np.zeros((len(self.layers), n, width), np.uint8)
        if n == 0:
            return out
        kernels, chosen = self.kernels, self._cells(cells)
        aside, kernel = At(kernels.driver.allocate(n * width)), kernels.get("gather_bytes", "bytes")
        for i, (_, row) in enumerate(self.rows):
            kernels.items(kernel, n * row, self.layers[i], chosen, aside, n, row)
            rows = np.empty((n, row), np.uint8)
            kernels.driver.read(aside, rows)
            out[i, :, :row] = rows
        return out

    def restore(self, cells: Sequence[int], data: Any) -> None:
        """Write rows of bytes."""
        n, width = len(cells), max(row for _, row in self.rows)
        if data.shape != (len(self.layers), n, width):
            raise UsageError(f"KV data has shape {data.shape}, this cache needs {(len(self.layers), n, width)}")
        if n == 0:
            return
        kernels, chosen = self.kernels, self._cells(cells)
        aside, kernel = At(kernels.driver.allocate(n * width)), kernels.get("scatter_bytes", "bytes")
        for i, (_, row) in enumerate(self.rows):
            kernels.driver.write(aside, np.ascontiguousarray(data[i, :, :row]))
            kernels.items(kernel, n * row, aside, chosen, self.layers[i], n, row)

    def close(self) -> None:
        """Give the memory back."""
        for place in self.layers:
            place.block.free()
        self.layers = []

    def _cells(self, cells: Sequence[int]) -> At:
        found = np.asarray(cells, np.int32)
        if found.size and (found.min() < 0 or found.max() >= self.n_cell):
            raise UsageError(f"cells {found.min()}..{found.max()}: the cache has {self.n_cell}")
        return self._constant(found)

    def _constant(self, values: Any) -> At:
        place = At(self.kernels.driver.allocate(max(values.nbytes, 4)))
        if values.size:
            self.kernels.driver.write(place, values)
        return place
