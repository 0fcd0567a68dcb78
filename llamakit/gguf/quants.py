"""The numpy definition of every tensor format: bytes to float32 and back. `quants_grid` has those with grids.

A row is a sequence of blocks; the functions here see all blocks of a tensor at once as (n_block, bytes). Arithmetic is
float32 in the order of the format's reference, so that results are equal to the bit; the native code of
`llamakit._formats` is tested against this file. Layouts: ggml's block definitions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from llamakit.errors import UsageError
from llamakit.gguf import quants_grid as grid
from llamakit.gguf.constants import GGMLType
from llamakit.gguf.parts import (
    Array,
    bits32,
    crumbs_k,
    high_bits_k,
    nibbles,
    pack_crumbs_k,
    read_half,
    reciprocal,
    round_away,
    signed_peak,
    to_half,
    to_nibbles,
)

if TYPE_CHECKING:
    import numpy.typing as npt

Decode = Callable[[Array], Array]  # blocks (n, bytes) to values (n, ...)
Encode = Callable[[Array], Array]  # values (n, block size) to blocks


def dequantize(type: GGMLType, raw: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Decode `raw`, the bytes of a tensor of this type, to float32 of `shape`."""
    decode = check_readable(type)
    blocks = np.ascontiguousarray(raw).reshape(-1, type.type_size)
    result: npt.NDArray[np.float32] = decode(blocks).reshape(shape)
    return result


def quantize(type: GGMLType, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Encode float32 `values`, whose last size is a multiple of the block size, to bytes (1-D)."""
    encode = check_writable(type)
    if values.shape[-1] % type.block_size:
        raise UsageError(
            f"{type.name} stores blocks of {type.block_size} values; a row of {values.shape[-1]} is not a multiple"
        )
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, type.block_size)
    with np.errstate(over="ignore", invalid="ignore"):
        result: npt.NDArray[np.uint8] = np.ascontiguousarray(encode(blocks)).reshape(-1)
    return result


def readable() -> list[GGMLType]:
    """The types that can be decoded."""
    return list(CODECS)


def supported() -> list[GGMLType]:
    """The types that can be decoded and encoded."""
    return [type for type, (_, encode) in CODECS.items() if encode is not None]


def check_readable(type: GGMLType) -> Decode:
    """The function that decodes, or UsageError."""
    if type not in CODECS:
        names = " ".join(t.name for t in CODECS)
        raise UsageError(f"tensor type {type.name} cannot be read yet; types that can: {names}")
    return CODECS[type][0]


def check_writable(type: GGMLType) -> Encode:
    """The function that encodes, or UsageError."""
    check_readable(type)
    encode = CODECS[type][1]
    if encode is None:
        names = " ".join(t.name for t in supported())
        raise UsageError(f"tensor type {type.name} can be read but not written; types that can: {names}")
    return encode


# -- plain floats -----------------------------------------------------------------------------------------------


def _decode_f32(blocks: Array) -> Array:
    return blocks.view(np.float32).copy()


def _decode_f16(blocks: Array) -> Array:
    return blocks.view(np.float16).astype(np.float32)


def _decode_bf16(blocks: Array) -> Array:
    return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _encode_bf16(x: Array) -> Array:
    """Round to nearest even; NaN stays NaN (quiet)."""
    bits = x.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16) | 64, rounded).astype(np.uint16).view(np.uint8)


# -- blocks of 32 -----------------------------------------------------------------------------------------------


def _decode_q4_0(b: Array) -> Array:  # d f16, 16 bytes of nibbles
    return read_half(b, 0) * (nibbles(b[:, 2:]).astype(np.int8) - np.int8(8)).astype(np.float32)


def _decode_q4_1(b: Array) -> Array:  # d, m f16, 16 bytes of nibbles
    return read_half(b, 0) * nibbles(b[:, 4:]).astype(np.float32) + read_half(b, 2)


def _decode_q5_0(b: Array) -> Array:  # d f16, 32 high bits, 16 bytes of nibbles
    q = (nibbles(b[:, 6:]) | (bits32(b[:, 2:6]) << 4)).astype(np.int8) - np.int8(16)
    return read_half(b, 0) * q.astype(np.float32)


def _decode_q5_1(b: Array) -> Array:  # d, m f16, 32 high bits, 16 bytes of nibbles
    q = nibbles(b[:, 8:]) | (bits32(b[:, 4:8]) << 4)
    return read_half(b, 0) * q.astype(np.float32) + read_half(b, 2)


def _decode_q8_0(b: Array) -> Array:  # d f16, 32 int8
    return read_half(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)


def _symmetric(x: Array, bits: int) -> tuple[Array, Array]:
    """(d, q) with x about d * (q - 2**(bits-1)); the peak maps to q = 0. Float64, as the format's reference."""
    half = 1 << (bits - 1)
    d = (signed_peak(x) / np.float32(-half)).astype(np.float32)
    q = np.trunc(x.astype(np.float64) * reciprocal(d).astype(np.float64) + (half + 0.5))
    return d, np.clip(np.nan_to_num(q), 0, 2 * half - 1).astype(np.uint8)


def _affine(x: Array, bits: int) -> tuple[Array, Array, Array]:
    """(d, minimum, q) with x about d * q + minimum."""
    top, low = x.max(axis=-1, keepdims=True), x.min(axis=-1, keepdims=True)
    d = ((top - low) / np.float32((1 << bits) - 1)).astype(np.float32)
    q = np.trunc((x - low) * reciprocal(d) + np.float32(0.5))
    return d, low, np.clip(np.nan_to_num(q), 0, (1 << bits) - 1).astype(np.uint8)


def _encode_q4_0(x: Array) -> Array:
    d, q = _symmetric(x, 4)
    return np.concatenate([to_half(d), to_nibbles(q)], axis=1)


def _encode_q4_1(x: Array) -> Array:
    d, m, q = _affine(x, 4)
    return np.concatenate([to_half(d), to_half(m), to_nibbles(q)], axis=1)


def _encode_q5_0(x: Array) -> Array:
    d, q = _symmetric(x, 5)
    high = np.packbits(q >> 4, axis=1, bitorder="little")
    return np.concatenate([to_half(d), high, to_nibbles(q & 15)], axis=1)


def _encode_q5_1(x: Array) -> Array:
    d, m, q = _affine(x, 5)
    high = np.packbits(q >> 4, axis=1, bitorder="little")
    return np.concatenate([to_half(d), to_half(m), high, to_nibbles(q & 15)], axis=1)


def _encode_q8_0(x: Array) -> Array:
    d = (np.abs(x).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float32)
    q = np.nan_to_num(round_away(x * reciprocal(d))).astype(np.int8)
    return np.concatenate([to_half(d), q.view(np.uint8)], axis=1)


# -- codes that stand for values of a table --------------------------------------------------------------------------

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
IQ4_BETWEEN = (IQ4[:-1].astype(np.float32) + IQ4[1:].astype(np.float32)) / 2
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)  # twice those of E2M1


