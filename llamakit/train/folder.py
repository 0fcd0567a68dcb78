"""The folder of a run: one process at a time works in it, and what a killed one left half-written goes."""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from llamakit.errors import UsageError
from llamakit.train.checkpoint import CHECKPOINTS, write_error

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes apart
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# As `gguf.atomic` names what is not whole yet, of files that runs make: others may be writing in this folder too.
PART = re.compile(r"\.((adapter|model|init|step-\d+)\.gguf|curves\.png)\.[0-9a-f]{8}\.part")
_HELD: dict[tuple[int, int], int] = {}  # (device, inode) of folders, and the thread that has them


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder and have it for this thread alone, which may take it again; goes if it is empty at the end.

    UsageError if another process or thread has it, or if it cannot be a folder; LlamaKitError if it cannot be made. A
    lock of the system, which ends with the process however that ends; where a disk knows no locks, there is none.
    """
    made = _make(folder)
    handle = os.open(folder, os.O_RDONLY)
    try:
        key, me = (os.fstat(handle).st_dev, os.fstat(handle).st_ino), threading.get_ident()
        if _HELD.get(key) == me:
            yield
            return
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "wait until it ends, or another --out"
                raise UsageError(f"another process is training in {folder}", hint=hint, param="out") from None
            except OSError:
                pass  # a disk without locks
        _HELD[key] = me
        try:
            _clear(folder)
            yield
        finally:
            del _HELD[key]
    finally:
        os.close(handle)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _make(folder: Path) -> bool:
    """Whether it was not there."""
    try:
        there = folder.is_dir()
        if not there and (folder.is_symlink() or folder.exists()):
            what = "a link to nothing" if folder.is_symlink() else "a file"
            raise UsageError(f"--out {folder} is {what}; a folder is needed", hint="another --out", param="out")
        folder.mkdir(parents=True, exist_ok=True)
        return not there
    except OSError as error:
        raise write_error(folder, error) from None


def _clear(folder: Path) -> None:
    """Delete what a process that was killed was writing; nobody else writes here now."""
    for place in (folder, folder / CHECKPOINTS):
        with suppress(OSError):
            for path in place.iterdir():
                if PART.fullmatch(path.name):
                    path.unlink(missing_ok=True)
