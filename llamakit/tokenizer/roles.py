"""Which tokens begin, end and pad a text.

Files name these tokens by id, and many leave some out or give them the wrong type; the field recognises them by
their text. The texts are facts of the published vocabularies, collected as in llama.cpp's loader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.tokenizer.tokenizer import SpecialIds, TokenType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from llamakit import _text

DEFAULTS = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "gpt2": {"bos": 11, "eos": 11},
    "gemma4": {},
}
END_OF_TURN = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "▁<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
]
END_OF_GENERATION = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "▁<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
]
# Fill-in-the-middle roles: the key that may name the token, the texts that else do, whether it ends a generation.
FILL_IN = (
    (
        "fim_pre",
        "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|> [PREFIX]",
        False,
    ),
    (
        "fim_suf",
        "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|> [SUFFIX]",
        False,
    ),
    (
        "fim_mid",
        "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|> [MIDDLE]",
        False,
    ),
    ("fim_pad", "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]", True),
    ("fim_rep", "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <repo_name>", True),
    ("fim_sep", "<|file_sep|> <file_sep>", True),
)
ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


class _Roles:
    """Looks tokens up by key and by text, and corrects the types of those that are found by text."""

    def __init__(
        self, metadata: Mapping[str, object], vocabulary: _text.Vocabulary, types: NDArray[np.generic], model: str
    ) -> None:
        self._metadata = metadata
        self._vocabulary = vocabulary
        self._types = types
        self._defaults: Mapping[str, int] = DEFAULTS[model]

    def by_key(self, role: str) -> int | None:
        """The id that the file names; the default where it names none or one outside the vocabulary."""
        for value in (self._metadata.get(f"tokenizer.ggml.{role}_token_id"), self._defaults.get(role)):
            if isinstance(value, int) and 0 <= value < self._vocabulary.n_tokens:
                return value
        return None

    def by_text(self, texts: Iterable[str]) -> list[int]:
        """Ids of the texts that are tokens; they become control tokens."""
        found = [self._vocabulary.find(text.encode()) for text in texts]
        ids = [i for i in found if i >= 0]
        for i in ids:
            self.retype(i, TokenType.CONTROL)
        return ids

    def first(self, role: str, texts: Iterable[str]) -> int | None:
        """The token of a role: by key, else the first of the texts."""
        named = self.by_key(role)
        if named is not None:
            return named
        for text in texts:
            ids = self.by_text([text])
            if ids:
                return ids[0]
        return None

    def retype(self, token: int, kind: TokenType) -> None:
        self._types[token] = kind

    def has(self, text: str, among: set[int]) -> int | None:
        """The id of a text if it is among these."""
        found = self._vocabulary.find(text.encode())
        return found if found in among else None


def find_roles(
    metadata: Mapping[str, object],
    vocabulary: _text.Vocabulary,
    types: NDArray[np.generic],
    model: str,
    *,
    no_bos: bool,
) -> SpecialIds:
    """The special tokens of a vocabulary; `types` is corrected in place."""
    roles = _Roles(metadata, vocabulary, types, model)
    eot = roles.first("eot", END_OF_TURN)
    eom = roles.first("eom", ["<|eom_id|>"])
    ends: set[int] = set()
    fill_in: dict[str, int] = {}
    for role, texts, ends_generation in FILL_IN:
        token = roles.first(role, texts.split())
        if token is not None:
            fill_in[role.removeprefix("fim_")] = token
        if token is not None and ends_generation:
            ends.add(token)
    ends.update(roles.by_text(END_OF_GENERATION))
    for text in ALWAYS_SHOWN:
        for token in roles.by_text([text]):
            roles.retype(token, TokenType.USER_DEFINED)
    eos = roles.by_key("eos")
    ends.update(i for i in (eos, eot, eom) if i is not None)
    _remove_false_ends(roles, ends)
    no_default = no_bos and "tokenizer.ggml.bos_token_id" not in metadata
    return SpecialIds(
        bos=None if no_default else roles.by_key("bos"),
        eos=eos,
        eot=eot,
        unk=roles.by_key("unknown"),
        pad=roles.by_key("padding"),
        eog=frozenset(ends),
        fim=fill_in,
    )


def _remove_false_ends(roles: _Roles, ends: set[int]) -> None:
    """Tokens that end a turn in most vocabularies but not in those with certain other tokens."""
    calls = roles.has("<|call|>", ends) or roles.has("<|calls|>", ends)
    end = roles.has("<|end|>", ends)
    if end is not None and calls and (roles.has("<|return|>", ends) or roles.has("<|flush|>", ends)):
        ends.discard(end)
        roles.retype(end, TokenType.USER_DEFINED)
    sentence = roles.has("</s>", ends)
    if sentence is not None and roles.has("<|tool_response>", ends) is not None:
        ends.discard(sentence)
        roles.retype(sentence, TokenType.NORMAL)
