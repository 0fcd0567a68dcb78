"""Opening GGUF files: metadata and tensors, mapped into memory, nothing copied until it is asked for.

The head is checked by native code before anything is used (`cpp/formats/gguf.cpp`). Format: docs/gguf.md of ggml.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import mmap
import os
import re
import stat
import struct
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import msgspec
import numpy as np

from llamakit.errors import ModelChangedError, ModelFileError
from llamakit.gguf.constants import GGMLType, ValueType
from llamakit.run_folder import ADAPTER

if TYPE_CHECKING:
    import numpy.typing as npt

SPLIT = re.compile(r"^(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)$")
SCALARS = {
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<?",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT64: "<d",
}


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor's record. `shape` is in numpy order: a linear weight is (n_out, n_in). `part`: which file of a split."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    part: int = 0


class StringArray(Sequence[str]):
    """An array of strings in the file, decoded one by one on request.

    `buffer` is the file; `spans` (n, 2) gives start and length of each text in it.
    """

    def __init__(self, buffer: Any, base: int, starts: npt.NDArray[np.uint32], length_bytes: int) -> None:
        self.buffer = buffer
        self._base, self._starts, self._length_bytes = base, starts, length_bytes

    @property
    def spans(self) -> npt.NDArray[np.uint64]:
        """Start and length of each text in `buffer`, (n, 2)."""
        starts = self._starts.astype(np.uint64)
        lengths = starts[1:] - starts[:-1] - np.uint64(self._length_bytes)
        return np.stack([starts[:-1] + np.uint64(self._base), lengths], axis=1)

    def bytes(self, index: int) -> bytes:
        """Text number `index`, undecoded."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self._base + int(self._starts[index])
        return bytes(self.buffer[start : self._base + int(self._starts[index + 1]) - self._length_bytes])

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.bytes(index).decode("utf-8", "replace")


class _Part:
    """One mapped file and its parsed head."""

    def __init__(self, path: Path) -> None:
        from llamakit import _formats

        self.path = path
        self.map, self._file = _map(path)
        self._shut = weakref.finalize(self, os.close, self._file)
        self._opened = _state(self._file)
        self._watched: int = _formats.watch(self.map)
        self._forget = weakref.finalize(self.map, _formats.forget, self._watched)
        try:
            self.head: dict[str, Any] = _formats.parse(self.map)
        except _formats.ParseError as error:
            self.close()
            raise _unreadable(path, str(error)) from None
        self.view: npt.NDArray[np.uint8] = np.frombuffer(self.map, np.uint8)

    def check(self) -> None:
        """Raise ModelChangedError if the file is not what it was when it was opened. A new file of its name is none."""
        from llamakit import _formats

        if _state(self._file) != self._opened or _formats.lost_pages(self._watched):
            raise ModelChangedError(
                f"{self.path} was changed while it was in use", found="it was written to, or cut off",
                hint="load it again; replace a model by renaming a new file to its name",
            )  # fmt: skip

    def close(self) -> None:
        """Unmap the file, as soon as nobody holds a part of it."""
        self.__dict__.pop("view", None)
        self._shut()
        with contextlib.suppress(
            BufferError
        ):  # somebody holds a view: the map closes with it, and is watched until then
            self.map.close()
            self._forget()


