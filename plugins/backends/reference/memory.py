"""What the reference device holds: weights, states, adapters, KV cache and outputs, all plain numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.backend import Adapter, AdapterTable, Buffer, KVCache, KVSpec, State
from llamakit.errors import UsageError
from llamakit.gguf import GGMLType, quants
from llamakit.graph.graph import DType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamakit.backend import TensorSource

PIECE = 1 << 13  # blocks that are dequantised at once
KV_TYPES = {name.lower(): GGMLType[name] for name in ("F32", "F16", "BF16", "Q8_0")}


@dataclass(frozen=True, slots=True)
class ReferenceWeight:
    """A tensor, dequantised."""

    name: str
    data: Any  # (*shape) float32
    n_bytes: int


class ReferenceBuffer(Buffer):
    """An output of a run."""

    def __init__(self, data: Any) -> None:
        self.data, self.shape = data, tuple(data.shape)

    def numpy(self) -> Any:
        """The array itself."""
        return self.data


def load_weight(source: TensorSource) -> ReferenceWeight:
    """Read a tensor and dequantise it, a little at a time: large arrays in between would leave holes in memory."""
    data, done, left = np.empty(source.shape, np.float32), 0, np.empty(0, np.uint8)
    values, type_ = data.reshape(-1), source.type
    for _, piece in source.pieces(PIECE * type_.type_size):
        raw = np.concatenate([left, piece])
        n = len(raw) // type_.type_size
        part = values[done : done + n * type_.block_size]
        part[:] = quants.dequantize(type_, raw[: n * type_.type_size], part.shape)
        done, left = done + len(part), raw[n * type_.type_size :]
    return ReferenceWeight(source.name, data, data.nbytes)


I8_BLOCK = 256  # values that share a scale


def rounded(values: Any, dtype: DType) -> Any:
    """What a state of this type keeps of float values; of I8 each block of 256 has a scale, its largest value / 127."""
    if dtype is DType.BF16:
        flat = np.ascontiguousarray(values, np.float32).reshape(1, -1)
        return quants.dequantize(GGMLType.BF16, quants.quantize(GGMLType.BF16, flat), values.shape)
    if dtype is DType.I8:
        flat = np.zeros(-(-values.size // I8_BLOCK) * I8_BLOCK, np.float32)
        flat[: values.size] = np.asarray(values, np.float32).reshape(-1)
        blocks = flat.reshape(-1, I8_BLOCK)
        scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
        codes = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0)
        return (np.rint(codes) * scale).reshape(-1)[: values.size].reshape(values.shape)
    return values


class ReferenceState(State):
    """An array, of float32 or of float64 (the option `float64`), with values that the state's type can hold."""

    def __init__(self, shape: tuple[int, ...], dtype: DType, kept: Any) -> None:
        self.shape, self.dtype = shape, dtype
        self.data = np.zeros(shape, kept)

    def read(self) -> Any:
        """A copy of the value."""
        return self.data.copy()

    def write(self, value: Any) -> None:
        """Replace the value."""
        if np.shape(value) != self.shape:
            raise UsageError(f"a state of shape {self.shape} cannot take a value of shape {np.shape(value)}")
        self.data[...] = rounded(value, self.dtype)

    def add(self, value: Any) -> None:
        """Add to the value."""
        self.write(self.data + value)


class ReferenceAdapters(AdapterTable):
    """A dictionary of adapters per slot."""

    def __init__(self, targets: Mapping[str, tuple[int, ...]], n_slot: int) -> None:
        self.targets, self.n_slot = dict(targets), n_slot
        self.slots: list[dict[str, Adapter]] = [{} for _ in range(n_slot + 1)]

    def set(self, slot: int, adapters: Mapping[str, Adapter]) -> None:
        """Fill a slot."""
        self._check(slot)
        for name in adapters:
            if name not in self.targets:
                raise UsageError(f"adapter for {name!r}: the model has no such tensor to adapt")
        self.slots[slot] = dict(adapters)

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        self._check(slot)
        self.slots[slot] = {}

    def _check(self, slot: int) -> None:
        if not 1 <= slot <= self.n_slot:
            raise UsageError(f"adapter slot {slot}: there are slots 1 to {self.n_slot}")


