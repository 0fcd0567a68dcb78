"""Tensors of a model's file, or of memory: where they are read from, and how they come onto a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from llamakit.backend import Device, TensorSource, Uses, Weight
    from llamakit.gguf import GGMLType, GGUFFile


class FileTensor:
    """A tensor of a GGUF file, read in pieces (`backend.TensorSource`)."""

    def __init__(self, file: GGUFFile, name: str) -> None:
        info = file.tensors[name]
        self.name: str = name
        self.type: GGMLType = info.type
        self.shape: tuple[int, ...] = info.shape
        self.n_bytes: int = info.n_bytes
        self._file = file

    def pieces(self, size: int = 1 << 24) -> Any:
        """Yield (offset, bytes) in order. Whoever takes the next piece is done with the one before.

        Ends with ModelChangedError if the file was changed since it was opened: then the pieces may be anything.
        """
        raw = self.whole()
        for offset in range(0, self.n_bytes, size):
            yield offset, raw[offset : offset + size]
            self._file.release(self.name, offset, min(offset + size, self.n_bytes))
        self._file.check()

    def whole(self) -> Any:
        """All bytes where they lie. The array keeps the file mapped."""
        return self._file.raw(self.name)


class MemoryTensor:
    """A tensor whose bytes, as in a file, are in memory (`backend.TensorSource`)."""

    def __init__(self, name: str, type: GGMLType, shape: tuple[int, ...], raw: npt.NDArray[np.uint8]) -> None:
        self.name, self.type, self.shape, self.n_bytes = name, type, shape, raw.nbytes
        self._raw = raw

    def pieces(self, size: int = 1 << 24) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """(offset, bytes) in order."""
        for offset in range(0, self.n_bytes, size):
            yield offset, self._raw[offset : offset + size]

    def whole(self) -> npt.NDArray[np.uint8]:
        """All bytes."""
        return self._raw


def tensor_sources(
    names: Iterable[str], file: GGUFFile, overrides: Mapping[str, GGUFFile] | None = None
) -> dict[str, TensorSource]:
    """Where each of these tensors is read from.

    `overrides`: other files that tensors are read from, by name, as for `--lora-base`; they must hold them in the
    shape of `file`.
    """
    return {name: _source(file, name, (overrides or {}).get(name, file)) for name in names}


def load_weights(
    device: Device,
    sources: Mapping[str, TensorSource],
    uses: Mapping[str, Uses],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Weight]:
    """Every tensor of `uses` on the device, packed for them; `progress(bytes done, bytes in all)` after each."""
    total, done = sum(sources[name].n_bytes for name in uses), 0
    weights: dict[str, Weight] = {}
    for name, consumers in uses.items():
        weights[name] = device.load(sources[name], consumers)
        done += sources[name].n_bytes
        if progress is not None:
            progress(done, total)
    return weights


def _source(file: GGUFFile, name: str, other: GGUFFile) -> FileTensor:
    if name not in other.tensors:
        raise ModelFileError(f"{other.path} has no tensor {name!r}, which is to be read from it")
    found, shape = other.tensors[name].shape, file.tensors[name].shape
    if found != shape:
        raise ModelFileError(f"{other.path}: tensor {name!r} has shape {found}, the model's has {shape}")
    return FileTensor(other, name)