def _state(descriptor: int) -> tuple[int, int]:
    """Size and time of the last change."""
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _map(path: Path) -> tuple[mmap.mmap, int]:
    try:
        if stat.S_ISFIFO(path.stat().st_mode) or stat.S_ISCHR(path.stat().st_mode):
            raise ModelFileError(f"{path} is a pipe or a device; a GGUF file is mapped into memory, so name a file")
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise ModelFileError(f"{path} is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), os.dup(file.fileno())
    except FileNotFoundError:
        raise _named_wrongly(f"no file {path}", path, path.parent) from None
    except IsADirectoryError:
        raise _named_wrongly(f"{path} is a folder", path, path) from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a null character, which settings and checkpoints may have in a name
        raise ModelFileError(f"{path} cannot be read: {error}") from None


def _named_wrongly(message: str, path: Path, folder: Path) -> ModelFileError:
    """The error for a path that is not a file, with the GGUF files of `folder` and the one that may be meant."""
    try:
        others = sorted(folder.glob("*.gguf"))
        found = ", ".join(f"{other} ({other.stat().st_size / 2**20:,.1f} MiB)" for other in others[:4])
    except OSError:
        others, found = [], ""
    names = [str(other) for other in others if other.name != ADAPTER]
    meant = difflib.get_close_matches(str(path), names, 1, 0.6) or names[:1]
    hint = f"-m {meant[0]}" if meant else f"-m BASE.gguf --lora {others[0]}" if others else "name a GGUF file"
    return ModelFileError(message, found=found, hint=hint)


def _unreadable(path: Path, fault: str) -> ModelFileError:
    """The error for a file that the parser refused, at the byte and for the reason that `fault` gives."""
    if "does not start with the letters GGUF" in fault:
        return ModelFileError(f"{path} is not a GGUF file: it does not start with the letters GGUF")
    cut_off = "the file has" in fault or "the file ends" in fault
    return ModelFileError(
        f"{path} is damaged: {fault}",
        found="probably a download or a copy that stopped early" if cut_off else "",
        hint="fetch the file again",
    )


class Metadata(Mapping[str, object]):
    """Metadata by key, decoded on request: numbers, str, bool, numpy arrays, or `StringArray`.

    ModelChangedError on a request after the file was changed, but for what `keep` has read.
    """

    def __init__(self, part: _Part) -> None:
        self._part = part
        self._records = {key.decode("utf-8", "replace"): record for key, *record in part.head["metadata"]}
        self._kept: dict[str, object] = {}

    def keep(self) -> None:
        """Read all numbers and texts: whoever tells of a model in memory needs them while it is used."""
        self._kept = {key: self[key] for key, record in self._records.items() if record[0] != ValueType.ARRAY}

    def __getitem__(self, key: str) -> object:
        if key in self._kept:
            return self._kept[key]
        type_, element, count, offset, starts = self._records[key]
        if type_ == ValueType.STRING:
            return self.text(key).decode("utf-8", "replace")
        buffer = self._open_map()
        if type_ != ValueType.ARRAY:
            return struct.unpack_from(SCALARS[ValueType(type_)], buffer, offset)[0]
        if element == ValueType.STRING:
            return StringArray(memoryview(buffer), offset, starts, self._part.head["length_bytes"])
        dtype = np.dtype(SCALARS[ValueType(element)])
        return np.frombuffer(buffer, dtype, count, offset)

    def value_type(self, key: str) -> tuple[ValueType, ValueType | None]:
        """The type of a value in the file, and of its elements if it is an array."""
        type_, element = self._records[key][:2]
        return ValueType(type_), ValueType(element) if type_ == ValueType.ARRAY else None

    def text(self, key: str) -> bytes:
        """The bytes of a text, undecoded: what a copy must keep."""
        type_, _, count, offset, _ = self._records[key]
        if type_ != ValueType.STRING:
            raise ModelFileError(f"{self._part.path}: {key} is a {ValueType(type_).name}, not a STRING")
        return bytes(self._open_map()[offset : offset + count])

    def _open_map(self) -> mmap.mmap:
        if self._part.map.closed:
            raise ModelFileError(f"{self._part.path} is closed: read it before close() or the end of its `with` block")
        self._part.check()
        return self._part.map

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def text_of(metadata: Mapping[str, object], key: str, default: str = "") -> str:
    """A value if it is a text: files may have anything under a key, and arrays cannot be compared with a text."""
    value = metadata.get(key)
    return value if isinstance(value, str) else default


class GGUFFile:
    """An opened model: one file, or all parts of a split one. Use as a context manager, or `close()` it."""

    def __init__(self, parts: list[_Part]) -> None:
        self._parts = parts
        self.path = parts[0].path
        self.version: int = parts[0].head["version"]
        self.alignment: int = parts[0].head["alignment"]
        self.metadata = Metadata(parts[0])
        self.tensors: dict[str, TensorInfo] = {}
        for number, part in enumerate(parts):
            for name, type_, dims, offset, n_bytes in part.head["tensors"]:
                info = TensorInfo(name.decode("utf-8", "replace"), GGMLType(type_), dims[::-1], offset, n_bytes, number)
                if info.name in self.tensors:
                    raise ModelFileError(f"{part.path}: tensor {info.name!r} is in two parts")
                self.tensors[info.name] = info

    def value_type(self, key: str) -> tuple[ValueType, ValueType | None]:
        """The type of a metadata value in the file, and of its elements if it is an array."""
        return self.metadata.value_type(key)

    @property
    def paths(self) -> list[Path]:
        """All files of the model."""
        return [part.path for part in self._parts]

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(len(part.map) for part in self._parts)

    @property
    def main_type(self) -> str:
        """The type that most of the weights have; "" for a file without tensors."""
        counts: dict[str, int] = {}
        for info in self.tensors.values():
            counts[info.type.name] = counts.get(info.type.name, 0) + math.prod(info.shape)
        return max(counts, key=lambda name: counts[name], default="")

    def check(self) -> None:
        """Raise ModelChangedError if a file was written to or cut off since it was opened."""
        for part in self._parts:
            part.check()

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, read-only, where they lie in the mapped file."""
        info = self._info(name)
        return self._parts[info.part].view[info.offset : info.offset + info.n_bytes]

    def release(self, name: str, begin: int, end: int) -> None:
        """Bytes [begin, end) of a tensor were read: give the memory back that held them. Reading them again works."""
        info = self._info(name)
        part = self._parts[info.part].map
        if hasattr(mmap, "MADV_DONTNEED"):
            first = -(-(info.offset + begin) // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (info.offset + end) // mmap.PAGESIZE * mmap.PAGESIZE
            if first < last:
                part.madvise(mmap.MADV_DONTNEED, first, last - first)

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor as float32 of its shape."""
        from llamakit.gguf.native import dequantize

        info = self._info(name)
        values = dequantize(info.type, self.raw(name), info.shape)
        self._parts[info.part].check()
        return values

    def _info(self, name: str) -> TensorInfo:
        if not self._parts:
            raise ModelFileError(f"{self.path} is closed: read it before close() or the end of its `with` block")
        if name not in self.tensors:
            near = difflib.get_close_matches(name, self.tensors, 3)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise ModelFileError(f"{self.path} has no tensor {name!r}{hint}")
        return self.tensors[name]

    def close(self) -> None:
        """Unmap the files. Arrays that still refer to them keep them mapped until they are gone."""
        for part in self._parts:
            part.close()
        self._parts = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def open_gguf(path: str | Path) -> GGUFFile:
    """Open a GGUF file of version 1 to 3; of a split model, any of its parts."""
    path = Path(path)
    with contextlib.ExitStack() as parts:  # all are closed again if one cannot be opened
        first = _Part(path)
        parts.callback(first.close)
        count = Metadata(first).get("split.count", 1)
        if not isinstance(count, int) or count <= 1:
            file = GGUFFile([first])
            parts.pop_all()
            return file
        paths = _split_paths(path, count)
        first.close()
        parts.pop_all()
        opened = []
        for each in paths:
            opened.append(_Part(each))
            parts.callback(opened[-1].close)
        file = GGUFFile(opened)
        parts.pop_all()
        return file


def paths_of(path: str | Path) -> list[Path]:
    """All files of a model, of which one is named, "" for none; if it cannot be read, that one."""
    with contextlib.suppress(ModelFileError), open_gguf(path) as file:
        return file.paths
    return [Path(path)] if path else []


def _split_paths(path: Path, count: int) -> list[Path]:
    """The names of all parts, from the name of one."""
    match = SPLIT.match(path.name)
    if match is None or int(match["count"]) != count:
        raise ModelFileError(
            f"{path} is one of {count} parts; its name must end in -00001-of-{count:05}.gguf to find the others"
        )
    paths = [path.with_name(f"{match['stem']}-{i:05}-of-{count:05}{match['suffix']}") for i in range(1, count + 1)]
    missing = [each.name for each in paths if not each.exists()]
    if missing:
        raise ModelFileError(f"{path} is one of {count} parts; missing beside it: {', '.join(missing[:4])}")
    return paths
