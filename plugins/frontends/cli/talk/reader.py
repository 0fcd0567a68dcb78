"""Reading entries: what makes one of several lines, and the plain way to read where lines cannot be edited."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamakit.plugins.frontends.cli.talk.terminal import Terminal

BLOCK = '"""'


class QuitAtOnce(Exception):  # noqa: N818 - no error of anybody's
    """Ctrl-backslash was pressed."""


class Reader(ABC):
    """Gives one entry after the other."""

    @abstractmethod
    def read(self, draft: str = "") -> str:
        """The next entry; `draft` stands there already. EOFError at the end, KeyboardInterrupt at an empty Ctrl-C."""


def is_open(text: str) -> bool:
    '''Whether more lines belong to an entry: it ends with a backslash, or its """ has no end yet.'''
    if text.lstrip().startswith(BLOCK):
        body = text.strip()
        return len(body) < 2 * len(BLOCK) or not body.endswith(BLOCK)
    return text.endswith("\\")


def entry_of(text: str) -> str:
    '''An entry without the """ around it.'''
    body = text.strip()
    if body.startswith(BLOCK) and body.endswith(BLOCK) and len(body) >= 2 * len(BLOCK):
        return body[len(BLOCK) : -len(BLOCK)].strip("\n")
    return text


class PlainReader(Reader):
    """`input()`: one entry a line, with a prompt only where a person types."""

    def __init__(self, terminal: Terminal) -> None:
        self._prompts = terminal.reads

    def read(self, draft: str = "") -> str:
        """The next entry. A draft is not shown: it cannot be edited here."""
        text = self._line("> ")
        while is_open(text):
            try:
                line = self._line("  ")
            except EOFError:
                break
            text = (text[:-1] if text.endswith("\\") and not text.lstrip().startswith(BLOCK) else text) + "\n" + line
        return entry_of(text)

    def _line(self, prompt: str) -> str:
        if self._prompts:
            print(prompt, end="", file=sys.stderr, flush=True)
        return input()
