"""Samples into windows, windows into the rows of a micro-step.

A window has room for `n_ctx` rows. Each sample in it is a segment: its rows attend to one another only, and positions
start again at 0. The last token of a sample is a target but no row, since nothing is predicted from it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from llamakit.train.cursor import shuffled
from llamakit.train.samples import Sample, Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

BUFFER = 4096  # samples that are packed together: best fit needs a choice, and memory an end
PACKING_STREAM = (1 << 64) - 1  # of random numbers; epochs have the streams from 0

Mode = Literal["segments", "none", "wrapped"]
Keep = Literal["start", "end"]


class Batch(msgspec.Struct, frozen=True):
    """The rows of one micro-step, window after window; every array is (rows,).

    `tokens` int32: inputs. `targets` int32: the next token of the segment, -1 in rows of padding. `weights` float32:
    how much each target counts. `positions` int32: from 0 in each segment. `sequences` int32: number of the segment,
    from 0 to `n_sequence` - 1, rising.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    positions: NDArray[np.int32]
    sequences: NDArray[np.int32]
    n_sequence: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.tokens)

    @property
    def loss_weight(self) -> float:
        """Sum of the weights: what the summed loss of a step is divided by, over all its micro-steps."""
        return float(self.weights.sum(dtype=np.float64))

    @property
    def loss_tokens(self) -> int:
        """Targets that count."""
        return int(np.count_nonzero(self.weights))

    def padded(self, rows: int) -> Batch:
        """The same with rows behind it that count nothing, up to `rows`; they are one more segment."""
        more = rows - self.rows
        if more < 0:
            raise ValueError(f"{self.rows} rows do not fit into {rows}")
        if not more:
            return self
        return Batch(
            tokens=np.pad(self.tokens, (0, more)),
            targets=np.pad(self.targets, (0, more), constant_values=-1),
            weights=np.pad(self.weights, (0, more)),
            positions=np.concatenate([self.positions, np.arange(more, dtype=np.int32)]),
            sequences=np.pad(self.sequences, (0, more), constant_values=self.n_sequence),
            n_sequence=self.n_sequence + 1,
        )


class Windows:
    """Packed samples: window i holds the samples `contents(i)` of `samples`, all of which fit.

    `truncated`: samples that were cut; `lost_tokens`: what was cut off, in tokens that count. `dropped`: samples of
    which nothing that counts is left, so that no window has them.
    """

    def __init__(
        self,
        samples: Samples,
        n_ctx: int,
        contents: Iterable[Sequence[int]],
        *,
        truncated: int = 0,
        dropped: int = 0,
        lost_tokens: int = 0,
    ) -> None:
        self.samples, self.n_ctx = samples, n_ctx
        self._contents = [np.asarray(each, np.int64) for each in contents]
        self.truncated, self.dropped, self.lost_tokens = truncated, dropped, lost_tokens

    def __len__(self) -> int:
        return len(self._contents)

    def contents(self, index: int) -> NDArray[np.int64]:
        """Numbers of the samples in a window, in their order."""
        return self._contents[index]

    def batch(self, indices: Iterable[int]) -> Batch:
        """The rows of some windows, no padding: at most as many as windows times `n_ctx`."""
        return make_batch(self.samples[i] for index in indices for i in self._contents[index].tolist())

    def digest(self) -> str:
        """SHA-256 in hex of size, samples and which of them are where."""
        digest = hashlib.sha256(f"{self.n_ctx} {self.samples.digest()}".encode())
        digest.update(np.cumsum([0, *map(len, self._contents)], dtype="<i8").data)
        for each in self._contents:
            digest.update(each.astype("<i8").data)
        return digest.hexdigest()

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of each window, (n,); at most n_ctx."""
        rows = self.samples.lengths - 1
        return np.asarray([rows[each].sum() for each in self._contents], np.int64)

    def most_rows(self, batch: int) -> int:
        """Rows of any `batch` windows, at most."""
        return int(np.sort(self.rows)[-batch:].sum())

    @property
    def fill(self) -> float:
        """Share of the windows' room that is used."""
        return float(self.rows.sum()) / (len(self) * self.n_ctx) if len(self) else 0.0


