"""Samples, shuffling and windows as the training tools of 2023 made them, to the token.

    samples   without a pattern one starts at every token but the last n_ctx; with one, behind (or at) each occurrence
    order     one draw of std::mt19937 a sample, samples sorted by their draws; then one more a sample for its offset
    window    inputs begin with BOS; targets are the sample's tokens, then EOS to the end, or the next samples

Differences, on purpose: a pattern that does not occur cuts nothing off the beginning of its one sample, and a file
that is empty is an error instead of a warning.
Source: common/train.cpp of llama.cpp at 0e76a8992c (tokenize_file, shuffle_samples, get_example_targets_batch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llamakit.errors import UsageError
from llamakit.train.pack import Batch
from llamakit.train.tools_2023.checkpoint import Shuffle
from llamakit.train.tools_2023.mt19937 import MT19937

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

UTF8_LENGTH = (1,) * 12 + (2, 2, 3, 4)  # bytes of a character, by the upper half of its first
MASK = (1 << 64) - 1


class SampleOptions(msgspec.Struct, frozen=True, kw_only=True):
    """--sample-start and what goes with it."""

    start: bytes = b""
    include_start: bool = False
    overlapping: bool = False
    fill_with_next: bool = False
    separate_with_eos: bool = False
    separate_with_bos: bool = True
    random_offsets: bool = False


class CutSamples(msgspec.Struct, frozen=True):
    """All tokens (n,) int32, where each sample begins in them and how long it is, and what is to be said about them."""

    tokens: NDArray[np.int32]
    begins: NDArray[np.int64]
    sizes: NDArray[np.int64]
    warnings: list[str]

    def hash(self, filename: str) -> int:
        """What a checkpoint knows its data by: libstdc++'s hash of the name, and the counts, begins and sizes."""
        value = string_hash(filename.encode("utf-8", "surrogateescape")) ^ len(self.begins) << 1
        folded = np.bitwise_xor.reduce(self.begins.astype(np.uint64) ^ self.sizes.astype(np.uint64))
        return (value ^ int(folded) << 1) & MASK


def cut_samples(
    data: bytes,
    tokenize: Callable[[bytes], Sequence[int]],
    n_ctx: int,
    options: SampleOptions | None = None,
    *,
    longest_token: int = 1,
) -> CutSamples:
    """Cut a file into samples. `tokenize` adds no BOS; `longest_token`: bytes of the vocabulary's longest text."""
    options = options or SampleOptions()
    if not data:
        raise UsageError("the training data is empty", param="train_data")
    if options.start:
        return _by_pattern(data, tokenize, n_ctx, options, longest_token)
    tokens = np.asarray(tokenize(data), np.int32)
    if not len(tokens):
        raise UsageError("the training data has no tokens", param="train_data")
    begins = np.arange(max(1, len(tokens) - n_ctx), dtype=np.int64)
    sizes = np.full(len(begins), n_ctx, np.int64)
    sizes[0] = min(n_ctx, len(tokens))
    return CutSamples(tokens, begins, sizes, [])


def _by_pattern(
    data: bytes, tokenize: Callable[[bytes], Sequence[int]], n_ctx: int, options: SampleOptions, longest_token: int
) -> CutSamples:
    starts = _occurrences(data, options.start)
    skip = 0 if options.include_start or not starts else len(options.start)
    warnings = [] if starts else [f"the pattern {options.start!r} does not occur: the whole file is one sample"]
    starts = starts or [0]
    tokens: list[int] = []
    begins, sizes = [], []
    for number, start in enumerate(starts):
        begin = start + skip
        if options.overlapping:
            end = min(len(data), begin + longest_token * n_ctx)
        else:
            end = starts[number + 1] if number + 1 < len(starts) else len(data)
        text = data[begin : _character_end(data, end)]
        found = list(tokenize(text)) if text else []
        begins.append(len(tokens))
        sizes.append(len(found))
        tokens += found
    warnings += _about(np.array(sizes), n_ctx)
    if not tokens:
        raise UsageError("the training data has no tokens", param="train_data")
    return CutSamples(np.array(tokens, np.int32), np.array(begins, np.int64), np.array(sizes, np.int64), warnings)


def _occurrences(data: bytes, pattern: bytes) -> list[int]:
    """Where the pattern occurs, without overlaps."""
    found, at = [], data.find(pattern)
    while at >= 0:
        found.append(at)
        at = data.find(pattern, at + len(pattern))
    return found


def _character_end(data: bytes, end: int) -> int:
    """`end`, or if that is inside a character, where the next one begins."""
    first = max(0, end - 3)
    for start in range(end - 1, first - 1, -1):
        if data[start] & 0xC0 != 0x80:  # the first byte of the character before `end`
            length = UTF8_LENGTH[data[start] >> 4]
            return min(start + length, len(data)) if start + length > end else end
    return end


def _about(sizes: NDArray[np.int64], n_ctx: int) -> list[str]:
    """Counts of samples that are too long, too short, or empty."""
    full = sizes[sizes > 0]
    long, short, empty = int((full > n_ctx).sum()), int((full < n_ctx).sum()), len(sizes) - len(full)
    out = [f"{long} samples (up to {full.max()} tokens) are longer than {n_ctx} and are cut off"] if long else []
    out += [f"{short} samples (down to {full.min()} tokens) are shorter than {n_ctx}"] if short else []
    return out + ([f"{empty} samples are empty"] if empty else [])


