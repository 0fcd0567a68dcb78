"""What Tab completes: commands, names of options, and files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

Words = Callable[[], Iterable[str]]


class Completions:
    """`words` lists for a command what its argument may be; `files` names the commands that take a file."""

    def __init__(self, commands: Iterable[str], words: Mapping[str, Words], files: Collection[str]) -> None:
        self._commands, self._words, self._files = sorted(commands), words, files

    def of(self, text: str) -> Iterator[tuple[str, str]]:
        """(word, the part of it that is typed) for each word that the text before the cursor may go on with."""
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text[1:].partition(" ")
        if not space:
            yield from ((word, name) for word in self._commands if word.startswith(name))
            return
        if name in self._words and " " not in rest:
            yield from ((word, rest) for word in sorted(self._words[name]()) if word.startswith(rest))
        if name in self._files:
            yield from files(rest)


def files(typed: str) -> Iterator[tuple[str, str]]:
    """Files and folders that a path may go on with; hidden ones when a dot is typed."""
    folder, name = os.path.split(typed)
    try:
        found = sorted(Path(folder).expanduser().iterdir() if folder else Path().iterdir())
    except (OSError, ValueError, RuntimeError):  # no folder, or no path at all
        return
    for path in found:
        if path.name.startswith(name) and (name.startswith(".") or not path.name.startswith(".")):
            yield path.name + ("/" if path.is_dir() else ""), name
