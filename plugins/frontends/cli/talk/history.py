"""The history of what was typed: one JSON string a line, in a file that only its owner reads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

MOST = 1000  # entries


def history_file() -> Path:
    """Where it is kept: in the user's folder for the state of programs."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state")
    return base / "llamakit" / "chat_history"


class Entries:
    """The entries, oldest first. `path` None keeps them in memory only. A file that cannot be used is left alone."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: list[str] = []
        if path is not None:
            self._read(path)

    def add(self, entry: str) -> None:
        """Keep an entry, unless it starts with a space, is empty, or repeats the one before it."""
        if not entry.strip() or entry[0] == " " or self.entries[-1:] == [entry]:
            return
        self.entries.append(entry)
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
        except OSError:
            self.path = None  # a full disk or a read-only home: the chat goes on without

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_bytes().splitlines()
        except OSError:
            return
        for line in lines:
            try:
                self.entries.append(msgspec.json.decode(line, type=str))
            except msgspec.DecodeError:
                continue  # half a line, from a machine that stopped
        too_many = len(self.entries) > MOST
        self.entries = self.entries[-MOST:]
        try:
            path.chmod(0o600)
            if too_many:
                self._rewrite(path)
        except OSError:
            return

    def _rewrite(self, path: Path) -> None:
        part = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.writelines(msgspec.json.encode(entry) + b"\n" for entry in self.entries)
        part.replace(path)
