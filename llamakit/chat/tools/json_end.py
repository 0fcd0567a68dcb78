"""Where a JSON value that comes in pieces ends."""

from __future__ import annotations

import re

OUTSIDE = re.compile(r"[^\s\w:,.+-]")  # beside strings: what opens or closes, or cannot be in JSON
INSIDE = re.compile(r'["\\]')


class JSONEnd:
    """Follows an object or array; `depth` of them are open already."""

    def __init__(self, depth: int = 0) -> None:
        self._depth, self._in_string, self._escaped = depth, False, False
        self.broken = False  # what came is not JSON

    def feed(self, text: str) -> int:
        """Some more text. Returns the place in it after the value, or where it is `broken`; -1 if it goes on."""
        at = 1 if self._escaped and text else 0
        self._escaped = self._escaped and not text
        while True:
            found = (INSIDE if self._in_string else OUTSIDE).search(text, at)
            if found is None:
                return -1
            at, mark = found.end(), found[0]
            if mark == "\\" and self._in_string:
                self._escaped = at == len(text)
                at += 1
            elif mark == '"':
                self._in_string = not self._in_string
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at
            else:
                self.broken = True
                return at - 1
