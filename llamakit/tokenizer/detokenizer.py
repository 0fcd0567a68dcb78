"""Token ids to text one by one, never cutting a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:

    class Pieces(Protocol):
        """What a detokenizer needs of a tokenizer."""

        def piece(self, token_id: int, *, special: bool = True) -> bytes:
            """The bytes of a token."""


class Detokenizer:
    """Gives the text of each token as soon as its characters are complete; what it gives adds up to `decode`."""

    def __init__(self, pieces: Pieces, strip_space: bool) -> None:
        self._pieces, self._strip_space = pieces, strip_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def pending(self) -> bool:
        """Whether bytes of an incomplete character are held back."""
        return bool(self._decoder.getstate()[0])

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes."""
        piece = self._pieces.piece(token_id, special=False)
        if self._strip_space and piece:
            piece = piece.removeprefix(b" ")
            self._strip_space = False
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What is held back, as U+FFFD; there will be no more tokens."""
        return self._decoder.decode(b"", final=True)
