"""The tokenizer of one model."""

from __future__ import annotations

import enum
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamakit.errors import ContextLengthError, UsageError
from llamakit.tokenizer.detokenizer import Detokenizer, PieceJoiner

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from llamakit import _text


MOST_CONTEXTS = 64  # contexts that one text may be long: of prompts that are cut, and texts that are only counted
LEAST_MOST = 1 << 17  # tokens that such a text may have, however short the context is


class TokenType(enum.IntEnum):
    """The values of `tokenizer.ggml.token_type` (GGUF specification)."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Ids of the tokens with a role; None where the vocabulary has none.

    `fim` holds those for filling in the middle, by role: "pre", "suf", "mid", "pad", "rep" (repository), "sep" (file).
    """

    bos: int | None = None
    eos: int | None = None
    eot: int | None = None
    unk: int | None = None
    pad: int | None = None
    eog: frozenset[int] = frozenset()
    fim: dict[str, int] = field(default_factory=dict)


class Tokenizer:
    """Encodes text into token ids and decodes them again. Made by `load_tokenizer`; safe to share between threads.

    `model` is "llama" (SPM) or "gpt2" (BPE), `pre` the name of the pre-tokenizer of BPE.
    `eog_ids` are the tokens that end a generation.
    """

    def __init__(
        self,
        native: _text.Tokenizer,
        vocabulary: _text.Vocabulary,
        types: Sequence[int],
        *,
        model: str,
        pre: str,
        special: SpecialIds,
        add_bos: bool,
        add_eos: bool,
        add_space_prefix: bool,
    ) -> None:
        self._native = native
        self._vocabulary = vocabulary
        self._types = bytes(types)
        self._pieces: list[bytes | None] = [None] * len(self._types)
        self.n_vocab = len(self._types)
        self.model = model
        self.pre = pre
        self.bos_id = special.bos
        self.eos_id = special.eos
        self.eot_id = special.eot
        self.unk_id = special.unk
        self.pad_id = special.pad
        self.eog_ids = special.eog
        self.fim_ids = special.fim
        self.add_bos = add_bos
        self.add_eos = add_eos
        self.add_space_prefix = add_space_prefix
        self.nl_id = self._newline_id()
        self.context = 0  # tokens that a prompt may have, where texts come from strangers; 0: texts of any length
        self._longest_piece = 0

    def encode(self, text: str | bytes, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text. Bytes are taken as they are, also where they are not valid UTF-8.

        `add_special` adds the beginning and end tokens that the model wants (`add_bos`, `add_eos`);
        `parse_special` recognises the texts of control tokens, which only trusted text should be allowed.
        """
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
        self.check_size(len(data), MOST_CONTEXTS)
        ids: list[int] = self._native.encode(data, parse_special)
        if add_special and self.add_bos and self.bos_id is not None:
            ids.insert(0, self.bos_id)
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def check_size(self, n_bytes: int, contexts: int = 1) -> None:
        """Refuse a text that must have more tokens than one context, or than several, before any work is done on it.

        No token stands for more bytes than the longest in the vocabulary. Without a `context` nothing is refused.
        """
        most = self._most(contexts)
        if not self.context or n_bytes <= most:
            return
        if not self._longest_piece:
            self._longest_piece = max(4, *(len(self.piece(token)) for token in range(self.n_vocab)))
        least = -(-n_bytes // self._longest_piece)
        if least > most:
            error = ContextLengthError(
                f"the text is too long: its {n_bytes:,} bytes are at least {least:,} tokens",
                found=f"the context holds {self.context:,} tokens", hint="a shorter text, or a larger context (-c)",
            )  # fmt: skip
            error.n_prompt_tokens, error.n_ctx = least, self.context
            raise error

    def check_count(self, n_tokens: int) -> None:
        """The same for parts of a text of which each is a token at the least, or for the tokens so far."""
        if self.context and n_tokens > self._most(MOST_CONTEXTS):
            error = ContextLengthError(
                f"the text is too long: it has {n_tokens:,} tokens or more",
                found=f"the context holds {self.context:,} tokens", hint="a shorter text, or a larger context (-c)",
            )  # fmt: skip
            error.n_prompt_tokens, error.n_ctx = n_tokens, self.context
            raise error

    def _most(self, contexts: int) -> int:
        """The most tokens of a text where it may have so many contexts."""
        return max(contexts * self.context, LEAST_MOST if contexts > 1 else 0)

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Text of the tokens; bytes that are not valid UTF-8 become U+FFFD. `special` shows control tokens."""
        return self.decode_bytes(ids, special=special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, special: bool = False) -> bytes:
        """Bytes of the tokens: the inverse of `encode`."""
        joiner = PieceJoiner(self, special=special)
        return b"".join(joiner.push(token) for token in ids)

    def detokenizer(
        self, prompt_ids: Sequence[int] = (), *, special: bool = False, shown: Collection[int] = ()
    ) -> Detokenizer:
        """An incremental decoder for the tokens that follow `prompt_ids`; of control tokens it shows only `shown`."""
        return Detokenizer(self, prompt_ids, special=special, shown=shown)

    def last_shown(self, ids: Sequence[int], *, special: bool = False) -> list[int]:
        """The last of some tokens that stands for a text, in a list: what follows is decoded as after all of them.

        A prompt may be a hundred thousand control tokens, so none is looked up twice.
        """
        silent: set[int] = set()
        for token in reversed(ids):
            if token in silent:
                continue
            if self.piece(token, special=special):
                return [token]
            silent.add(token)
        return []

    def piece(self, token: int, *, special: bool = True) -> bytes:
        """Bytes that one token stands for; nothing for control tokens where `special` is off."""
        token = self._checked(token)
        if not special and self._types[token] in (TokenType.CONTROL, TokenType.UNKNOWN):
            return b""
        piece = self._pieces[token]
        if piece is None:
            piece = self._pieces[token] = self._native.piece(token)
        return piece

    def token_text(self, token: int) -> str:
        """The token as the file spells it."""
        data: bytes = self._vocabulary.text(self._checked(token))
        return data.decode("utf-8", "replace")

    def token_type(self, token: int) -> TokenType:
        """What kind of token it is."""
        return TokenType(self._types[self._checked(token)])

    def is_control(self, token: int) -> bool:
        """Whether it steers the model instead of standing for text."""
        return self.token_type(token) is TokenType.CONTROL

    def is_control_text(self, text: str) -> bool:
        """Whether a text is that of a control token."""
        token = self.id_of(text)
        return token is not None and self.is_control(token)

    def is_special(self, token: int) -> bool:
        """Whether encoding recognises it as a whole: control, unknown and user-defined tokens."""
        return self._types[self._checked(token)] in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)

    def id_of(self, text: str) -> int | None:
        """Id of the token that the file spells so, or None."""
        found: int = self._vocabulary.find(text.encode("utf-8", "surrogatepass"))
        return None if found < 0 else found

    def _checked(self, token: int) -> int:
        token = operator.index(token)
        if not 0 <= token < self.n_vocab:
            raise UsageError(f"token {token} is outside the vocabulary: ids are 0 to {self.n_vocab - 1}")
        return token

    def _newline_id(self) -> int | None:
        if self.model == "llama":
            found = self.id_of("<0x0A>")
            return self.id_of("\n") if found is None else found
        ids = self._native.encode(b"\n", False)
        return int(ids[0]) if ids else self.pad_id
