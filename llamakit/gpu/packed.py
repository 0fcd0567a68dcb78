"""Weights as GPUs have them: the numpy definition of their layout. `kernels/repack.cl` makes it, `panels.cl` reads it.

Rows go together by 16, a panel; columns by 256, a superblock, which has four steps of 64. In a step a place 4 g + t, of
which there are 32, has 32 codes: of rows g and g + 8, in each of the two blocks of 32 columns, the columns from 8 t to
8 t + 7. These are what a thread of a warp has of such a tile in products on tensor cores (m16n8k16), in the order in
which it takes them; neighbouring threads load neighbouring bytes.

The bits of codes lie in one plane or two (`low`, `high`), each of as many words a place and step as a code has bits in
it. A word has the codes of even columns in its lower half and those of odd ones in its upper half, so that one mask
takes two neighbours, 16 bits apart. Where a place has more than four words, they lie in pieces of four. Behind the
planes of a superblock come its scales, plane by plane, in the order of places. They have types that can be multiplied,
not the bit fields of files (Q2_K's two nibbles in a byte are left).

What is missing of the last panel and of the last step is zero, codes and scales; the last superblock has only the steps
that it needs. Superblocks follow one another in a panel, and panels in a tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from llamakit.gpu.packings import (
    CODES,
    FEW_BACK,
    MANY,
    PACKINGS,
    PANEL,
    PLACES,
    STEP,
    STEPS,
    SUPERBLOCK,
    Array,
    Packing,
    Scale,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from llamakit.gguf import GGMLType
    from llamakit.gpu.driver import Traits


def packing(traits: Traits, type: GGMLType, shape: tuple[int, ...]) -> Packing | None:
    """How a device packs a tensor; None: it has it as it lies in the file, or as a vector of float32."""
    return PACKINGS.get(type) if traits.packed and len(shape) > 1 else None


def weight_bytes(traits: Traits, type: GGMLType, shape: tuple[int, ...]) -> int:
    """What a tensor takes on a device."""
    if len(shape) == 1:
        return 4 * shape[0]
    found, n_row = packing(traits, type, shape), math.prod(shape[:-1])
    return n_row * type.n_bytes(shape[-1]) if found is None else -(-n_row // PANEL) * found.panel_bytes(shape[-1])


def pack(type: GGMLType, raw: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The bytes of a tensor in a file as those of its panels (1-D)."""
    form, n_row, n_in = PACKINGS[type], math.prod(shape[:-1]), shape[-1]
    n_panel, n_step = -(-n_row // PANEL), -(-n_in // STEP)
    codes, *scales = form.split(np.ascontiguousarray(raw).reshape(-1, type.type_size))
    whole = np.zeros((n_panel * PANEL, n_step * STEP), np.uint32)
    whole[:n_row, :n_in] = codes.reshape(n_row, n_in)
    # (panel, half, g, step, block, t, 8) to (panel, step, g, t, block, half, 8)
    placed = whole.reshape(n_panel, 2, 8, n_step, 2, 4, 8).transpose(0, 3, 2, 5, 4, 1, 6)
    placed = placed.reshape(n_panel, n_step, PLACES, -1)
    planes = [_to_words(placed & np.uint32((1 << form.low) - 1), form.low)]
    if form.high:
        planes.append(_to_words(placed >> np.uint32(form.low), form.high))
    for scale, values in zip(form.scales, scales, strict=True):
        planes.append(_to_places(values.reshape(n_row, -1), scale, n_panel, n_step))
    cut = [plane[:, where] for *_, where, plane in _pieces(form, n_step, planes)]
    packed: npt.NDArray[np.uint8] = np.concatenate([each.reshape(n_panel, -1) for each in cut], axis=1).reshape(-1)
    return packed


def unpack(type: GGMLType, packed: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The values of panels, float32 of `shape`: to the bit what decoding the file's blocks gives."""
    form, n_row, n_in = PACKINGS[type], math.prod(shape[:-1]), shape[-1]
    n_panel, n_step = -(-n_row // PANEL), -(-n_in // STEP)
    panels, at = packed.reshape(n_panel, form.panel_bytes(n_in)), 0
    planes = _empty_planes(form, n_panel, n_step)
    for size, where, plane in _pieces(form, n_step, planes):
        plane[:, where] = panels[:, at : at + size].reshape(plane[:, where].shape)
        at += size
    codes = _from_words(planes[0], form.low)
    if form.high:
        codes |= _from_words(planes[1], form.high) << np.uint32(form.low)
    codes = codes.reshape(n_panel, n_step, 8, 4, 2, 2, 8).transpose(0, 5, 2, 1, 4, 3, 6)
    codes = codes.reshape(n_panel * PANEL, n_step * STEP)[:n_row, :n_in]
    scales = [
        np.repeat(_from_places(plane, scale), scale.span, axis=1)[:n_row, :n_in]
        for scale, plane in zip(form.scales, planes[-len(form.scales) or len(planes) :], strict=True)
    ]
    values: npt.NDArray[np.float32] = form.values(codes, *scales).astype(np.float32).reshape(shape)
    return values


def defines(type: GGMLType) -> dict[str, int | str]:
    """What kernels need to know of a packed type; where planes of scales begin depends on the steps of a superblock."""
    form = PACKINGS[type]
    found: dict[str, int | str] = {
        "PANEL": PANEL, "STEP": STEP, "PLACES": PLACES, "MANY": MANY, "FEW_BACK": FEW_BACK,
        "LOW": form.low, "HIGH": form.high, "STEP_BYTES": form.step_bytes, "SUPERBLOCK_BYTES": form.superblock_bytes,
        "SPAN": min((scale.span for scale in form.scales), default=SUPERBLOCK), "ALIGNED": int(type.block_size > 1),
    }  # fmt: skip
    of_step, of_superblock = CODES * (form.low + form.high) // 8, 0
    for i, scale in enumerate(form.scales):
        found[f"SCALES_{i}(steps)"] = f"({of_step} * (steps) + {of_superblock})"
        of_step, of_superblock = of_step + scale.of_step, of_superblock + scale.of_superblock
    return found


def _empty_planes(form: Packing, n_panel: int, n_step: int) -> list[Array]:
    """Planes of a tensor, (panel, step, bytes) or (panel, superblock, bytes)."""
    sizes = [(n_step, CODES * bits // 8) for bits in (form.low, form.high) if bits]
    for scale in form.scales:
        sizes.append((n_step, scale.of_step) if scale.of_step else (-(-n_step // STEPS), scale.of_superblock))
    return [np.empty((n_panel, *size), np.uint8) for size in sizes]


def _pieces(form: Packing, n_step: int, planes: list[Array]) -> Iterator[tuple[int, slice, Array]]:
    """(bytes of a panel, where in the plane, plane) of all that follows one another in a panel."""
    of_steps = [True] * (1 + bool(form.high)) + [bool(scale.of_step) for scale in form.scales]
    for i, first in enumerate(range(0, n_step, STEPS)):
        for steps, plane in zip(of_steps, planes, strict=True):
            where = slice(first, min(first + STEPS, n_step)) if steps else slice(i, i + 1)
            yield (where.stop - where.start) * plane.shape[2], where, plane


def _shifts(bits: int) -> Array:
    """Where the codes of a word begin: those of even columns in its lower half, those of odd ones in its upper half."""
    i = np.arange(32 // bits, dtype=np.uint32)
    return i % 2 * 16 + i // 2 * bits


def _to_words(codes: Array, bits: int) -> Array:
    """Codes (panel, step, place, 32) to the bytes of a plane (panel, step, bytes)."""
    (n_panel, n_step, *_), piece = codes.shape, min(bits, 4)
    shifted = codes.reshape(n_panel, n_step, PLACES, bits, -1) << _shifts(bits)
    words = np.bitwise_or.reduce(shifted, axis=-1).reshape(n_panel, n_step, PLACES, -1, piece).swapaxes(2, 3)
    return np.ascontiguousarray(words).view(np.uint8).reshape(n_panel, n_step, -1)


def _from_words(plane: Array, bits: int) -> Array:
    """The reverse of `_to_words`."""
    (n_panel, n_step, *_), piece = plane.shape, min(bits, 4)
    words = np.ascontiguousarray(plane).view(np.uint32).reshape(n_panel, n_step, -1, PLACES, piece).swapaxes(2, 3)
    codes = (words.reshape(n_panel, n_step, PLACES, bits, 1) >> _shifts(bits)) & np.uint32((1 << bits) - 1)
    return codes.reshape(n_panel, n_step, PLACES, -1)


def _to_places(values: Array, scale: Scale, n_panel: int, n_step: int) -> Array:
    """Scales (row, n) to the bytes of a plane: of places of a step (g, part of a block, block, half), or (g, half)."""
    wide = -(-n_step // STEPS) if scale.span == SUPERBLOCK else n_step * STEP // scale.span
    whole = np.zeros((n_panel * PANEL, wide), scale.dtype)
    whole[: len(values), : values.shape[1]] = values
    if scale.span == SUPERBLOCK:
        placed = whole.reshape(n_panel, 2, 8, wide).transpose(0, 3, 2, 1)
    else:
        placed = whole.reshape(n_panel, 2, 8, n_step, 2, 32 // scale.span).transpose(0, 3, 2, 5, 4, 1)
    return np.ascontiguousarray(placed).view(np.uint8).reshape(n_panel, placed.shape[1], -1)


def _from_places(plane: Array, scale: Scale) -> Array:
    """The reverse of `_to_places`, (padded row, n)."""
    n_panel, n, _ = plane.shape
    placed = np.ascontiguousarray(plane).view(scale.dtype)
    if scale.span == SUPERBLOCK:
        return placed.reshape(n_panel, n, 8, 2).transpose(0, 3, 2, 1).reshape(n_panel * PANEL, n)
    placed = placed.reshape(n_panel, n, 8, 32 // scale.span, 2, 2).transpose(0, 5, 2, 1, 4, 3)
    return placed.reshape(n_panel * PANEL, -1)
