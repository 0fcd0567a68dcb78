"""A file read where it is wanted, and not mapped: one that is cut off meanwhile is an error, not SIGBUS."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Self

from llamakit.errors import ModelChangedError, ModelFileError


def check_regular(path: Path) -> None:
    """ModelFileError for a pipe or a device: opening one may wait for ever, and no place in it can be read again."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ModelFileError(f"{path} is a pipe or a device; name a file")


class FileBytes:
    """An open file as a sequence of bytes that is sliced. A context manager, or `close()` it."""

    def __init__(self, path: Path) -> None:
        check_regular(path)
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, wanted: slice) -> bytes:
        """The bytes of a slice without a step. ModelChangedError if the file has got shorter."""
        start, stop, _ = wanted.indices(self._size)
        self._file.seek(start)
        parts, left = [], max(0, stop - start)
        while left:
            part = self._file.read(left)
            if not part:
                raise ModelChangedError(f"{self.path} was changed while it was in use", found="it was cut off")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
