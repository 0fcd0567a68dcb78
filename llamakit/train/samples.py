"""Samples: what a model learns from, as tokens with the weight of each in the loss."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray


class Sample(NamedTuple):
    """One sequence: `tokens` (n,) int32; `weights` (n,) float32, how much predicting each token counts.

    The first token is predicted from nothing, so its weight has no effect.
    """

    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def n_row(self) -> int:
        """Rows that it takes in a window: every token but the last is an input."""
        return max(0, len(self.tokens) - 1)

    @property
    def loss_tokens(self) -> int:
        """Tokens that count."""
        return int(np.count_nonzero(self.weights[1:]))

    def digest(self) -> bytes:
        """A hash of the content."""
        return hashlib.sha256(self.tokens.tobytes() + b"|" + self.weights.tobytes()).digest()


def sample(tokens: Sequence[int] | NDArray[np.int32], weights: Sequence[float] | NDArray[np.float32]) -> Sample:
    """A sample from any sequences of one length."""
    return Sample(np.asarray(tokens, np.int32), np.asarray(weights, np.float32))


class Samples:
    """Many samples in three arrays, since a million small ones would take several times their memory."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        tokens, weights, ends = [], [], [0]
        for each in samples:
            tokens.append(each.tokens)
            weights.append(each.weights)
            ends.append(ends[-1] + len(each.tokens))
        self._tokens: NDArray[np.int32] = np.concatenate([np.zeros(0, np.int32), *tokens])
        self._weights: NDArray[np.float32] = np.concatenate([np.zeros(0, np.float32), *weights])
        self._ends: NDArray[np.int64] = np.asarray(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = slice(self._ends[index], self._ends[index + 1])
        return Sample(self._tokens[part], self._weights[part])

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def digest(self) -> str:
        """SHA-256 of the content, in hex, with the order and the bounds of the samples."""
        digest = hashlib.sha256(self._ends.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self._tokens, "<i4").data)
        digest.update(np.ascontiguousarray(self._weights, "<f4").data)
        return digest.hexdigest()

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each, (n,)."""
        lengths: NDArray[np.int64] = np.diff(self._ends)
        return lengths

    @property
    def loss_tokens(self) -> int:
        """Tokens that count, of all."""
        first = self._ends[:-1][self.lengths > 0]
        return int(np.count_nonzero(self._weights)) - int(np.count_nonzero(self._weights[first]))
