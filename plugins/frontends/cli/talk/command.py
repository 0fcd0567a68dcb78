"""What a command of the chat is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from llamakit.errors import UsageError
from llamakit.text_file import read_whole

if TYPE_CHECKING:
    from llamakit.plugins.frontends.cli.talk.talk import Talk


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """`usage` is what follows the name; `run` gets the chat and the text after the name; `words` are for Tab."""

    name: str
    usage: str = ""
    summary: str
    run: Callable[[Talk, str], None]
    words: Callable[[Talk], list[str]] | None = None
    files: bool = False
    detail: str = ""  # what `/help NAME` adds

    @property
    def title(self) -> str:
        """As it is typed."""
        return f"/{self.name} {self.usage}".strip()


def number(text: str, what: str, default: int, most: int) -> int:
    """The number from 1 to `most` in an argument; `default` where there is none."""
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= most):
        raise UsageError(f"{text!r} is no {what}", found=f"1 to {most}" if most else "there is none yet")
    return int(text)


def path_of(text: str) -> Path:
    """The path that was typed; UsageError for what cannot be one."""
    try:
        if "\0" in text:
            raise ValueError("it has a null character")
        return Path(text).expanduser()
    except (ValueError, RuntimeError) as error:  # or there is no such home
        raise UsageError(f"{text} is no path: {error}") from None


def content_of(path: Path) -> bytes:
    """What is in a file, a pipe or a device."""
    try:
        return read_whole(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def needed(text: str, usage: str) -> str:
    """An argument that must be there."""
    if not text:
        raise UsageError(f"{usage.partition(' ')[0]} needs {usage.partition(' ')[2]}", hint=usage)
    return text
