"""Text to token ids and back, exactly as a model's vocabulary has it.

The work is native (`llamakit._text`); this module reads the metadata and knows which tokens are special.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llamakit.errors import ModelFileError, UsageError
from llamakit.tokenizer.detokenizer import Detokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581".encode()
# Texts that end a generation in some model; a token with one of them is a control token whatever the file says.
END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "<|end_of_text|>", "<end_of_utterance>", "<eos>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "<|repo_name|>", "<|end_of_turn|>",
)  # fmt: skip
END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<EOT>", "_<EOT>")
FIM_TEXTS = (
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "<|file_sep|>",
)  # fmt: skip


class Tokenizer:
    """A model's vocabulary. Ids are 0..n_vocab-1."""

    def __init__(self, native: Any, metadata: Mapping[str, object], model: str, pre: str, types: Any) -> None:
        self._native, self.model, self.pre, self.types = native, model, pre, types
        spm = model == "llama"
        self.n_vocab = len(native)

        def token(name: str, default: int | None) -> int | None:
            value = metadata.get(f"tokenizer.ggml.{name}_token_id", default)
            return value if isinstance(value, int) and 0 <= value < self.n_vocab else None

        def flag(name: str, default: bool) -> bool:
            return bool(metadata.get(f"tokenizer.ggml.{name}", default))

        self.bos_id = token("bos", 1 if spm else None if native.no_bos else 11)
        self.eos_id = token("eos", 2 if spm else 11)
        self.unk_id = token("unknown", 0 if spm else None)
        self.pad_id = token("padding", None)
        self.add_bos = flag("add_bos_token", spm or native.add_bos)
        self.add_eos = flag("add_eos_token", False)
        self.add_space_prefix = flag("add_space_prefix", spm)
        self.eot_id = token("eot", self._first(END_OF_TURN))
        self.nl_id = self._newline()
        ends = {self._find(text) for text in END_TEXTS} | {self.eos_id, self.eot_id, token("eom", None)}
        self.eog_ids = frozenset(i for i in ends if i is not None)

    def encode(self, text: str | bytes, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text; bytes are taken as they are, UTF-8 or not.

        `add_special` adds BOS and EOS where the model asks for them; `parse_special` reads the texts of control
        tokens as those tokens.
        """
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        ids: list[int] = self._native.encode(data, parse_special).tolist()
        if add_special and self.add_bos and self.bos_id is not None:
            ids.insert(0, self.bos_id)
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. `special` shows control tokens."""
        return self.decode_bytes(ids, special=special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, special: bool = False) -> bytes:
        """The bytes of ids; the space that encoding put first is taken off again."""
        parts = []
        strip = self.add_space_prefix
        for token_id in ids:
            piece = self.piece(token_id, special=special)
            if strip and piece:
                piece = piece.removeprefix(b" ")
                strip = False
            parts.append(piece)
        return b"".join(parts)

    def piece(self, token_id: int, *, special: bool = True) -> bytes:
        """The bytes that a token stands for; b"" for a control token unless `special`."""
        self._check(token_id)
        kind = self.types[token_id]
        if kind in (CONTROL, UNKNOWN) and not special:
            return b""
        text: bytes = self._native.text(token_id)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            return text
        if kind == BYTE:
            return _byte(text)
        if self.model == "llama" or self._native.escape_spaces:
            return text.replace(SPACE, b" ")
        if not self._native.byte_level:
            return text
        from llamakit import _text

        found: bytes = _text.bytes_of_token(text)
        return found

    def token_text(self, token_id: int) -> str:
        """The token's text as the file has it."""
        self._check(token_id)
        text: bytes = self._native.text(token_id)
        return text.decode("utf-8", "replace")

    def token_type(self, token_id: int) -> int:
        """1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""
        self._check(token_id)
        return int(self.types[token_id])

    def is_control(self, token_id: int) -> bool:
        """Whether the token has no text of its own."""
        return self.token_type(token_id) == CONTROL

    def id_of(self, text: str) -> int | None:
        """The token with exactly this text."""
        return self._find(text)

    def detokenizer(self, prompt_ids: Sequence[int] = ()) -> Detokenizer:
        """A detokenizer for what follows `prompt_ids`."""
        return Detokenizer(self, strip_space=self.add_space_prefix and not any(not self.is_control(i) for i in prompt_ids))

    def _check(self, token_id: int) -> None:
        if not 0 <= token_id < self.n_vocab:
            raise UsageError(f"token {token_id} is outside the vocabulary, 0..{self.n_vocab - 1}")

    def _find(self, text: str) -> int | None:
        found: int = self._native.find(text.encode())
        return None if found < 0 else found

    def _first(self, texts: Iterable[str]) -> int | None:
        return next((found for text in texts if (found := self._find(text)) is not None), None)

    def _newline(self) -> int | None:
        ids = [i for i in self.encode("\n") if self.piece(i) == b"\n"]
        return ids[0] if ids else None


def _byte(text: bytes) -> bytes:
    """The byte that a text such as <0x0A> names."""
    try:
        return bytes([int(text[3:5], 16)])
    except ValueError:
        return text


def load_tokenizer(metadata: Mapping[str, object]) -> Tokenizer:
    """Make the tokenizer that a GGUF file's metadata describes."""
    from llamakit import _text

    model = metadata.get("tokenizer.ggml.model")
    if model not in ("llama", "gpt2"):
        raise ModelFileError(f"tokenizer model {model!r} is not supported; supported are llama (SPM) and gpt2 (BPE)")
    buffer, spans = _texts(metadata, "tokenizer.ggml.tokens")
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    given = metadata.get("tokenizer.ggml.token_type")
    n = len(spans)
    types = np.full(n, NORMAL, np.int32) if given is None else np.array(given, np.int32)
    try:
        native = _text.Tokenizer(buffer, spans)
        _use(native, metadata, str(model), pre, n)
    except ValueError as error:
        raise ModelFileError(f"the file's vocabulary is damaged: {error}") from None
    for text in (*END_TEXTS, *FIM_TEXTS):
        if (found := native.find(text.encode())) >= 0:
            types[found] = CONTROL
    native.set_specials(_specials(native, metadata, types))
    return Tokenizer(native, metadata, str(model), pre, types)


def _use(native: Any, metadata: Mapping[str, object], model: str, pre: str, n: int) -> None:
    if model == "llama":
        scores = metadata.get("tokenizer.ggml.scores")
        unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
        prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        native.use_spm(np.zeros(n, np.float32) if scores is None else np.asarray(scores, np.float32), prefix, unknown)
        return
    from llamakit import _text

    known = _text.pretokenizer_names()
    if pre not in known:
        near = difflib.get_close_matches(pre, known, 3, 0.5)
        raise ModelFileError(
            f"tokenizer.ggml.pre is {pre!r}, which is not known{'; near: ' + ', '.join(near) if near else ''}."
            " The words of this vocabulary are split in a way that a newer version may know"
        )
    native.use_bpe(*_texts(metadata, "tokenizer.ggml.merges"), pre)


def _texts(metadata: Mapping[str, object], key: str) -> tuple[Any, Any]:
    """(buffer, spans) of an array of strings, in the file or made of a list."""
    value = metadata.get(key)
    if value is None or not isinstance(value, Sequence):
        raise ModelFileError(f"metadata {key!r} is missing: the file holds no vocabulary")
    if hasattr(value, "spans"):
        return value.buffer, value.spans
    data = [text if isinstance(text, bytes) else str(text).encode() for text in value]
    lengths = np.array([len(text) for text in data], np.uint64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.uint64) if data else lengths
    return b"".join(data), np.stack([starts, lengths], axis=1)


def _specials(native: Any, metadata: Mapping[str, object], types: Any) -> list[tuple[int, bool, bool, bool]]:
    """(id, found always, strip before, strip after) of the tokens that are found before anything else."""
    name = str(metadata.get("general.name", "")).lower()
    phi3 = "phi-3" in name or "phi3" in name
    plain = {b"<unk>", b"<s>", b"<|endoftext|>"}
    specials = []
    for token_id in np.flatnonzero((types == CONTROL) | (types == USER_DEFINED) | (types == UNKNOWN)).tolist():
        text = native.text(token_id)
        if text:
            specials.append((token_id, bool(types[token_id] == USER_DEFINED), False, phi3 and text not in plain))
    return specials
