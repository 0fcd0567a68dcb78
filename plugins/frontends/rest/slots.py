"""Slots: which text each of the numbered places of llama.cpp's server holds, for `/slots/{id}?action=`.

Nothing here is bound to a place: beginnings of texts are found by what they say. So a slot is no more than the memory
of the last text that was evaluated "in" it, by which it is saved, or let go of. Kept only with `--slot-save-path`.
"""

from __future__ import annotations

import threading
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.engine.session_file import PrefixKey

ENOUGH = 0.5  # the share that a prompt and a slot's text begin with, of the shorter one, for it to be taken again


class Held:
    """The text of a slot, and the key under which its beginning is kept."""

    def __init__(self, tokens: Sequence[int], key: PrefixKey) -> None:
        self.tokens, self.key = array("i", tokens), key


class SlotTable:
    """The texts of `n` slots of each model. Every method may be called from any thread."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], Held] = {}  # the least recently used first
        self._busy: dict[tuple[str, int], int] = {}

    def take(self, model: str, tokens: Sequence[int], key: PrefixKey, wanted: int = -1) -> int:
        """The slot for a prompt: the wanted one, the one that begins like it, or the least recently used.

        Texts that are kept under another key are another client's, or of other adapters: they begin like nothing.
        """
        with self._lock:
            number = wanted if 0 <= wanted < self.n else self._choose(model, tokens, key)
            self._busy[model, number] = self._busy.get((model, number), 0) + 1
            return number

    def give_back(self, model: str, number: int, tokens: Sequence[int], key: PrefixKey) -> None:
        """A request has ended, with this text in its slot."""
        with self._lock:
            self._busy[model, number] -= 1
            if not self._busy[model, number]:
                del self._busy[model, number]
        self.hold(model, number, tokens, key)

    def hold(self, model: str, number: int, tokens: Sequence[int], key: PrefixKey) -> None:
        """From now on a slot has this text."""
        with self._lock:
            self._held.pop((model, number), None)
            self._held[model, number] = Held(tokens, key)

    def held(self, model: str, number: int) -> Held | None:
        """What a slot has; None for nothing."""
        with self._lock:
            return self._held.get((model, number))

    def clear(self, model: str, number: int) -> None:
        """A slot has nothing from now on."""
        with self._lock:
            self._held.pop((model, number), None)

    def _choose(self, model: str, tokens: Sequence[int], key: PrefixKey) -> int:
        free = [number for number in range(self.n) if (model, number) not in self._busy] or list(range(self.n))
        asked = array("i", tokens)
        common = {number: self._common(model, number, asked, key) for number in free}
        best = max(free, key=lambda number: common[number])
        held = self._held.get((model, best))
        if held is not None and common[best] >= ENOUGH * max(1, min(len(tokens), len(held.tokens))):
            return best
        used = {number: place for place, (name, number) in enumerate(self._held) if name == model}
        return min(free, key=lambda number: used.get(number, -1))

    def _common(self, model: str, number: int, tokens: array[int], key: PrefixKey) -> int:
        """How many tokens at the start a slot's text has in common with another."""
        held = self._held.get((model, number))
        if held is None or held.key != key:
            return 0
        n, most = 0, min(len(held.tokens), len(tokens))
        while n < most:  # halves are compared at once, since texts are long and slots many
            half = (n + most + 1) // 2
            if held.tokens[n:half] == tokens[n:half]:
                n = half
            else:
                most = half - 1
        return n
