"""Safetensors files: float tensors by name, as PEFT keeps adapters in.

A file is the length of its head (u64, little-endian), the head in JSON (name -> dtype, shape, [begin, end) of its bytes
in what follows, and `__metadata__` of texts), and the bytes of all tensors without gaps, row by row.
Source: the format's description in the safetensors project. Read here rather than by its library, whose numpy side
knows no bfloat16.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.bounded_json import short
from llamakit.errors import LONGEST_NAME, ModelFileError, UsageError
from llamakit.gguf.atomic import whole_file
from llamakit.gguf.constants import MAX_DIMS, MAX_NAME_BYTES, GGMLType
from llamakit.gguf.file_bytes import FileBytes
from llamakit.gguf.native import dequantize, quantize

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

MAX_HEAD = 100 << 20  # the library's own limit
MOST = 1 << 48  # of a size: no file has as many bytes
DTYPES = {"F64": GGMLType.F64, "F32": GGMLType.F32, "F16": GGMLType.F16, "BF16": GGMLType.BF16}
NAMES = {type_: name for name, type_ in DTYPES.items()}


def read_safetensors(path: Path) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, str], dict[str, GGMLType]]:
    """All tensors as float32 of their own, the metadata, and the types that the file has them in.

    Raises ModelFileError for anything that does not add up, and for tensors that are not of floats.
    """
    try:
        with FileBytes(path) as data:
            head, start = _head(path, data)
            metadata = head.pop("__metadata__", {})
            types = {name: _check(path, name, record, len(data) - start) for name, record in head.items()}
            if (
                sum(record["data_offsets"][1] - record["data_offsets"][0] for record in head.values())
                > len(data) - start
            ):
                raise ModelFileError(f"{path} is damaged: its tensors take more bytes than it has")
            tensors = {name: _values(data, start, record, types[name]) for name, record in head.items()}
    except FileNotFoundError:
        raise ModelFileError(f"no file {path}") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from None
    texts = {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    return tensors, texts, types


def _head(path: Path, data: FileBytes) -> tuple[dict[str, Any], int]:
    """The parsed head, and where the tensors begin."""
    size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 2 <= size <= min(MAX_HEAD, len(data) - 8):
        raise ModelFileError(f"{path} is not a safetensors file, or damaged: its head has {size} bytes of {len(data)}")
    try:
        head = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        raise ModelFileError(f"{path} is not a safetensors file, or damaged: its head is not JSON") from None
    if not isinstance(head, dict):
        raise ModelFileError(f"{path} is damaged: its head is not a table of tensors")
    return head, 8 + size


def _check(path: Path, name: str, record: Any, left: int) -> GGMLType:
    """That a tensor's record adds up; its type."""
    try:
        dtype, shape, (begin, end) = record["dtype"], record["shape"], record["data_offsets"]
        sizes = [*shape, begin, end]  # bounded, since their product and its text would be as large as a file likes
        if (
            not isinstance(dtype, str)
            or len(shape) > MAX_DIMS
            or len(name) > MAX_NAME_BYTES
            or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < MOST for n in sizes)
        ):
            raise ValueError
    except (TypeError, KeyError, ValueError):
        told = short(name, LONGEST_NAME)
        raise ModelFileError(f"{path} is damaged: the record of tensor {told!r} makes no sense") from None
    if dtype not in DTYPES:
        told = short(dtype, LONGEST_NAME)
        raise ModelFileError(f"{path}: tensor {name!r} is of type {told}; {', '.join(DTYPES)} can be read")
    if end > left or end - begin != DTYPES[dtype].n_bytes(math.prod(shape)):
        raise ModelFileError(f"{path} is damaged: tensor {name!r} {shape} lies at {begin} to {end} of {left} bytes")
    return DTYPES[dtype]


def _values(data: FileBytes, start: int, record: Any, type: GGMLType) -> npt.NDArray[np.float32]:
    begin, end = record["data_offsets"]
    raw, shape = np.frombuffer(data[start + begin : start + end], np.uint8), tuple(record["shape"])
    if type == GGMLType.F64:
        return raw.view("<f8").astype(np.float32).reshape(shape)
    return np.array(dequantize(type, raw, shape)) if raw.size else np.zeros(shape, np.float32)


def write_safetensors(
    path: Path,
    tensors: Mapping[str, npt.NDArray[np.float32]],
    types: Mapping[str, GGMLType],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors in F32, F16 or BF16, whole or not at all."""
    head: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, values in tensors.items():
        type_ = types.get(name, GGMLType.F32)
        if type_ not in NAMES:
            raise UsageError(f"tensor {name!r}: safetensors files have no type {type_.name}")
        end = at + type_.n_bytes(values.size)
        head[name] = {"dtype": NAMES[type_], "shape": list(values.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, values in tensors.items():
            file.write(quantize(types.get(name, GGMLType.F32), values).data)
