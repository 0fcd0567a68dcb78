"""LoRA adapters in the binary format of 2023 (`ggla`, version 1), as finetune and convert-lora-to-ggml.py wrote it.

Little-endian: u32 magic, version, r, alpha; then, until the file ends, tensors: u32 n_dims, name length, type
(0 F32, 1 F16), n_dims sizes with the fastest one first, the name, zeros up to a multiple of 32, the values.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llamakit.errors import ModelFileError, UsageError
from llamakit.gguf.atomic import whole_file
from llamakit.gguf.constants import MAX_NAME_BYTES
from llamakit.gguf.file_bytes import FileBytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

MAGIC = b"algg"  # 0x67676c61, little-endian
VERSION = 1
ALIGNMENT = 32
DTYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
MAX_TENSORS = 1 << 16


class GGLAFile(msgspec.Struct, frozen=True):
    """What a file holds. Tensors are float32 of their own, in numpy order: loraA is (n_in, r), loraB (n_out, r)."""

    r: int
    alpha: int
    tensors: dict[str, npt.NDArray[np.float32]]


def write_ggla(path: str | Path, r: int, alpha: int, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write a file, whole or not at all. `tensors`: matrices in numpy order, loraA (n_in, r) and loraB (n_out, r)."""
    if not 0 < r < 1 << 32 or not 0 <= alpha < 1 << 32:
        raise UsageError(f"ggla files hold a rank and an alpha of 32 bits, not {r} and {alpha}")
    with whole_file(path) as file:
        file.write(MAGIC + struct.pack("<III", VERSION, r, alpha))
        for name, values in tensors.items():
            text, dims = name.encode(), values.shape[::-1]
            file.write(struct.pack(f"<III{len(dims)}I", len(dims), len(text), 0, *dims) + text)
            file.write(bytes(-file.tell() % ALIGNMENT))
            file.write(np.ascontiguousarray(values, "<f4").data)


class _Cursor:
    """Reads from a mapped file; a read past its end is a ModelFileError."""

    def __init__(self, path: Path, data: FileBytes) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, n: int, what: str) -> bytes:
        """The next `n` bytes."""
        left = len(self.data) - self.at
        if n > left:
            raise self.damaged(f"{what} at byte {self.at} takes {n} bytes, the file has {left} more")
        self.at += n
        return self.data[self.at - n : self.at]

    def integers(self, n: int, what: str) -> tuple[int, ...]:
        """The next `n` unsigned integers of 32 bits."""
        return struct.unpack(f"<{n}I", self.take(4 * n, what))

    def damaged(self, fault: str) -> ModelFileError:
        """The error for a fault in the file."""
        return ModelFileError(f"{self.path} is damaged: {fault}", hint="fetch the file again")


def read_ggla(path: str | Path) -> GGLAFile:
    """Read a whole file. Raises ModelFileError for anything that does not add up."""
    path = Path(path)
    with FileBytes(path) as data:
        cursor = _Cursor(path, data)
        magic, version, r, alpha = struct.unpack("<4sIII", cursor.take(16, "the head"))
        if magic != MAGIC:
            raise ModelFileError(f"{path} is not a ggla file: it does not start with the letters algg")
        if version != VERSION:
            raise ModelFileError(f"{path} is a ggla file of version {version}; version {VERSION} can be read")
        if r < 1:
            raise cursor.damaged("its rank is 0")
        tensors: dict[str, npt.NDArray[np.float32]] = {}
        while cursor.at < len(data):
            name, values = _tensor(cursor)
            if name in tensors:
                raise cursor.damaged(f"tensor {name!r} is in it twice")
            if len(tensors) >= MAX_TENSORS:
                raise cursor.damaged(f"more than {MAX_TENSORS} tensors")
            tensors[name] = values
    return GGLAFile(r, alpha, tensors)


def _tensor(cursor: _Cursor) -> tuple[str, npt.NDArray[np.float32]]:
    """The next tensor: its name and a copy of its values."""
    n_dims, n_name, kind = cursor.integers(3, "a tensor's head")
    if not 1 <= n_dims <= 2 or not 1 <= n_name <= MAX_NAME_BYTES:
        raise cursor.damaged(f"a tensor before byte {cursor.at} has {n_dims} dimensions and a name of {n_name} bytes")
    sizes = cursor.integers(n_dims, "a tensor's sizes")
    name = cursor.take(n_name, "a tensor's name").decode("utf-8", "replace")
    if kind not in DTYPES:
        raise cursor.damaged(f"tensor {name!r} is of type {kind}; 0 (F32) and 1 (F16) exist in ggla files")
    cursor.take(-cursor.at % ALIGNMENT, f"the padding of tensor {name!r}")
    n_value = sizes[0] * (sizes[1] if n_dims == 2 else 1)
    if n_value == 0:
        raise cursor.damaged(f"tensor {name!r} has a size of 0")
    raw = cursor.take(n_value * DTYPES[kind].itemsize, f"tensor {name!r}")
    return name, np.frombuffer(raw, DTYPES[kind]).reshape(sizes[::-1]).astype(np.float32)
