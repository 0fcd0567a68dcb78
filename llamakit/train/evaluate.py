"""How good a base and what was trained on it are at some data: loss, perplexity, bits per byte, texts side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from llamakit.tokenizer import Tokenizer
    from llamakit.train.pack import Windows
    from llamakit.train.stepper import Stepper


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """`loss`: mean over the tokens that count, in nats; `bits_per_byte`: of the text of those tokens."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int


def score(stepper: Stepper, windows: Windows, tokenizer: Tokenizer, batch: int) -> Score:
    """Of all windows, `batch` of them at a time."""
    losses, weights, tokens, n_bytes = [], [], 0, 0
    for start in range(0, len(windows), batch):
        rows = windows.batch(range(start, min(start + batch, len(windows))))
        losses.append(stepper.loss(rows))
        weights.append(rows.loss_weight)
        counting = rows.targets[rows.weights > 0].tolist()
        tokens += len(counting)
        n_bytes += sum(len(tokenizer.piece(token, special=False)) for token in counting)
    total, weight = math.fsum(losses), math.fsum(weights)
    mean = total / weight
    nats = mean * tokens  # of what counts, each token once
    return Score(
        loss=mean,
        perplexity=math.exp(min(mean, 700.0)),
        bits_per_byte=nats / math.log(2) / max(n_bytes, 1),
        tokens=tokens,
    )
