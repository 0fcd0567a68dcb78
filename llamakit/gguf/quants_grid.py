"""The numpy definition of the formats whose codes name points of grids (IQ1, IQ2, IQ3), and of the ternary TQ.

A block has 256 values: d / divisor * scale * q with a small integer q and an integer scale for each 16 or 32 of them.
All these products fit float32 exactly, so that their order does not matter. The functions say what a block consists of.
"""

from __future__ import annotations

import numpy as np

from llamakit.gguf.grids import points
from llamakit.gguf.parts import Array, crumbs_k, pack_crumbs_k, read_half, reciprocal, round_away, to_half

POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


def _scaled(d: Array, scales: Array, q: Array, divisor: int = 1) -> Array:
    """d (n, 1) / divisor * scales (n, sub-blocks) * q (n, 256)."""
    unit = d * np.float32(1 / divisor) * scales.astype(np.float32)
    return unit[:, :, None] * q.astype(np.float32).reshape(*scales.shape, -1)


def _words(b: Array, start: int, stop: int, type: type[np.unsignedinteger]) -> Array:
    """Bytes [start, stop) of each block as little-endian words."""
    return np.ascontiguousarray(b[:, start:stop]).view(type)


def _signs(bits: Array) -> Array:
    """(n, m) bytes to (n, 8 m) of 1 and -1, the lowest bit first."""
    return 1 - 2 * np.unpackbits(bits.astype(np.uint8), axis=1, bitorder="little").astype(np.int8)


def _seven_signs(index: Array) -> Array:
    """Seven signs, and an eighth that makes the number of minuses even."""
    odd = index & 127
    for by in (4, 2, 1):
        odd = odd ^ odd >> by
    return _signs(index & 127 | (odd & 1) << 7)


def _two_nibbles(b: Array) -> Array:
    """(n, m) bytes to (n, 2 m): of each byte the low nibble, then the high one."""
    return np.stack([b & 15, b >> 4], axis=2).reshape(len(b), -1)


def _values(name: str, levels: list[int]) -> Array:
    """The points of a grid with these values for its levels."""
    return np.array(levels, np.int8)[points(name)]


def _grid2(name: str) -> Array:
    return _values(name, [8, 25, 43])


# -- two bits -----------------------------------------------------------------------------------------------------


def decode_iq2_xxs(b: Array) -> Array:
    """d, 8 x (4 codes, 4 x 7 signs and a scale of 4 bits)."""
    words = _words(b, 2, 66, np.uint32).reshape(-1, 8, 2)
    codes, extra = np.ascontiguousarray(words[:, :, 0]).view(np.uint8), words[:, :, 1]
    signs = (extra[:, :, None] >> np.array([0, 7, 14, 21], np.uint32)) & 127
    q = _grid2("iq2_xxs")[codes].reshape(-1, 256) * _seven_signs(signs.reshape(-1, 32))
    return _scaled(read_half(b, 0), 2 * (extra >> 28) + 1, q, 8)


def decode_iq2_xs(b: Array) -> Array:
    """d, 32 x (9 bits of code, 7 signs), 16 nibbles of scales."""
    words = _words(b, 2, 66, np.uint16)
    q = _grid2("iq2_xs")[words & 511].reshape(-1, 256) * _seven_signs(words >> 9)
    return _scaled(read_half(b, 0), 2 * _two_nibbles(b[:, 66:74]) + 1, q, 8)


