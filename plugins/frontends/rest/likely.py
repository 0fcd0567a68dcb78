"""Likeliest tokens as JSON: thousands of them a second, so what stands around a number is made once for each token.

likely_json(tokenizer, entry, piece.top)    # entry(tokenizer, token, number): how an API shows one
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec
from llamakit.plugins.frontends.rest.long_json import MARK

from llamakit.engine.request import Likely

if TYPE_CHECKING:
    from llamakit.tokenizer import Tokenizer

Entry = Callable[["Tokenizer", int, Any], dict[str, Any]]


class LikelyWriter:
    """Writes likeliest tokens as one API shows them, with commas between them. Any thread may call it."""

    def __init__(self, entry: Entry, n_vocab: int, order: Any) -> None:
        from llamakit import _text

        self._entry, self._order, self._frames = entry, order, _text.Frames(n_vocab)

    def write(self, tokenizer: Tokenizer, likely: Likely) -> bytes:
        """The JSON of each, in their order."""
        written: bytes | None = self._frames.write(likely.ids, likely.numbers)
        if written is None:
            self._make_frames(tokenizer, likely)
            written = self._frames.write(likely.ids, likely.numbers)
            assert written is not None  # frames stay
        return written

    def _make_frames(self, tokenizer: Tokenizer, likely: Likely) -> None:
        for token in self._frames.missing(likely.ids):
            entry = self._entry(tokenizer, token, msgspec.Raw(MARK))
            before, _, after = msgspec.json.encode(entry, order=self._order).partition(MARK)
            self._frames.set(token, before, after)


_writers: WeakKeyDictionary[Tokenizer, dict[tuple[Entry, Any], LikelyWriter]] = WeakKeyDictionary()
_lock = threading.Lock()


def likely_json(tokenizer: Tokenizer, entry: Entry, likely: Likely, order: Any = None) -> bytes:
    """Likeliest tokens as `entry` shows each with its number, commas between them; `order`: of keys, as msgspec's."""
    writer = _writers.get(tokenizer, {}).get((entry, order))
    if writer is None:
        with _lock:
            made = LikelyWriter(entry, tokenizer.n_vocab, order)
            writer = _writers.setdefault(tokenizer, {}).setdefault((entry, order), made)
    return writer.write(tokenizer, likely)


def chosen_json(
    tokenizer: Tokenizer, entry: Entry, token: int, number: float | None, name: str, likely: Likely, order: Any = None
) -> bytes:
    """A chosen token as `entry` shows it with its number (null for None), and under `name` the likeliest there."""
    own = likely_json(tokenizer, entry, Likely.of([token], [math.nan if number is None else number]), order)
    return b'%b,"%b":[%b]}' % (own[:-1], name.encode(), likely_json(tokenizer, entry, likely, order))
