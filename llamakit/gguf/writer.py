"""Writing GGUF files (version 3, or 2 if asked): the file appears whole or not at all."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llamakit.errors import UsageError
from llamakit.gguf.atomic import whole_file
from llamakit.gguf.constants import (
    DEFAULT_ALIGNMENT,
    MAX_ALIGNMENT,
    MAX_DIMS,
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    GGMLType,
    ValueType,
)
from llamakit.gguf.reader import SCALARS, StringArray

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from llamakit.gguf.reader import GGUFFile

INTEGERS = {
    ValueType.UINT8, ValueType.INT8, ValueType.UINT16, ValueType.INT16,
    ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64,
}  # fmt: skip
NUMPY_TYPES = {np.dtype(code).newbyteorder("=").name: value for value, code in SCALARS.items()}


class GGUFWriter:
    """Collects metadata and tensors, then writes them on leaving the `with` block.

    with GGUFWriter("out.gguf") as writer:
        writer.add("general.architecture", "llama")
        writer.add_tensor("output_norm.weight", array)

    An exception inside the block leaves no file, and leaves one that was there before as it was.
    """

    def __init__(
        self, path: str | Path, alignment: int = DEFAULT_ALIGNMENT, version: int = 3, source: GGUFFile | None = None
    ) -> None:
        """`source`: the file that tensors are copied from. If it is changed meanwhile, nothing is written."""
        if alignment < 1 or alignment & (alignment - 1) or alignment > MAX_ALIGNMENT:
            raise UsageError(f"alignment {alignment}: it is a power of two, at most {MAX_ALIGNMENT}")
        if version not in (2, 3):  # the same bytes but for the number, which programs of 2023 look at
            raise UsageError(f"version {version}: GGUF files of version 2 and 3 are written")
        self.path, self.alignment, self.version, self.source = Path(path), alignment, version, source
        self._metadata: dict[str, bytes] = {}
        self._tensors: dict[str, tuple[GGMLType, tuple[int, ...], int, Callable[[], Any]]] = {}
        if alignment != DEFAULT_ALIGNMENT:
            self.add("general.alignment", alignment, ValueType.UINT32)

    def add(
        self, key: str, value: object, type: ValueType | None = None, element_type: ValueType | None = None
    ) -> None:
        """Set a metadata value; its type follows from the value unless given. None removes the key."""
        if value is None:
            self._metadata.pop(key, None)
            return
        type_, element = _types(key, value, type, element_type)
        if not 0 < len(key.encode("utf-8", "surrogateescape")) <= MAX_KEY_BYTES:
            raise UsageError(f"metadata key {key[:40]!r}: a key has 1 to {MAX_KEY_BYTES} bytes")
        try:
            self._metadata[key] = struct.pack("<I", type_) + _encode(value, type_, element)
        except (struct.error, OverflowError, TypeError, ValueError, AttributeError) as error:
            kind = type_.name if element is None else f"{type_.name} of {element.name}"
            raise UsageError(f"metadata {key!r}: the value is no {kind}: {error}") from None

    def add_tensor(
        self,
        name: str,
        data: npt.NDArray[Any] | Callable[[], npt.NDArray[Any] | Iterator[npt.NDArray[Any]]],
        type: GGMLType | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        """Add a tensor: a float32 array, or its encoded bytes with `type` and `shape` (numpy order).

        `data` may be a function that makes the array when its turn to be written comes, at once or piece by piece.
        """
        if name in self._tensors:
            raise UsageError(f"tensor {name!r} is added twice")
        if callable(data):
            if type is None or shape is None:
                raise UsageError(f"tensor {name!r}: a function needs its type and shape given")
            self._tensors[name] = (type, shape, _tensor_bytes(name, type, shape), data)
            return
        array = np.ascontiguousarray(data)
        type = GGMLType.F32 if type is None else type
        shape = tuple(array.shape) if shape is None else shape
        n_bytes = _tensor_bytes(name, type, shape)
        if array.nbytes != n_bytes:
            raise UsageError(f"tensor {name!r}: {shape} in {type.name} takes {n_bytes} bytes, {array.nbytes} are given")
        self._tensors[name] = (type, shape, n_bytes, lambda: array)

    def write(self) -> None:
        """Write to a temporary file beside the target, flush it to the disk, and rename it."""
        n_bytes = sum(self._aligned(n_bytes) for _, _, n_bytes, _ in self._tensors.values())
        with whole_file(self.path, n_bytes + sum(map(len, self._metadata.values()))) as file:
            try:
                self._write(file)
            finally:  # pages that are gone may also be an OSError of the write
                if self.source is not None:
                    self.source.check()

    def _write(self, file: Any) -> None:
        file.write(b"GGUF" + struct.pack("<IQQ", self.version, len(self._tensors), len(self._metadata)))
        for key, value in self._metadata.items():
            file.write(_string(key) + value)
        offset = 0
        for name, (type_, shape, n_bytes, _) in self._tensors.items():
            dims = shape[::-1]
            file.write(_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_, offset))
            offset += self._aligned(n_bytes)
        file.write(bytes(-file.tell() % self.alignment))
        self._write_tensors(file)

    def _write_tensors(self, file: Any) -> None:
        for name, (_, _, n_bytes, make) in self._tensors.items():
            self._write_tensor(file, name, n_bytes, make)  # of its own, so that one tensor is held at a time
            file.write(bytes(self._aligned(n_bytes) - n_bytes))

    def _write_tensor(self, file: Any, name: str, n_bytes: int, make: Callable[[], Any]) -> None:
        written, made = 0, make()
        for part in made if isinstance(made, Iterator) else (made,):
            data = np.ascontiguousarray(part)
            written += data.nbytes
            if written <= n_bytes:
                file.write(data.data)
        if written != n_bytes:
            raise UsageError(f"tensor {name!r}: {written} bytes were made, {n_bytes} announced")

    def _aligned(self, n: int) -> int:
        return -(-n // self.alignment) * self.alignment

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, *rest: object) -> None:
        if exc_type is None:
            self.write()


def _string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _tensor_bytes(name: str, type: GGMLType, shape: tuple[int, ...]) -> int:
    """Size of a tensor, once its name and shape are known to be what the format can hold."""
    if not 0 < len(name.encode("utf-8", "surrogateescape")) <= MAX_NAME_BYTES:
        raise UsageError(f"tensor {name[:40]!r}: a name has 1 to {MAX_NAME_BYTES} bytes")
    if not 1 <= len(shape) <= MAX_DIMS or min(shape) < 1:
        raise UsageError(f"tensor {name!r}: shape {shape}; 1 to {MAX_DIMS} sizes of at least 1 are possible")
    if shape[-1] % type.block_size:
        raise UsageError(
            f"tensor {name!r}: rows of {shape[-1]} values are not a multiple of {type.name}'s {type.block_size}"
        )
    return type.n_bytes(math.prod(shape))


def _types(
    key: str, value: object, type_: ValueType | None, element: ValueType | None
) -> tuple[ValueType, ValueType | None]:
    if isinstance(value, (str, bytes)):
        if type_ not in (None, ValueType.STRING):
            raise UsageError(f"metadata {key!r}: a text cannot be stored as {type_.name}")
        return ValueType.STRING, None
    if isinstance(value, np.ndarray):
        if element is None and value.dtype.name not in NUMPY_TYPES:
            raise UsageError(f"metadata {key!r}: arrays of {value.dtype} have no GGUF type")
        return ValueType.ARRAY, NUMPY_TYPES[value.dtype.name] if element is None else element
    if isinstance(value, Sequence):
        if element is None:
            element = _element_type(key, value)
        return ValueType.ARRAY, element
    if type_ is not None:
        return type_, None
    if isinstance(value, (bool, np.bool_)):
        return ValueType.BOOL, None
    if isinstance(value, (int, np.integer)):
        return _integer_type(int(value), int(value)), None
    if isinstance(value, (float, np.floating)):
        return ValueType.FLOAT32, None
    raise UsageError(f"metadata {key!r}: a {type(value).__name__} has no GGUF type")


def _integer_type(low: int, high: int) -> ValueType:
    if low >= 0:
        return ValueType.UINT32 if high < 1 << 32 else ValueType.UINT64 if high >= 1 << 63 else ValueType.INT64
    return ValueType.INT64


def _element_type(key: str, values: Sequence[object]) -> ValueType:
    """The one type that holds all elements."""
    if isinstance(values, StringArray):
        return ValueType.STRING
    kinds = {_types(key, value, None, None)[0] for value in values}
    if not kinds:
        return ValueType.UINT32
    if len(kinds) == 1 and kinds != {ValueType.ARRAY}:
        return kinds.pop()
    if kinds <= INTEGERS:
        numbers = [int(value) for value in values]  # type: ignore[call-overload]
        return _integer_type(min(numbers), max(numbers))
    if kinds <= INTEGERS | {ValueType.FLOAT32}:
        return ValueType.FLOAT32
    names = ", ".join(sorted(kind.name for kind in kinds))
    raise UsageError(f"metadata {key!r}: an array holds elements of one type, not {names}")


def _numbers(values: Any, element: ValueType) -> bytes:
    """Encode the elements; a number that the type cannot hold is refused, never wrapped."""
    dtype = np.dtype(SCALARS[element])
    if isinstance(values, np.ndarray):
        integers, array = values.dtype.kind in "iub", values
    else:
        integers = all(isinstance(value, (int, np.integer, np.bool_)) for value in values)
        array = np.array(values, object)  # keeps integers of any size exact
    if array.ndim != 1:
        raise ValueError(f"arrays have one dimension, not {array.ndim}")
    if dtype.kind in "iu" and array.size:
        if not integers:
            raise ValueError("not all elements are integers")
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise ValueError(f"elements lie in {limits.min} to {limits.max}")
    return array.astype(dtype).tobytes()


def _encode(value: Any, type_: ValueType, element: ValueType | None) -> bytes:
    if type_ == ValueType.STRING:
        return _string(value)
    if type_ != ValueType.ARRAY:
        return struct.pack(SCALARS[type_], value)
    if element not in SCALARS and element != ValueType.STRING:
        raise ValueError("only numbers, booleans and texts can be in an array")
    head = struct.pack("<IQ", element, len(value))
    if element == ValueType.STRING:
        return head + b"".join(_string(text) for text in _texts(value))
    return head + _numbers(value, element)


def _texts(value: Iterable[str]) -> Iterable[str | bytes]:
    return (value.bytes(i) for i in range(len(value))) if isinstance(value, StringArray) else value
