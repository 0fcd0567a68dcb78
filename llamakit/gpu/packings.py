"""How each tensor type is packed into panels: its planes, its scales, and what the numbers mean. See `packed`.

What is not here stays as it lies in the file: types whose codes are numbers of points of a grid (IQ1, IQ2, IQ3), which
planes of bits would not make cheaper to look up; TQ1_0, whose five digits a byte are no bits, so that planes take a
quarter more; and F32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from llamakit.gguf import GGMLType, quants
from llamakit.gguf.parts import bits32, crumbs_k, high_bits_k, nibbles

Array = Any  # numpy arrays; shapes are in the comments

PANEL = 16  # rows
SUPERBLOCK = 256  # columns
STEP = 64  # columns
PLACES = 32
MANY, FEW_BACK = 64, 32  # rows of activations of tiles in products, and in those back
STEPS = SUPERBLOCK // STEP
CODES = PANEL * STEP  # of a step


class Scale(NamedTuple):
    """A plane of numbers that `span` neighbouring columns of a row share."""

    dtype: str
    span: int

    @property
    def of_step(self) -> int:
        """Its bytes in a step; 0 if it has one number for a superblock."""
        return 0 if self.span == SUPERBLOCK else PANEL * STEP // self.span * np.dtype(self.dtype).itemsize

    @property
    def of_superblock(self) -> int:
        """Its bytes in a superblock, beside those of steps."""
        return PANEL * np.dtype(self.dtype).itemsize if self.span == SUPERBLOCK else 0


@dataclass(frozen=True)
class Packing:
    """How a type is packed: the bits of a code in each of two planes, its scales, and what the numbers mean.

    `split` makes of a file's blocks (n, bytes) the codes (n, values) and the scales (n, values / span). `values` makes
    of codes and scales, all of one shape, float32, by the operations that GGUF defines, in their order.
    """

    low: int
    high: int
    scales: tuple[Scale, ...]
    split: Callable[[Array], tuple[Array, ...]]
    values: Callable[..., Array]

    @property
    def step_bytes(self) -> int:
        """Of a step of a panel."""
        return CODES * (self.low + self.high) // 8 + sum(scale.of_step for scale in self.scales)

    @property
    def superblock_bytes(self) -> int:
        """Of a superblock, beside its steps."""
        return sum(scale.of_superblock for scale in self.scales)

    def panel_bytes(self, n_in: int) -> int:
        """Of a panel of rows of `n_in` columns."""
        return -(-n_in // STEP) * self.step_bytes + -(-n_in // SUPERBLOCK) * self.superblock_bytes


def _f32(x: Array) -> Array:
    return x.astype(np.float32)


def _field(b: Array, start: int, dtype: str) -> Array:
    """A number at byte `start` of each block, (n, 1)."""
    return np.ascontiguousarray(b[:, start : start + np.dtype(dtype).itemsize]).view(dtype)


def _k(codes: Array) -> Array:
    return codes.reshape(-1, SUPERBLOCK)


def _less(zero: int) -> Callable[..., Array]:
    """scale * (code - zero), where the scale is one number or a product of two."""
    return lambda q, *d: np.prod([_f32(x) for x in d], axis=0, dtype=np.float32) * (_f32(q) - np.float32(zero))


def _affine(q: Array, d: Array, m: Array) -> Array:
    return _f32(d) * _f32(q) + _f32(m)


def _affine_k(q: Array, d: Array, dmin: Array, scale: Array, minimum: Array) -> Array:
    return _f32(d) * _f32(scale) * _f32(q) - _f32(dmin) * _f32(minimum)


def _affine_q2_k(q: Array, d: Array, dmin: Array, both: Array) -> Array:
    return _affine_k(q, d, dmin, both & 15, both >> 4)


def _signed_codes(b: Array, start: int, n: int) -> Array:
    """int8 as codes of 8 bits, 128 more."""
    return b[:, start : start + n] ^ np.uint8(128)


def _split_q6_k(b: Array) -> tuple[Array, ...]:
    return _k(quants.codes_q6_k(b)), _field(b, 208, "<f2"), b[:, 192:208].view(np.int8)


def _split_iq4_xs(b: Array) -> tuple[Array, ...]:
    codes, scales = quants.codes_iq4_xs(b)
    return _k(codes), _field(b, 0, "<f2"), scales


def _split_q4_k(b: Array) -> tuple[Array, ...]:
    return _k(quants.nibbles_k(b[:, 16:])), _field(b, 0, "<f2"), _field(b, 2, "<f2"), *quants.scale_min_k4(b[:, 4:16])


def _split_q5_k(b: Array) -> tuple[Array, ...]:
    q = _k(quants.nibbles_k(b[:, 48:]) | high_bits_k(b, 16) << 4)
    return q, _field(b, 0, "<f2"), _field(b, 2, "<f2"), *quants.scale_min_k4(b[:, 4:16])


def _split_q3_k(b: Array) -> tuple[Array, ...]:
    q = _k(crumbs_k(b[:, 32:96])) | _k(high_bits_k(b, 0)) << 2
    return q, _field(b, 108, "<f2"), quants.scales_q3_k(b[:, 96:108])


D_32, D_256 = Scale("<f2", 32), Scale("<f2", SUPERBLOCK)
K4 = (D_256, D_256, Scale("u1", 32), Scale("u1", 32))

PACKINGS: dict[GGMLType, Packing] = {
    GGMLType.F16: Packing(16, 0, (), lambda b: (_field(b, 0, "<u2"),), lambda q: q.astype(np.uint16).view(np.float16)),
    GGMLType.BF16: Packing(
        16, 0, (), lambda b: (_field(b, 0, "<u2"),), lambda q: (q << np.uint32(16)).view(np.float32)
    ),
    GGMLType.Q4_0: Packing(4, 0, (D_32,), lambda b: (nibbles(b[:, 2:]), _field(b, 0, "<f2")), _less(8)),
    GGMLType.Q4_1: Packing(
        4, 0, (D_32, D_32), lambda b: (nibbles(b[:, 4:]), _field(b, 0, "<f2"), _field(b, 2, "<f2")), _affine
    ),
    GGMLType.Q5_0: Packing(
        4, 1, (D_32,), lambda b: (nibbles(b[:, 6:]) | bits32(b[:, 2:6]) << 4, _field(b, 0, "<f2")), _less(16)
    ),
    GGMLType.Q5_1: Packing(
        4, 1, (D_32, D_32),
        lambda b: (nibbles(b[:, 8:]) | bits32(b[:, 4:8]) << 4, _field(b, 0, "<f2"), _field(b, 2, "<f2")), _affine,
    ),
    GGMLType.Q8_0: Packing(8, 0, (D_32,), lambda b: (_signed_codes(b, 2, 32), _field(b, 0, "<f2")), _less(128)),
    GGMLType.Q2_K: Packing(
        2, 0, (D_256, D_256, Scale("u1", 16)),
        lambda b: (_k(crumbs_k(b[:, 16:80])), _field(b, 80, "<f2"), _field(b, 82, "<f2"), b[:, :16]), _affine_q2_k,
    ),
    GGMLType.Q3_K: Packing(2, 1, (D_256, Scale("i1", 16)), _split_q3_k, _less(4)),
    GGMLType.Q4_K: Packing(4, 0, K4, _split_q4_k, _affine_k),
    GGMLType.Q5_K: Packing(4, 1, K4, _split_q5_k, _affine_k),
    GGMLType.Q6_K: Packing(4, 2, (D_256, Scale("i1", 16)), _split_q6_k, _less(32)),
    GGMLType.Q8_K: Packing(
        8, 0, (Scale("<f4", SUPERBLOCK),), lambda b: (_signed_codes(b, 4, 256), _field(b, 0, "<f4")), _less(128)
    ),
    GGMLType.IQ4_NL: Packing(
        4, 0, (D_32,), lambda b: (nibbles(b[:, 2:]), _field(b, 0, "<f2")), lambda q, d: _f32(d) * _f32(quants.IQ4[q])
    ),
    GGMLType.IQ4_XS: Packing(
        4, 0, (D_256, Scale("i1", 32)), _split_iq4_xs, lambda q, d, s: _f32(d) * _f32(s) * _f32(quants.IQ4[q])
    ),
    GGMLType.MXFP4: Packing(
        4, 0, (Scale("u1", 32),), lambda b: (nibbles(b[:, 1:]), b[:, :1]),
        lambda q, e: quants.power_of_two(e) * _f32(quants.FP4[q]),
    ),
    GGMLType.TQ2_0: Packing(
        2, 0, (D_256,), lambda b: (_k(crumbs_k(b[:, :64])), _field(b, 64, "<f2")), _less(1)
    ),
}  # fmt: skip
