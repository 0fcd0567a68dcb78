"""A look at data before a run: what it is, how long, how much of it counts, what would be lost, what is there twice."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llamakit.tokenizer.detokenizer import PieceJoiner
from llamakit.train.cursor import shuffled
from llamakit.train.data.dataset import encode_files, kept_end, split_samples
from llamakit.train.data.files import digest_of, find_files
from llamakit.train.pack import pack
from llamakit.train.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llamakit.errors import DataError
    from llamakit.tokenizer import Tokenizer
    from llamakit.train.data.dataset import Encoded
    from llamakit.train.mask import Encoder
    from llamakit.train.options import TrainOptions
    from llamakit.train.samples import Sample

MOST_BINS = 12
MOST_SHOWN = 2048  # tokens of the beginning and of the end of a sample that is shown
PERCENTILES = (0, 5, 50, 95, 100)


class Run(msgspec.Struct, frozen=True):
    """Text of a sample whose tokens all count, or none."""

    text: str
    loss: bool


class Shown(msgspec.Struct, frozen=True):
    """A sample as it is learned from, and where its record stands."""

    place: str
    tokens: int
    loss_tokens: int
    runs: list[Run]


class Bin(msgspec.Struct, frozen=True):
    """How many samples have `low` to `high` tokens."""

    low: int
    high: int
    count: int


class DataCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `bad`: what cannot be read, in words; `empty`: records with nothing to learn from;
    `masked`: share of the tokens that do not count; `truncated`, `dropped`, `lost_tokens`: see `pack.Windows`;
    `fill`: share of the windows that is used; `duplicates`: records that are the same as an earlier one.
    """

    files: list[str]
    digest: str
    kinds: dict[str, int]
    records: int
    bad: list[str]
    empty: int
    duplicates: int
    duplicate_places: list[tuple[str, str]]
    samples: int
    validation: int
    tokens: int
    loss_tokens: int
    masked: float
    lengths: dict[str, int]
    histogram: list[Bin]
    ctx: int
    truncated: int
    dropped: int
    lost_tokens: int
    windows: int
    fill: float
    shown: list[Shown]

    @property
    def usable(self) -> bool:
        """Whether all of it can be read, and there is something to learn from."""
        return not self.bad and self.windows > 0


def check_data(
    options: TrainOptions,
    encoder: Encoder,
    n_ctx: int,
    *,
    show: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> DataCheck:
    """Read all data of the options as a run would, but go on where something is wrong; `progress` as there."""
    bad: list[DataError] = []
    files = find_files(options.data)
    found = encode_files(files, options.kind, encoder, bad=bad, progress=progress)
    usable = [each for each in found if any(sample.loss_tokens for sample in each.samples)]
    samples = Samples(sample for each in usable for sample in each.samples)
    train, validation = split_samples(usable, options, n_ctx)
    windows = pack(Samples(train), n_ctx, options.packing, seed=options.seed, keep=kept_end(options))
    places = duplicates(usable)
    tokens, loss_tokens = int(samples.lengths.sum()), samples.loss_tokens
    return DataCheck(
        files=[str(path) for path in files], digest=digest_of(files),
        kinds=dict(Counter(each.record.kind for each in found)), records=len(found) + len(bad),
        bad=[str(error) for error in bad], empty=len(found) - len(usable),
        duplicates=len(places), duplicate_places=places[:3],
        samples=len(samples), validation=len(validation), tokens=tokens, loss_tokens=loss_tokens,
        masked=1 - loss_tokens / tokens if tokens else 0.0,
        lengths=percentiles(samples.lengths), histogram=histogram(samples.lengths),
        ctx=n_ctx, truncated=windows.truncated, dropped=windows.dropped, lost_tokens=windows.lost_tokens,
        windows=len(windows), fill=windows.fill, shown=chosen(usable, encoder.tokenizer, show, options.seed),
    )  # fmt: skip


def duplicates(found: Sequence[Encoded]) -> list[tuple[str, str]]:
    """The places of records that are the same as an earlier one, and of that one."""
    first: dict[bytes, str] = {}
    pairs = []
    for each in found:
        place = str(each.record.place)
        earlier = first.setdefault(each.digest, place)
        if earlier != place:
            pairs.append((place, earlier))
    return pairs


def percentiles(lengths: Sequence[int] | np.ndarray) -> dict[str, int]:
    """Lengths by percentile: "0" is the shortest, "50" the median, "100" the longest; nothing of nothing."""
    if not len(lengths):
        return {}
    values = np.percentile(lengths, PERCENTILES, method="lower")
    return {str(p): int(value) for p, value in zip(PERCENTILES, values, strict=True)}


def histogram(lengths: Sequence[int] | np.ndarray) -> list[Bin]:
    """Counts in at most 12 bins of one round width."""
    if not len(lengths):
        return []
    longest = int(np.max(lengths))
    width = round_width(longest / MOST_BINS)
    counts = np.bincount((np.maximum(np.asarray(lengths), 1) - 1) // width)
    return [Bin(width * i + 1, width * (i + 1), int(count)) for i, count in enumerate(counts)]


def round_width(least: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    width = 1
    while True:
        for step in (1, 2, 5):
            if width * step >= least:
                return width * step
        width *= 10


def chosen(found: Sequence[Encoded], tokenizer: Tokenizer, count: int, seed: int) -> list[Shown]:
    """Some samples, the same ones for the same data and seed, in the order of the data."""
    numbers = sorted(shuffled(len(found), seed, 0)[:count].tolist()) if found else []
    return [
        Shown(str(found[i].record.place), len(each.tokens), each.loss_tokens, runs(each, tokenizer))
        for i in numbers
        for each in found[i].samples[:1]
    ]


def runs(sample: Sample, tokenizer: Tokenizer) -> list[Run]:
    """A sample's text, cut where it begins or ends to count. The first token never counts.

    Of a very long one the middle is left out, which is said in its place.
    """
    counting = sample.weights > 0
    counting[:1] = False
    if (over := len(counting) - 2 * MOST_SHOWN) > 0:
        ends = (slice(None, MOST_SHOWN), slice(-MOST_SHOWN, None))
        head, tail = (_runs(sample.tokens[end], counting[end], tokenizer) for end in ends)
        return [*head, Run(f"\n[{over:,} tokens that are not shown]\n", loss=False), *tail]
    return _runs(sample.tokens, counting, tokenizer)


def _runs(tokens: NDArray[np.int32], counting: NDArray[np.bool_], tokenizer: Tokenizer) -> list[Run]:
    joiner = PieceJoiner(tokenizer, special=True)
    pieces = [joiner.push(token) for token in tokens.tolist()]
    edges = [0, *(np.flatnonzero(np.diff(counting)) + 1).tolist(), len(counting)]
    return [
        Run(b"".join(pieces[start:end]).decode("utf-8", "replace"), bool(counting[start]))
        for start, end in pairwise(edges)
        if start < end
    ]