def _decode_iq4_nl(b: Array) -> Array:  # d f16, 16 bytes of nibbles
    return read_half(b, 0) * IQ4[nibbles(b[:, 2:])].astype(np.float32)


def codes_iq4_xs(b: Array) -> tuple[Array, Array]:
    """A block's numbers of values, (n, 8, 32), and its six-bit scales, less 32, (n, 8) int8."""
    low = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    high = (np.ascontiguousarray(b[:, 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16)) & 3
    q = b[:, 8:].reshape(-1, 8, 16)
    scale = (low | (high << 4).astype(np.uint8)).astype(np.int8) - np.int8(32)
    return np.concatenate([q & 15, q >> 4], axis=2), scale


def _decode_iq4_xs(b: Array) -> Array:  # d f16, 16 high bits and 4 bytes of low nibbles of scales, 128 bytes of nibbles
    q, scale = codes_iq4_xs(b)
    return (read_half(b, 0) * scale.astype(np.float32))[:, :, None] * IQ4[q].astype(np.float32)


def power_of_two(e: Array) -> Array:
    """Half of the scale that a byte of E8M0 is, float32."""
    e = e.astype(np.uint32)
    return np.where(e < 2, np.uint32(0x00200000) << np.minimum(e, 1), (e - np.minimum(e, 1)) << 23).view(np.float32)


def _decode_mxfp4(b: Array) -> Array:  # e E8M0, 16 bytes of nibbles
    return power_of_two(b[:, :1]) * FP4[nibbles(b[:, 1:])].astype(np.float32)


def _nearest_iq4(x: Array) -> Array:
    return np.searchsorted(IQ4_BETWEEN, np.nan_to_num(x), side="left").astype(np.uint8)


def _encode_iq4_nl(x: Array) -> Array:
    d = (signed_peak(x) / np.float32(-127)).astype(np.float32)
    return np.concatenate([to_half(d), to_nibbles(_nearest_iq4(x * reciprocal(d)))], axis=1)


def _encode_iq4_xs(x: Array) -> Array:
    sub = x.reshape(len(x), 8, 32)
    scale = (signed_peak(sub)[:, :, 0] / np.float32(-127)).astype(np.float32)
    d = (signed_peak(scale) / np.float32(-32)).astype(np.float32)
    scales = np.clip(np.nan_to_num(round_away(scale * reciprocal(d))), -32, 31).astype(np.int8)
    step = d.astype(np.float16).astype(np.float32) * scales.astype(np.float32)
    q = _nearest_iq4(sub * reciprocal(step)[:, :, None])
    s = (scales + np.int8(32)).astype(np.uint8)
    high = np.bitwise_or.reduce((s.astype(np.uint16) >> 4) << np.arange(0, 16, 2, dtype=np.uint16), axis=1)
    low = (s[:, 0::2] & 15) | ((s[:, 1::2] & 15) << 4)
    packed = (q[:, :, :16] | (q[:, :, 16:] << 4)).reshape(-1, 128)
    return np.concatenate([to_half(d), high.reshape(-1, 1).view(np.uint8), low, packed], axis=1)


def _encode_mxfp4(x: Array) -> Array:
    """The largest value gets the exponent of 4; of two values that are equally near, the one that comes first."""
    top = np.nan_to_num(np.abs(x).max(axis=1, keepdims=True))
    e = np.where(top > 0, np.clip(np.frexp(top)[1] - 1 - 2 + 127, 0, 254), 0).astype(np.uint8)
    d = power_of_two(e)
    best, q = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, np.uint8)
    for code, value in enumerate(FP4.astype(np.float32)):
        error = np.abs(d * value - x)
        nearer = error < best
        best, q = np.where(nearer, error, best), np.where(nearer, np.uint8(code), q)
    return np.concatenate([e, to_nibbles(q)], axis=1)