def pack(samples: Samples, n_ctx: int, mode: Mode = "segments", *, seed: int = 0, keep: Keep = "start") -> Windows:
    """Put samples into windows of `n_ctx` rows: the same ones for the same samples, size, mode and seed.

    segments: several to a window, best fit of the longest first within a buffer of shuffled samples. none: each by
    itself. wrapped: one text of all, cut; every window is one segment. Nothing is lost by that; of what is too long the
    others keep the start or the end.
    """
    if n_ctx < 1:
        raise ValueError("a window needs rows")
    parts: Iterable[Sample] = _cut(samples, n_ctx) if mode == "wrapped" else samples
    fitted = [fit(each, n_ctx, keep) for each in parts]
    usable = Samples(each for each in fitted if each.loss_tokens)
    contents: Iterable[list[int]] = ([number] for number in range(len(usable)))
    if mode == "wrapped":
        return Windows(usable, n_ctx, contents)
    if mode == "segments":
        order = shuffled(len(usable), seed, PACKING_STREAM).tolist()
        contents = _best_fit(order, (usable.lengths - 1).tolist(), n_ctx)
    truncated = sum(len(_until_last(*each).tokens) > n_ctx + 1 for each in samples)
    return Windows(
        usable, n_ctx, contents, truncated=truncated, dropped=len(samples) - len(usable),
        lost_tokens=samples.loss_tokens - usable.loss_tokens,
    )  # fmt: skip


def fit(whole: Sample, n_ctx: int, keep: Keep = "start") -> Sample:
    """A sample cut to what a window holds, without the tokens behind the last that counts: nothing depends on them.

    With `keep` "end" the first token stays too, since it is the one that begins every text.
    """
    tokens, weights = _until_last(whole.tokens, whole.weights)
    over = len(tokens) - (n_ctx + 1)
    if over > 0 and keep == "end":
        tokens, weights = (np.concatenate([each[:1], each[1 + over :]]) for each in (tokens, weights))
    return Sample(*_until_last(tokens[: n_ctx + 1], weights[: n_ctx + 1]))


def _until_last(tokens: NDArray[np.int32], weights: NDArray[np.float32]) -> Sample:
    counting = np.flatnonzero(weights[1:])
    end = int(counting[-1]) + 2 if len(counting) else 0
    return Sample(tokens[:end], weights[:end])


def make_batch(samples: Iterable[Sample]) -> Batch:
    """The rows of samples one behind the other, each a segment."""
    parts = [each for each in samples if each.n_row]
    counts = [each.n_row for each in parts]
    if not parts:
        raise ValueError("no sample has a token to predict")
    return Batch(
        tokens=np.concatenate([each.tokens[:-1] for each in parts]),
        targets=np.concatenate([each.tokens[1:] for each in parts]),
        weights=np.concatenate([each.weights[1:] for each in parts]),
        positions=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        sequences=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        n_sequence=len(parts),
    )


def _best_fit(order: list[int], rows: list[int], n_ctx: int) -> Iterator[list[int]]:
    """Buffer by buffer: longest first, each into the window with the least room that is enough."""
    for start in range(0, len(order), BUFFER):
        windows: list[list[int]] = []
        room: list[tuple[int, int]] = []  # (rows free, number of the window), sorted
        for number in sorted(order[start : start + BUFFER], key=lambda number: -rows[number]):
            at = bisect_left(room, (rows[number], -1))
            if at == len(room):
                windows.append([])
                free, window = n_ctx, len(windows) - 1
            else:
                free, window = room.pop(at)
            windows[window].append(number)
            if free > rows[number]:
                insort(room, (free - rows[number], window))
        yield from windows


def _cut(samples: Samples, n_ctx: int) -> Iterator[Sample]:
    """All samples as one, in pieces of n_ctx + 1 tokens of which the last is the first of the next piece."""
    if not len(samples):
        return
    tokens = np.concatenate([each.tokens for each in samples])
    weights = np.concatenate([each.weights for each in samples])
    yield from pieces(Sample(tokens, weights), n_ctx)


def pieces(whole: Sample, n_ctx: int, *, overlap: int = 1) -> Iterator[Sample]:
    """A sample in pieces of n_ctx + `overlap` tokens.

    With an overlap of 1 they fit into windows, and each token but the first is a target once; with 0 they make the
    sample again when they are put together.
    """
    for start in range(0, max(1, len(whole.tokens) - overlap), n_ctx):
        part = slice(start, start + n_ctx + overlap)
        yield Sample(whole.tokens[part], whole.weights[part])
