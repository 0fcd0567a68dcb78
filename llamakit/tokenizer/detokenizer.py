"""Tokens to text, one at a time: never a broken character, and the same text as decoding all at once."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from llamakit.tokenizer.tokenizer import Tokenizer


class PieceJoiner:
    """Drops the space that encoding put before a text: at the start, and after a special token that is shown.

    It is what makes decoding the inverse of encoding for vocabularies with a space prefix.
    """

    def __init__(self, tokenizer: Tokenizer, *, special: bool, shown: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._special, self._shown = special, shown
        self._drop_space = tokenizer.add_space_prefix

    def push(self, token: int) -> bytes:
        """Bytes that the token adds."""
        piece = self._tokenizer.piece(token, special=self._special or token in self._shown)
        if not piece:
            return piece
        if self._tokenizer.is_special(token):
            self._drop_space = self._tokenizer.add_space_prefix
        elif self._drop_space:
            self._drop_space = False
            return piece.removeprefix(b" ")
        return piece


class Detokenizer:
    """Turns a stream of tokens into text. The pieces together are `Tokenizer.decode` of all the tokens.

    `prompt_ids` are tokens that came before and whose text has been shown; only what follows is returned. Of control
    tokens all are shown with `special`, else those among `shown`.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), *, special: bool = False,
        shown: Collection[int] = (),
    ) -> None:  # fmt: skip
        self._joiner = PieceJoiner(tokenizer, special=special, shown=shown)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in tokenizer.last_shown(prompt_ids, special=special):  # it decides about a space
            self._joiner.push(token)

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished character wait for the next token."""
        return bool(self._decoder.getstate()[0])

    def push(self, token: int) -> str:
        """Text that is complete with this token; an unfinished character waits for the next."""
        return self._decoder.decode(self._joiner.push(token))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", final=True)