# -- K formats: 256 values in sub-blocks with their own small scales ----------------------------------------------


def scale_min_k4(s: Array) -> tuple[Array, Array]:
    """12 bytes to 8 six-bit scales and 8 six-bit minima, (n, 8) each."""
    low, mid, high = s[:, 0:4], s[:, 4:8], s[:, 8:12]
    scale = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=1)
    minimum = np.concatenate([mid & 63, (high >> 4) | ((mid >> 6) << 4)], axis=1)
    return scale, minimum


def _pack_scale_min_k4(scale: Array, minimum: Array) -> Array:
    low = (scale[:, :4] & 63) | ((scale[:, 4:] >> 4) << 6)
    mid = (minimum[:, :4] & 63) | ((minimum[:, 4:] >> 4) << 6)
    high = (scale[:, 4:] & 15) | ((minimum[:, 4:] & 15) << 4)
    return np.concatenate([low, mid, high], axis=1).astype(np.uint8)


def nibbles_k(qs: Array) -> Array:
    """128 bytes to (n, 8, 32): bytes 32 j.. hold sub-block 2 j in low nibbles and 2 j + 1 in high ones."""
    q = qs.reshape(-1, 4, 1, 32)
    return np.concatenate([q & 15, q >> 4], axis=2).reshape(-1, 8, 32)


def _pack_nibbles_k(q: Array) -> Array:
    pairs = q.reshape(-1, 4, 2, 32)
    return (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)


def _decode_q2_k(b: Array) -> Array:  # 16 scale|min nibbles, 64 bytes of 2 bits, d, dmin
    d, dmin = read_half(b, 80), read_half(b, 82)
    scale = d * (b[:, :16] & 15).astype(np.float32)
    minimum = dmin * (b[:, :16] >> 4).astype(np.float32)
    return scale[:, :, None] * crumbs_k(b[:, 16:80]).astype(np.float32) - minimum[:, :, None]


def scales_q3_k(s: Array) -> Array:
    """12 bytes to 16 six-bit scales, less 32, (n, 16) int8."""
    low = np.concatenate([s[:, :8] & 15, s[:, :8] >> 4], axis=1)
    high = (s[:, None, 8:12] >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)) & 3
    return (low | (high.reshape(-1, 16) << 4)).astype(np.int8) - np.int8(32)


def _decode_q3_k(b: Array) -> Array:  # 32 bytes of high bits, 64 of 2 bits, 12 of scales, d
    scale = read_half(b, 108) * scales_q3_k(b[:, 96:108]).astype(np.float32)
    high = high_bits_k(b, 0)
    q = crumbs_k(b[:, 32:96]).astype(np.int8) - ((high ^ 1) << 2).astype(np.int8).reshape(-1, 16, 16)
    return scale[:, :, None] * q.astype(np.float32)


