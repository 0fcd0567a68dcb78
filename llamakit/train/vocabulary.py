"""Vocabularies of new models: trained with sentencepiece, written as the metadata of a GGUF file.

The kind is `bpe` with byte fallback, whose merges by score are those of GGUF's SPM vocabularies, so a text has the same
tokens here and there. Line breaks are no part of any piece: they become bytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.errors import LlamaKitError, UsageError
from llamakit.gguf.constants import ValueType
from llamakit.tokenizer.tokenizer import TokenType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llamakit.gguf.writer import GGUFWriter

UNKNOWN, BOS, EOS = 0, 1, 2  # ids, as in every SPM vocabulary
N_FIXED = 3 + 256  # these, and a token for every byte
LONGEST_LINE = 1 << 16  # bytes; sentencepiece leaves out longer ones, so they are cut
END_OF_TURN = "<|end|>"


class Vocabulary(msgspec.Struct, frozen=True):
    """Pieces with their scores and types, by id. `space_prefix`: whether encoding puts a space before a text."""

    pieces: list[str]
    scores: list[float]
    types: list[TokenType]
    space_prefix: bool = False


def train_vocabulary(
    texts: Iterable[str],
    size: int,
    *,
    control: Sequence[str] = (),
    user_defined: Sequence[str] = (),
    space_prefix: bool = False,
    threads: int = 1,
    exact: bool = True,
) -> Vocabulary:
    """A vocabulary of `size` tokens for texts like these; without `exact` it is smaller where they have no more.

    `control` are texts that become control tokens, `user_defined` texts that are one token wherever they stand.
    Raises UsageError where the size does not fit the texts, LlamaKitError where sentencepiece is not installed.
    """
    if size <= N_FIXED + len(control) + len(user_defined):
        raise UsageError(
            f"a vocabulary of {size} tokens has no room for pieces: {N_FIXED} are fixed,"
            f" {len(control) + len(user_defined)} are named", hint="4096", param="vocab_size",
        )  # fmt: skip
    trainer, model = _trainer(), io.BytesIO()
    lines = _Lines(texts)
    try:
        trainer.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, vocab_size=size, control_symbols=list(control),
            user_defined_symbols=list(user_defined), num_threads=threads, hard_vocab_limit=exact, **_fixed(),
        )  # fmt: skip
    except RuntimeError as error:
        if lines.error is not None:  # of who gives the texts: a record that cannot be read, for instance
            raise lines.error from None
        reason = str(error).rpartition("] ")[2] or "they are empty"
        raise UsageError(f"no vocabulary of {size} tokens can be made of these texts: {reason}") from None
    return _read(trainer.SentencePieceProcessor(model_proto=model.getvalue()), user_defined, space_prefix)


def _trainer() -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise LlamaKitError(
            "training a vocabulary needs sentencepiece, which is not installed", hint='pip install "llamakit[train]"'
        ) from None
    return sentencepiece


def _fixed() -> dict[str, Any]:
    """What GGUF's SPM vocabularies presuppose: texts as they are, every byte spelled, digits apart."""
    return {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "split_digits": True,
        "add_dummy_prefix": False, "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True,
        "unk_id": UNKNOWN, "bos_id": BOS, "eos_id": EOS, "pad_id": -1, "unk_piece": "<unk>", "bos_piece": "<s>",
        "eos_piece": "</s>", "character_coverage": 1.0, "max_sentence_length": LONGEST_LINE, "minloglevel": 2,
    }  # fmt: skip


class _Lines:
    """The lines of texts. sentencepiece turns what goes wrong with them into words: `error` is what it was."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self.texts:
                for line in text.split("\n"):
                    yield from _cut(line)
        except BaseException as error:
            self.error = error
            raise


def _cut(line: str) -> Iterator[str]:
    """A line in parts that are short enough, between words where there are any."""
    most, start = LONGEST_LINE // 4, 0  # a character has four bytes at most
    while len(line) - start > most:
        space = line.rfind(" ", start + 1, start + most)
        end = space if space > 0 else start + most
        yield line[start:end]
        start = end
    if start < len(line):
        yield line[start:]


def _read(model: Any, user_defined: Sequence[str], space_prefix: bool) -> Vocabulary:
    pieces = [model.id_to_piece(token) for token in range(model.vocab_size())]
    named = set(user_defined)
    types = [
        TokenType.UNKNOWN if model.is_unknown(token)
        else TokenType.CONTROL if model.is_control(token)
        else TokenType.BYTE if model.is_byte(token)
        else TokenType.USER_DEFINED if piece in named
        else TokenType.NORMAL
        for token, piece in enumerate(pieces)
    ]  # fmt: skip
    return Vocabulary(pieces, [model.get_score(token) for token in range(len(pieces))], types, space_prefix)


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary, chat_template: str = "") -> None:
    """Put a vocabulary, and the chat template if there is one, into a file's metadata."""
    writer.add("tokenizer.ggml.model", "llama")
    writer.add("tokenizer.ggml.pre", "default")
    writer.add("tokenizer.ggml.tokens", vocabulary.pieces)
    writer.add("tokenizer.ggml.scores", vocabulary.scores, element_type=ValueType.FLOAT32)
    writer.add("tokenizer.ggml.token_type", [int(kind) for kind in vocabulary.types], element_type=ValueType.INT32)
    for role, token in (("bos", BOS), ("eos", EOS), ("unknown", UNKNOWN)):
        writer.add(f"tokenizer.ggml.{role}_token_id", token, ValueType.UINT32)
    if END_OF_TURN in vocabulary.pieces:
        writer.add("tokenizer.ggml.eot_token_id", vocabulary.pieces.index(END_OF_TURN), ValueType.UINT32)
    writer.add("tokenizer.ggml.add_bos_token", True)
    writer.add("tokenizer.ggml.add_eos_token", False)
    writer.add("tokenizer.ggml.add_space_prefix", vocabulary.space_prefix)
    if chat_template:
        writer.add("tokenizer.chat_template", chat_template)
