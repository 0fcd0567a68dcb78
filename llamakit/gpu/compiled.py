"""Compiled kernels on disk, so that they are compiled once: a file each, by what they were made from.

A file begins with a checksum of the rest. It is written aside and renamed, so that processes may share the folder; one
that is damaged counts as missing. Where the folder cannot be written, nothing is kept, and all works as before.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

VERSION = "1"  # of the files' form
log = logging.getLogger("llamakit.gpu")
_told: set[str] = set()  # folders of which it was said that they keep nothing


def folder() -> Path | None:
    """Where they lie: in the user's folder for what can be made again. None for a user without one."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "llamakit" / "kernels"
    except RuntimeError:  # neither HOME nor an entry among the users
        return None


class CompiledKernels:
    """The files of one folder; without one, nothing is kept."""

    def __init__(self, place: Path | None = None) -> None:
        self.folder = folder() if place is None else place

    @staticmethod
    def key(*parts: str) -> str:
        """The name for what is made from these: source, options, device, versions."""
        return hashlib.sha256("\0".join((VERSION, *parts)).encode()).hexdigest()

    def get(self, key: str) -> bytes | None:
        """What was kept; None if there is nothing, or nothing sound."""
        if self.folder is None:
            return None
        try:
            data = (self.folder / key).read_bytes()
        except OSError:
            return None
        return data[32:] if hashlib.sha256(data[32:]).digest() == data[:32] else None

    def put(self, key: str, data: bytes) -> None:
        """Keep it, if that is possible; if not, that is said once."""
        if self.folder is None:
            _tell("", "this user has no home folder; XDG_CACHE_HOME names another")
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(data).digest() + data)
                Path(name).replace(self.folder / key)
            except BaseException:
                with suppress(OSError):
                    Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            _tell(str(self.folder), str(error))

    def keep_log(self, key: str, text: str) -> str:
        """Write what a compiler said beside them; the path, or nothing where that is not possible."""
        if self.folder is None:
            return ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{key[:16]}.log"
            path.write_text(text, encoding="utf-8")
        except OSError:
            return ""
        return str(path)


def _tell(place: str, reason: str) -> None:
    if place not in _told:
        _told.add(place)
        log.warning("compiled kernels are not kept, so they are compiled at every start: %s", reason)