def row_bytes(spec: KVSpec) -> int:
    """Bytes of one position in one layer, of the layer with most."""
    type_ = KV_TYPES[spec.type]
    return max(sum(-(-n // type_.block_size) * type_.type_size for n in layer.n_values) for layer in spec.layers)


class ReferenceKV(KVCache):
    """Keys and values in the canonical layout itself, (layers, n_cell, bytes of K + bytes of V)."""

    def __init__(self, spec: KVSpec) -> None:
        self.spec = spec
        self.type = KV_TYPES[spec.type]
        for k, v in (layer.n_values for layer in spec.layers):
            if k % self.type.block_size or v % self.type.block_size:
                raise UsageError(
                    f"KV type {spec.type} stores blocks of {self.type.block_size} values; this model has"
                    f" {k} and {v} a position: use f16 instead"
                )
        self.data = np.zeros((len(spec.layers), spec.n_block * spec.block_size, row_bytes(spec)), np.uint8)

    def write(self, layer: int, cells: Any, k: Any, v: Any) -> None:
        """Round and store k (rows, n_head_kv, head_dim) and v at `cells` (rows,)."""
        both = np.concatenate([self._encode(k, len(cells)), self._encode(v, len(cells))], axis=1)
        self.data[layer, cells, : both.shape[1]] = both

    def read(self, layer: int, cells: Any) -> tuple[Any, Any]:
        """Keys (n, n_head_kv, head_dim_k) and values (n, n_head_kv, head_dim_v) of cells, float64."""
        raw, n, begin, found = self.data[layer, cells], len(cells), 0, []
        for n_value in self.spec.layers[layer].n_values:
            end = begin + self.type.n_bytes(n_value)
            flat = quants.dequantize(self.type, np.ascontiguousarray(raw[:, begin:end]).ravel(), (n, n_value))
            found.append(flat.reshape(n, self.spec.layers[layer].n_head_kv, -1).astype(np.float64))
            begin = end
        return found[0], found[1]

    def copy(self, source: Sequence[int], destination: Sequence[int]) -> None:
        """Copy whole blocks."""
        blocks = self.data.reshape(len(self.spec.layers), self.spec.n_block, self.spec.block_size, -1)
        blocks[:, list(destination)] = blocks[:, list(source)]

    def shift(self, source: Sequence[int], destination: Sequence[int], delta: int) -> None:
        """Copy cells, rotating the keys by `delta` positions."""
        from llamakit.plugins.backends.reference.ops import rotate

        old, new = np.asarray(source), np.asarray(destination)
        for layer, spec in enumerate(self.spec.layers):
            k, v = self.read(layer, old)
            if spec.rope is not None:
                k = rotate(k, np.full(len(old), delta), spec.rope, magnitude=1.0)
            self.write(layer, new, k.astype(np.float32), v.astype(np.float32))

    def export(self, cells: Sequence[int]) -> Any:
        """The cells' bytes."""
        return self.data[:, np.asarray(cells)].copy()

    def restore(self, cells: Sequence[int], data: Any) -> None:
        """Write cells that `export` gave."""
        expected = (len(self.spec.layers), len(cells), self.data.shape[2])
        if data.shape != expected:
            raise UsageError(f"KV data has shape {data.shape}, this cache needs {expected}")
        self.data[:, np.asarray(cells)] = data

    def _encode(self, x: Any, rows: int) -> Any:
        flat = np.ascontiguousarray(x, np.float32).reshape(rows, -1)
        return quants.quantize(self.type, flat).reshape(rows, -1)
