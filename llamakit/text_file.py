"""Files that are read whole: settings, grammars, keys, templates. They may be pipes, such as a shell's `<(...)`."""

from __future__ import annotations

import logging
import stat
import threading
from typing import TYPE_CHECKING

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 64 << 20  # no such file has that size
PIECE = 1 << 20  # that is read at once
PATIENCE = 1.0  # seconds until it is told what is waited for
log = logging.getLogger("llamakit.files")


def read_whole(path: Path, most: int = MOST_BYTES) -> bytes:
    """All that is in a file, or that is written to a pipe until its end.

    A pipe that nobody writes to is waited for, until Ctrl-C, but not without a word. Raises what `open` does, and
    UsageError for more than `most` bytes: a device may never end.
    """
    status = path.stat()
    if stat.S_ISREG(status.st_mode) and status.st_size <= most:
        return path.read_bytes()  # in one piece: pieces that are joined take twice the memory
    told = threading.Timer(PATIENCE, log.warning, ("waiting for the end of the pipe %s; Ctrl-C leaves", path))
    told.daemon = True
    if stat.S_ISFIFO(status.st_mode):
        told.start()
    parts, size = list[bytes](), 0
    try:
        with path.open("rb") as file:
            while part := file.read(PIECE):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise UsageError(f"{path} is larger than {most >> 20} MiB", hint="a smaller file")
    finally:
        told.cancel()
    return b"".join(parts)
