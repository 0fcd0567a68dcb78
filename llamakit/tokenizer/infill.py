"""Prompts for filling in the middle: the text before a gap, the text after it, and other files for context.

The order of parts is that of the models (Bavarian et al. 2022, arXiv:2207.14255; files and repository as Qwen2.5-Coder
names them): other files, then prefix, suffix, and the mark after which the model writes the middle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.tokenizer.tokenizer import Tokenizer

ANCHOR = "\u263a"  # no text begins with it: what follows is encoded as the inside of a text, without a leading space
REPOSITORY, CURRENT_FILE = "repository", "filename"


class ExtraFile(msgspec.Struct, frozen=True, kw_only=True):
    """Another file, for context."""

    text: str
    filename: str = ""


class Infill(msgspec.Struct, frozen=True):
    """The prompt's tokens, and how many of the texts' tokens did not fit."""

    tokens: list[int]
    n_dropped: int


def infill_tokens(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str | Sequence[int],
    *,
    limit: int,
    begun: Sequence[int] = (),
    extra: Sequence[ExtraFile] = (),
) -> Infill:
    """The prompt whose continuation fills the gap between `prefix` and `suffix`, which is a text or its `inner_tokens`.

    At most `limit` tokens: of a prefix that is too long the end stays, of a suffix the start, of the other files the
    last ones. `begun` are tokens that the middle starts with. UsageError where the vocabulary has no such marks.
    """
    pre, suf, mid = _marks(tokenizer)
    bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    before, after = tokenizer.encode(prefix), inner_tokens(tokenizer, suffix) if isinstance(suffix, str) else suffix
    room = max(0, limit - len(bos) - 3 - len(begun))
    n_after = min(len(after), max(room // 4, room - len(before)))
    n_before = min(len(before), room - n_after)
    context, n_dropped = _context(tokenizer, extra, room - n_before - n_after)
    kept_before = before[len(before) - n_before :]
    tokens = [*bos, *context, pre, *kept_before, suf, *after[:n_after], mid, *begun]
    return Infill(tokens, n_dropped + len(before) - n_before + len(after) - n_after)


def inner_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text as they would be in the middle of one: without a space that vocabularies put before a text."""
    head = tokenizer.encode(ANCHOR)
    tokens = tokenizer.encode(ANCHOR + text)
    return tokens[len(head) :] if tokens[: len(head)] == head else tokenizer.encode(text)


def _marks(tokenizer: Tokenizer) -> tuple[int, int, int]:
    found = [tokenizer.fim_ids.get(role) for role in ("pre", "suf", "mid")]
    if None in found:
        raise UsageError(
            "the model cannot fill in the middle: its vocabulary has no tokens for that",
            found="missing: " + ", ".join(r for r in ("pre", "suf", "mid") if r not in tokenizer.fim_ids),
            hint="a model that was trained for it, such as one for code",
        )
    pre, suf, mid = (token for token in found if token is not None)
    return pre, suf, mid


def _context(tokenizer: Tokenizer, extra: Sequence[ExtraFile], room: int) -> tuple[list[int], int]:
    """Tokens of other files, the last `room` of them, and how many were dropped."""
    if not extra:
        return [], 0
    repository, separator = tokenizer.fim_ids.get("rep"), tokenizer.fim_ids.get("sep")
    head = [] if repository is None else [repository, *inner_tokens(tokenizer, REPOSITORY + "\n")]
    files: list[int] = []
    for file in extra:
        if separator is None:
            files += inner_tokens(tokenizer, f"{file.filename}\n{file.text}\n" if file.filename else file.text + "\n")
        else:
            files += [separator, *inner_tokens(tokenizer, f"{file.filename or CURRENT_FILE}\n{file.text}")]
    tail = [] if separator is None else [separator, *inner_tokens(tokenizer, CURRENT_FILE + "\n")]
    n = max(0, min(len(files), room - len(head) - len(tail)))
    if n == 0:
        return [], len(files)
    return [*head, *files[len(files) - n :], *tail], len(files) - n
