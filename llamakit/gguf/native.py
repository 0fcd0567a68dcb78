"""The tensor formats in native code: the same bits as `quants`, faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamakit.errors import UsageError
from llamakit.gguf.quants import check_readable, check_writable

if TYPE_CHECKING:
    import numpy.typing as npt

    from llamakit.gguf.constants import GGMLType


def dequantize(type: GGMLType, raw: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Decode the bytes of a tensor to float32 of `shape`."""
    from llamakit import _formats

    check_readable(type)
    result: npt.NDArray[np.float32] = _formats.dequantize(int(type), raw, int(np.prod(shape))).reshape(shape)
    return result


def quantize(type: GGMLType, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Encode float32 values, whose rows (last size) are whole blocks, to bytes (1-D)."""
    from llamakit import _formats

    check_writable(type)
    if values.shape[-1] % type.block_size:
        raise UsageError(f"{type.name}: rows of {values.shape[-1]} values are not a multiple of {type.block_size}")
    result: npt.NDArray[np.uint8] = _formats.quantize(int(type), np.ascontiguousarray(values, np.float32).reshape(-1))
    return result