def _decode_q4_k(b: Array) -> Array:  # d, dmin, 12 bytes of scales, 128 of nibbles
    scale, minimum = scale_min_k4(b[:, 4:16])
    d, m = read_half(b, 0) * scale.astype(np.float32), read_half(b, 2) * minimum.astype(np.float32)
    return d[:, :, None] * nibbles_k(b[:, 16:]).astype(np.float32) - m[:, :, None]


def _decode_q5_k(b: Array) -> Array:  # as Q4_K, with 32 bytes of high bits before the nibbles
    scale, minimum = scale_min_k4(b[:, 4:16])
    d, m = read_half(b, 0) * scale.astype(np.float32), read_half(b, 2) * minimum.astype(np.float32)
    q = nibbles_k(b[:, 48:]) | (high_bits_k(b, 16) << 4)
    return d[:, :, None] * q.astype(np.float32) - m[:, :, None]


def codes_q6_k(b: Array) -> Array:
    """A block's codes, 32 more than what they stand for, (n, 16, 16)."""
    low = b[:, :128].reshape(-1, 2, 2, 32)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 16, 16)  # groups 0 1 | 2 3 of each half
    return low | (crumbs_k(b[:, 128:192]) << 4)


def _decode_q6_k(b: Array) -> Array:  # 128 bytes of low nibbles, 64 of high 2 bits, 16 int8 scales, d
    q = codes_q6_k(b).astype(np.int8) - np.int8(32)
    scale = read_half(b, 208) * b[:, 192:208].view(np.int8).astype(np.float32)
    return scale[:, :, None] * q.astype(np.float32)


def _decode_q8_k(b: Array) -> Array:  # d f32, 256 int8, 16 sums int16
    return np.ascontiguousarray(b[:, :4]).view(np.float32) * b[:, 4:260].view(np.int8).astype(np.float32)


def _affine_k(x: Array, n_sub: int, bits: int, scale_bits: int) -> tuple[Array, Array, Array, Array, Array]:
    """(d, dmin, scales, minima, q) with x about d * scale * q - dmin * minimum, plain rounding throughout."""
    sub, levels, top = x.reshape(len(x), n_sub, -1), (1 << bits) - 1, np.float32((1 << scale_bits) - 1)
    low = np.minimum(sub.min(axis=2), 0)  # (n, n_sub)
    scale = ((sub.max(axis=2) - low) / np.float32(levels)).astype(np.float32)
    d, dmin = (v.max(axis=1, keepdims=True) / top for v in (scale, -low))
    scales, minima = (_code(v, unit, top) for v, unit in ((scale, d), (-low, dmin)))
    d, dmin = d.astype(np.float16).astype(np.float32), dmin.astype(np.float16).astype(np.float32)
    step = (d * scales.astype(np.float32))[:, :, None]
    q = round_away((sub + (dmin * minima.astype(np.float32))[:, :, None]) * reciprocal(step))
    return d, dmin, scales, minima, np.clip(np.nan_to_num(q), 0, levels).astype(np.uint8)


def _code(x: Array, unit: Array, top: Array) -> Array:
    return np.clip(np.nan_to_num(round_away(x * reciprocal(unit))), 0, top).astype(np.uint8)


def _symmetric_k(x: Array, half: int, scale_half: int) -> tuple[Array, Array, Array]:
    """(d, scales, q) of 16 sub-blocks with x about d * scale * q, -half <= q < half."""
    sub = x.reshape(len(x), 16, 16)
    scale = (signed_peak(sub)[:, :, 0] / np.float32(-half)).astype(np.float32)  # (n, 16)
    d = (signed_peak(scale) / np.float32(-scale_half)).astype(np.float32)
    scales = np.clip(np.nan_to_num(round_away(scale * reciprocal(d))), -scale_half, scale_half - 1).astype(np.int8)
    d = d.astype(np.float16).astype(np.float32)
    q = round_away(sub * reciprocal(d * scales.astype(np.float32))[:, :, None])
    return d, scales, np.clip(np.nan_to_num(q), -half, half - 1).astype(np.int8)


def _encode_q2_k(x: Array) -> Array:
    d, dmin, scales, minima, q = _affine_k(x, 16, 2, 4)
    return np.concatenate([scales | (minima << 4), pack_crumbs_k(q), to_half(d), to_half(dmin)], axis=1)


