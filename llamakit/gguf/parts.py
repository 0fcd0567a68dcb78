"""What the numpy definitions of the tensor formats share: float16 fields, packed bits, and rounding.

Blocks are (n_block, bytes).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy arrays; shapes are in the comments


def read_half(blocks: Array, start: int) -> Array:
    """The float16 at byte `start` of each block, as float32 (n_block, 1)."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16).astype(np.float32)


def to_half(x: Array) -> Array:
    """float32 (n_block, 1) to the bytes of float16 (n_block, 2)."""
    return x.astype(np.float16).view(np.uint8).reshape(len(x), 2)


def round_away(x: Array) -> Array:
    """Round half away from zero, as C's roundf."""
    return np.copysign(np.floor(np.abs(x) + np.float32(0.5)), x)


def reciprocal(x: Array) -> Array:
    """1 / x, and 0 for 0."""
    with np.errstate(divide="ignore"):
        return np.where(x == 0, np.float32(0), np.float32(1) / x).astype(np.float32)


def signed_peak(blocks: Array) -> Array:
    """The value of the largest magnitude over the last size, with its sign."""
    where = np.abs(blocks).argmax(axis=-1, keepdims=True)
    return np.take_along_axis(blocks, where, axis=-1)


def nibbles(packed: Array) -> Array:
    """(n, m) bytes to (n, 2 m): all low nibbles, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def to_nibbles(q: Array) -> Array:
    """The reverse of `nibbles`."""
    half = q.shape[1] // 2
    return q[:, :half] | (q[:, half:] << 4)


def bits32(packed: Array) -> Array:
    """4 bytes to their 32 bits (n, 32), lowest first."""
    return np.unpackbits(packed, axis=1, bitorder="little")


def high_bits_k(blocks: Array, start: int) -> Array:
    """32 bytes at `start`, of which bit i belongs to the i-th 32 values: (n, 8, 32)."""
    return (blocks[:, None, start : start + 32] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)) & 1


def crumbs_k(qs: Array) -> Array:
    """64 bytes to (n, 16, 16): bytes 32 h.. hold, two bits each, the four groups of 32 values of half h."""
    q = qs.reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return (q & 3).reshape(-1, 16, 16)


def pack_crumbs_k(q: Array) -> Array:
    """The reverse of `crumbs_k`."""
    parts = q.reshape(-1, 2, 4, 32)
    return (parts[:, :, 0] | (parts[:, :, 1] << 2) | (parts[:, :, 2] << 4) | (parts[:, :, 3] << 6)).reshape(-1, 64)
