"""Perplexity: how surprised a model is by a text, exp of the mean negative log-likelihood of its tokens.

The text is cut into windows of one context, each starting with BOS where the model uses one; the second half of each
window is scored, so that every scored token has at least half a context before it (the convention of llama.cpp, which
makes numbers comparable). A text that is shorter than one context is scored whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from llamakit.engine.evaluate import Evaluator


class Perplexity(msgspec.Struct, frozen=True):
    """Result so far: `tokens` were scored; `error` is one standard error of `perplexity`."""

    perplexity: float
    error: float
    tokens: int
    window: int
    n_window: int


def windows(tokens: Sequence[int], n_ctx: int, bos: int | None) -> list[list[int]]:
    """Cut into whole windows of `n_ctx`, BOS in place of each one's first token; a short text is one window."""
    if len(tokens) < n_ctx:
        return [list(tokens)]
    cut = [list(tokens[i : i + n_ctx]) for i in range(0, len(tokens) - n_ctx + 1, n_ctx)]
    for window in cut:
        if bos is not None:
            window[0] = bos
    return cut


def measure(evaluator: Evaluator, tokens: Sequence[int], bos: int | None) -> Iterator[Perplexity]:
    """Score `tokens`, yielding the result after each window."""
    cut = windows(tokens, evaluator.n_ctx, bos)
    first = evaluator.n_ctx // 2 if len(cut[0]) == evaluator.n_ctx else 1
    if len(cut[0]) <= first:
        raise UsageError(f"perplexity needs at least {first + 1} tokens; this text has {len(cut[0])}")
    losses: list[npt.NDArray[np.float64]] = []
    for i, window in enumerate(cut):
        losses.append(_losses(evaluator, window, first))
        yield _summary(np.concatenate(losses), i + 1, len(cut))


def _losses(evaluator: Evaluator, window: list[int], first: int) -> npt.NDArray[np.float64]:
    """-log p of the tokens first..n-1 of a window, each from the logits after its predecessor."""
    found, position = [], 0
    for logits in evaluator.chunks(window[:-1]):
        targets = np.asarray(window[position + 1 : position + 1 + len(logits)])
        start = max(0, first - 1 - position)
        position += len(logits)
        if start < len(logits):
            found.append(_negative_log_likelihood(logits[start:], targets[start:]))
    return np.concatenate(found)


def _negative_log_likelihood(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    log_sum = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    result: npt.NDArray[np.float64] = log_sum - wide[np.arange(len(targets)), targets]
    return result


def _summary(losses: npt.NDArray[np.float64], window: int, n_window: int) -> Perplexity:
    n = len(losses)
    value = math.exp(losses.mean())
    error = value * float(losses.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return Perplexity(value, error, n, window, n_window)