class SampleStream:
    """Goes through samples in windows, epoch after epoch. `epochs` and `used` count from the start of the stream.

    `shuffle`: where a checkpoint was; it is gone back to if its samples are these, and otherwise an epoch is begun with
    `seed`. Take `state` before the next window to come back to it.
    """

    def __init__(
        self,
        samples: CutSamples,
        n_ctx: int,
        options: SampleOptions,
        *,
        bos: int,
        eos: int,
        n_vocab: int,
        seed: int = 0,
        filename: str = "",
        shuffle: Shuffle | None = None,
        force_reshuffle: bool = False,
    ) -> None:
        self.samples, self.n_ctx, self.options = samples, n_ctx, options
        self.bos, self.eos = bos, eos
        self.tokens = np.clip(samples.tokens, 0, n_vocab - 1)
        self.hash = samples.hash(filename)
        same = shuffle is not None and (shuffle.samples_hash, shuffle.sample_count) == (self.hash, len(samples.begins))
        self.resumed = shuffle is not None and same and not force_reshuffle
        self.epochs, self.used = 0, 0
        if shuffle is not None and self.resumed:
            self._begin(shuffle.rng_state, shuffle.next_sample)
        else:
            self._begin(MT19937(seed).text, 0)

    def _begin(self, rng_state: str, next_sample: int) -> None:
        """Put the samples into the order of a generator's state."""
        random, n, sizes = MT19937.from_text(rng_state), len(self.samples.begins), self.samples.sizes
        self.rng_state, self.next_sample = rng_state, next_sample
        self.order = np.argsort(random.draw(n), kind="stable")
        share = random.draw(n).astype(np.float64) / (0xFFFFFFFF - 1)
        self.offsets = (np.maximum(sizes[self.order] - 1, 0) * share).astype(np.int64)
        self._next_state = random.text

    @property
    def state(self) -> Shuffle:
        """Where the stream is, for a checkpoint."""
        return Shuffle(self.hash, self.rng_state, len(self.order), self.next_sample)

    def take(self, n_batch: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Inputs and targets of the next windows, (n_batch, n_ctx) each."""
        targets = np.empty((n_batch, self.n_ctx), np.int32)
        used = 0
        for row in targets:
            used += self._window(row, self.next_sample + used)
        inputs = np.concatenate([np.full((n_batch, 1), self.bos, np.int32), targets[:, :-1]], axis=1)
        self.used += used
        self.next_sample += used
        if self.next_sample >= len(self.order):  # windows may have used samples of this epoch again
            self.epochs += 1
            self._begin(self._next_state, 0)
        return inputs, targets

    def batch(self, n_batch: int) -> Batch:
        """The next windows as rows of a micro-step: every target counts."""
        inputs, targets = self.take(n_batch)
        positions = np.tile(np.arange(self.n_ctx, dtype=np.int32), n_batch)
        sequences = np.repeat(np.arange(n_batch, dtype=np.int32), self.n_ctx)
        return Batch(inputs.ravel(), targets.ravel(), np.ones(targets.size, np.float32), positions, sequences, n_batch)

    def _sample(self, number: int) -> tuple[NDArray[np.int32], int]:
        """The tokens of a sample by its place in the order, and its offset."""
        place = number % len(self.order)
        index = self.order[place]
        begin = self.samples.begins[index]
        return self.tokens[begin : begin + self.samples.sizes[index]], int(self.offsets[place])

    def _window(self, targets: NDArray[np.int32], number: int) -> int:
        """Fill one window from sample `number` on; how many samples it took."""
        options, used = self.options, 1
        sample, at = self._sample(number)
        at = at if options.random_offsets else 0
        separators = self._separators()
        for i in range(len(targets)):
            token = self.eos
            if at >= len(sample) and options.fill_with_next:
                if separators:
                    token = separators.pop(0)
                else:
                    sample, _ = self._sample(number + used)
                    at, used, separators = 0, used + 1, self._separators()
            if at < len(sample):
                token = sample[at]
                at += 1
            targets[i] = token
        return used

    def _separators(self) -> list[int]:
        """What stands between two samples of a window."""
        options = self.options
        return [self.eos] * options.separate_with_eos + [self.bos] * options.separate_with_bos


def string_hash(data: bytes) -> int:
    """`std::hash<std::string>` of libstdc++ on machines of 64 bits: MurmurHash64A (A. Appleby, public domain)."""
    multiplier, whole = 0xC6A4A7935BD1E995, len(data) & ~7

    def mix(value: int) -> int:
        return value ^ value >> 47

    value = (0xC70F6907 ^ len(data) * multiplier) & MASK
    for at in range(0, whole, 8):
        word = mix(int.from_bytes(data[at : at + 8], "little") * multiplier & MASK) * multiplier & MASK
        value = (value ^ word) * multiplier & MASK
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * multiplier & MASK
    return mix(mix(value) * multiplier & MASK)
