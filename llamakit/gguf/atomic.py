"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llamakit.errors import NO_ROOM, FileWriteError, UsageError
from llamakit.units import size_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_unfinished: set[Path] = set()  # temporary files that are being written now


def forget_unfinished() -> None:
    """Delete what is being written: the process ends now."""
    for path in list(_unfinished):
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def whole_file(path: str | Path, n_bytes: int = 0, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write to, beside `path` under another name: flushed to the disk and renamed at the end.

    An exception inside the block leaves no file, and leaves one that was there before as it was. What the disk does not
    take is a FileWriteError, which says what was needed where `n_bytes`, the size of it all, is known. Of a symbolic
    link the file that it means is replaced; a device, a pipe or a folder is never replaced, but a FileWriteError.
    `mode`: who may read and write it, as far as the umask lets.
    """
    path = Path(os.path.realpath(path))
    begin = os.fsencode(path.name)[:200].decode("utf-8", "ignore")  # the whole name with more may be too long
    temporary = path.with_name(f".{begin}.{secrets.token_hex(4)}.part")
    written = 0
    _unfinished.add(temporary)
    try:
        if path.exists() and not path.is_file():
            raise FileWriteError(f"{path} is not a regular file", hint="name a file that may be replaced, or a new one")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not `tempfile`: its files are for their owner alone, and a model is read by whoever the umask lets.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            try:
                yield file
                file.flush()
            finally:
                with suppress(OSError, ValueError):
                    written = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        ours = ("None", str(path), str(path.parent), str(temporary))
        if isinstance(error, OSError) and not isinstance(error, FileWriteError) and str(error.filename) in ours:
            raise write_error(path, error, max(n_bytes, written)) from error
        raise
    finally:
        _unfinished.discard(temporary)


def refuse_to_replace(path: str | Path, sources: Iterable[str | Path], what: str) -> None:
    """UsageError if `path`, which is to be written, is one of the files that it is made from: it would be lost.

    `what`: such a file for people.
    """
    for source in sources:
        with suppress(OSError):  # one of them is not there: there is nothing to lose, or who reads it says so
            if Path(path).samefile(source):
                raise UsageError(f"{path} would replace {what}: name another file or folder")


def refuse_stdout(name: str, option: str) -> None:
    """UsageError if what `option` is to write is called `-`: files are made whole or not at all, so not as a stream."""
    if name == "-":
        hint = f"{option} FILE   (./- for a file called -)"
        raise UsageError(f"{option} -: it is written to a file, not to standard output", hint=hint, param=option)


def write_error(path: Path, error: OSError, n_bytes: int = 0) -> FileWriteError:
    """What to say when a file, of `n_bytes` or more, cannot be written."""
    reason = error.strerror or str(error)
    found = hint = ""
    if error.errno in NO_ROOM:
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            found = f"it takes {size_text(n_bytes)} or more; {size_text(free)} are free in {path.parent}"
        hint = "make room there, or name a file on another disk"
    made = FileWriteError(f"{path} cannot be written: {reason}", found=found, hint=hint)
    made.errno, made.strerror = error.errno, reason
    return made