def _encode_q3_k(x: Array) -> Array:
    d, scales, q = _symmetric_k(x, 4, 32)
    code, s = (q + 4).astype(np.uint8), (scales + 32).astype(np.uint8)
    bits = (code.reshape(-1, 8, 32) >> 2) << np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = np.bitwise_or.reduce(bits, axis=1)
    top = (s.reshape(-1, 4, 4) >> 4) << np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    packed = np.concatenate([(s[:, :8] & 15) | ((s[:, 8:] & 15) << 4), np.bitwise_or.reduce(top, axis=1)], axis=1)
    return np.concatenate([high, pack_crumbs_k(code & 3), packed, to_half(d)], axis=1)


def _encode_q4_k(x: Array) -> Array:
    d, dmin, scales, minima, q = _affine_k(x, 8, 4, 6)
    packed = _pack_scale_min_k4(scales, minima)
    return np.concatenate([to_half(d), to_half(dmin), packed, _pack_nibbles_k(q)], axis=1)


def _encode_q5_k(x: Array) -> Array:
    d, dmin, scales, minima, q = _affine_k(x, 8, 5, 6)
    packed = _pack_scale_min_k4(scales, minima)
    high = np.bitwise_or.reduce((q >> 4) << np.arange(8, dtype=np.uint8).reshape(1, 8, 1), axis=1)
    return np.concatenate([to_half(d), to_half(dmin), packed, high, _pack_nibbles_k(q & 15)], axis=1)


def _encode_q6_k(x: Array) -> Array:
    d, scales, q = _symmetric_k(x, 32, 128)
    code = (q + 32).astype(np.uint8)
    low = (code & 15).reshape(-1, 2, 4, 32)
    low = (low[:, :, :2] | (low[:, :, 2:] << 4)).reshape(-1, 128)
    return np.concatenate([low, pack_crumbs_k(code >> 4), scales.view(np.uint8), to_half(d)], axis=1)


def _encode_q8_k(x: Array) -> Array:
    inverse = reciprocal((signed_peak(x) / np.float32(-127)).astype(np.float32))
    q = np.minimum(np.nan_to_num(round_away(x * inverse)), 127).astype(np.int8)
    sums = q.reshape(-1, 16, 16).sum(axis=2, dtype=np.int16)
    return np.concatenate([reciprocal(inverse).view(np.uint8), q.view(np.uint8), sums.view(np.uint8)], axis=1)


# How a type is decoded, and encoded unless that needs more than the values (which ones matter).
CODECS: dict[GGMLType, tuple[Decode, Encode | None]] = {
    GGMLType.F32: (_decode_f32, lambda x: x.view(np.uint8)),
    GGMLType.F16: (_decode_f16, lambda x: x.astype(np.float16).view(np.uint8)),
    GGMLType.BF16: (_decode_bf16, _encode_bf16),
    GGMLType.Q4_0: (_decode_q4_0, _encode_q4_0),
    GGMLType.Q4_1: (_decode_q4_1, _encode_q4_1),
    GGMLType.Q5_0: (_decode_q5_0, _encode_q5_0),
    GGMLType.Q5_1: (_decode_q5_1, _encode_q5_1),
    GGMLType.Q8_0: (_decode_q8_0, _encode_q8_0),
    GGMLType.Q2_K: (_decode_q2_k, _encode_q2_k),
    GGMLType.Q3_K: (_decode_q3_k, _encode_q3_k),
    GGMLType.Q4_K: (_decode_q4_k, _encode_q4_k),
    GGMLType.Q5_K: (_decode_q5_k, _encode_q5_k),
    GGMLType.Q6_K: (_decode_q6_k, _encode_q6_k),
    GGMLType.Q8_K: (_decode_q8_k, _encode_q8_k),
    GGMLType.IQ4_NL: (_decode_iq4_nl, _encode_iq4_nl),
    GGMLType.IQ4_XS: (_decode_iq4_xs, _encode_iq4_xs),
    GGMLType.MXFP4: (_decode_mxfp4, _encode_mxfp4),
    GGMLType.TQ1_0: (grid.decode_tq1_0, grid.encode_tq1_0),
    GGMLType.TQ2_0: (grid.decode_tq2_0, grid.encode_tq2_0),
    GGMLType.IQ1_S: (grid.decode_iq1_s, None),
    GGMLType.IQ1_M: (grid.decode_iq1_m, None),
    GGMLType.IQ2_XXS: (grid.decode_iq2_xxs, None),
    GGMLType.IQ2_XS: (grid.decode_iq2_xs, None),
    GGMLType.IQ2_S: (grid.decode_iq2_s, None),
    GGMLType.IQ3_XXS: (grid.decode_iq3_xxs, None),
    GGMLType.IQ3_S: (grid.decode_iq3_s, None),
}