def decode_iq2_s(b: Array) -> Array:
    """d, 32 codes, 32 bytes of signs, 2 more bits of the codes, 16 nibbles of scales."""
    high = (b[:, 66:74, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    codes = b[:, 2:34] | high.reshape(-1, 32).astype(np.uint16) << 8
    q = _grid2("iq2_s")[codes].reshape(-1, 256) * _signs(b[:, 34:66])
    return _scaled(read_half(b, 0), 2 * _two_nibbles(b[:, 74:82]) + 1, q, 8)


# -- three bits ---------------------------------------------------------------------------------------------------


def decode_iq3_xxs(b: Array) -> Array:
    """d, 64 codes, 8 x (4 x 7 signs and a scale of 4 bits)."""
    extra = _words(b, 66, 98, np.uint32)
    signs = (extra[:, :, None] >> np.array([0, 7, 14, 21], np.uint32)) & 127
    grid = _values("iq3_xxs", [4, 12, 20, 28, 36, 44, 52, 62])
    q = grid[b[:, 2:66]].reshape(-1, 256) * _seven_signs(signs.reshape(-1, 32))
    return _scaled(read_half(b, 0), 2 * (extra >> 28) + 1, q, 4)


def decode_iq3_s(b: Array) -> Array:
    """d, 64 codes, their ninth bits, 32 bytes of signs, 8 nibbles of scales."""
    high = np.unpackbits(b[:, 66:74], axis=1, bitorder="little").astype(np.uint16) << 8
    grid = _values("iq3_s", [1, 3, 5, 7, 9, 11, 13, 15])
    q = grid[b[:, 2:66] | high].reshape(-1, 256) * _signs(b[:, 74:106])
    return _scaled(read_half(b, 0), 2 * _two_nibbles(b[:, 106:110]) + 1, q)


# -- less than two ------------------------------------------------------------------------------------------------


def decode_iq1_s(b: Array) -> Array:
    """d, 32 codes, 8 x (3 more bits of 4 codes, 3 of scale, the sign of the shift)."""
    extra = _words(b, 34, 50, np.uint16)
    high = ((extra[:, :, None] >> np.array([0, 3, 6, 9], np.uint16)) & 7).reshape(-1, 32) << 8
    shift = np.where(extra >> 15, -1, 1).repeat(32, axis=1)  # of an eighth
    q = _values("iq1", [-8, 0, 8])[b[:, 2:34] | high].reshape(-1, 256) + shift
    return _scaled(read_half(b, 0), 2 * ((extra >> 12) & 7) + 1, q, 8)


def decode_iq1_m(b: Array) -> Array:
    """32 codes, 32 x (3 more bits, the sign of the shift), 4 x (4 scales, 4 bits of d)."""
    extra, words = _two_nibbles(b[:, 32:48]), _words(b, 48, 56, np.uint16)
    d = np.bitwise_or.reduce((words >> 12) << np.array([0, 4, 8, 12], np.uint16), axis=1, keepdims=True)
    scales = ((words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16)) & 7).reshape(-1, 16)
    shift = np.where(extra & 8, -1, 1).repeat(8, axis=1)
    codes = b[:, :32] | (extra & 7).astype(np.uint16) << 8
    q = _values("iq1", [-8, 0, 8])[codes].reshape(-1, 256) + shift
    return _scaled(d.view(np.float16).astype(np.float32), 2 * scales + 1, q, 8)


def decode_tq1_0(b: Array) -> Array:
    """32 + 16 bytes of five digits in base 3, 4 of four, d; a byte is n * 256 / 243."""
    parts = [b[:, a:z, None].swapaxes(1, 2) * POWERS[:n, None] for a, z, n in ((0, 32, 5), (32, 48, 5), (48, 52, 4))]
    digits = np.concatenate([p.reshape(len(b), -1) for p in parts], axis=1)
    q = ((digits.astype(np.uint16) * 3) >> 8).astype(np.int8) - np.int8(1)
    return read_half(b, 52) * q.astype(np.float32)


def encode_tq1_0(x: Array) -> Array:
    """Rounded to the nearest digit."""
    d, q = _ternary(x)
    parts = []
    for start, n_byte, n in ((0, 32, 5), (160, 16, 5), (240, 4, 4)):
        digits = q[:, start : start + n * n_byte].reshape(-1, n, n_byte).astype(np.uint16)
        number = (digits * POWERS[4::-1][:n, None]).sum(axis=1, dtype=np.uint16)
        parts.append(((number * 256 + 242) // 243).astype(np.uint8))
    return np.concatenate([*parts, to_half(d)], axis=1)


def decode_tq2_0(b: Array) -> Array:
    """64 bytes of 2 bits, d."""
    q = crumbs_k(b[:, :64]).reshape(-1, 256).astype(np.int8) - np.int8(1)
    return read_half(b, 64) * q.astype(np.float32)


def encode_tq2_0(x: Array) -> Array:
    """Rounded to the nearest code."""
    d, q = _ternary(x)
    return np.concatenate([pack_crumbs_k(q), to_half(d)], axis=1)


def _ternary(x: Array) -> tuple[Array, Array]:
    """(d, q) with x about d * (q - 1); d is the largest magnitude."""
    d = np.abs(x).max(axis=1, keepdims=True)
    return d, (np.nan_to_num(round_away(x * reciprocal(d))) + 1).astype(np.uint8)
