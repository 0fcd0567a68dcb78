"""Stop strings in a stream of text: found wherever it is cut, and never shown in part."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopMatcher:
    """Holds back text that may become a stop string; the earliest hit ends the text, the hit itself is not given.

    It runs for every token of every answer, so what was looked at is not looked at again: a hit ends in the new text,
    and whether an end of the text starts a stop string is asked of all of them, sorted, at once.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(stop for stop in stops if stop)
        self._longest = max((len(stop) for stop in self._stops), default=1)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(what may be shown now, the stop string that ended the text or None)."""
        if not self._stops:
            return text, None
        n_old = len(self._held)
        self._held += text
        hits = [
            (at, -len(stop), stop)
            for stop in self._stops
            if (at := self._held.find(stop, max(0, n_old - len(stop) + 1))) >= 0
        ]
        if hits:
            at, _, stop = min(hits)
            shown, self._held = self._held[:at], ""
            return shown, stop
        keep = self._tail()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown, None

    def flush(self) -> str:
        """What is held back; there will be no more text."""
        shown, self._held = self._held, ""
        return shown

    def _tail(self) -> int:
        """Length of the longest end of the held text that starts a stop string."""
        for n in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-n:]
            place = bisect_left(self._stops, end)  # before all that start with it
            if place < len(self._stops) and self._stops[place].startswith(end):
                return n
        return 0
