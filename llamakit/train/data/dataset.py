"""All samples of a run, to learn from and to validate on."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from llamakit.errors import DataError
from llamakit.train.data.files import digest_of, find_files
from llamakit.train.data.records import records_of
from llamakit.train.data.split import held_back
from llamakit.train.options import LEAST_TO_SPLIT
from llamakit.train.pack import Windows, pack, pieces
from llamakit.train.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llamakit.train.data.records import Record
    from llamakit.train.mask import Encoder
    from llamakit.train.options import TrainOptions
    from llamakit.train.pack import Keep
    from llamakit.train.samples import Sample

USUAL_CTX = 512


class Encoded(msgspec.Struct, frozen=True):
    """What became of one record: its samples, and a hash of their content."""

    record: Record
    samples: list[Sample]
    digest: bytes


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Samples to learn from and to validate on (none: nothing is validated).

    `digest`: SHA-256 of the bytes of all files, those for validation behind the others. `kinds`: records of each kind;
    `empty`: records with nothing to learn from; `duplicates`: records that are the same as an earlier one.
    """

    train: Samples
    validation: Samples
    digest: str
    files: list[str]
    kinds: dict[str, int]
    empty: int
    duplicates: int

    def samples_digest(self) -> str:
        """SHA-256 in hex of all samples, which depend on the tokenizer and the template too."""
        return hashlib.sha256((self.train.digest() + self.validation.digest()).encode()).hexdigest()

    def windows(self, options: TrainOptions, n_ctx: int) -> Windows:
        """The samples to learn from, packed as the options say. DataError if none of them fits."""
        return _some(_packed(self.train, options, n_ctx), self.train, "no sample")

    def validation_windows(self, options: TrainOptions, n_ctx: int) -> Windows:
        """The others; there may be none, but where the options name files for them: then DataError."""
        windows = _packed(self.validation, options, n_ctx)
        return _some(windows, self.validation, "no sample to validate on") if options.val_data else windows


def _some(windows: Windows, samples: Samples, none: str) -> Windows:
    """The windows, if there are any."""
    if len(windows):
        return windows
    longest, shortest = int(samples.lengths.max()) - 1, int(samples.lengths.min()) - 1
    raise DataError(
        f"{none} has an answer within its first {windows.n_ctx:,} tokens",
        found=f"samples of {shortest:,} to {longest:,} tokens",
        hint=f"--ctx {longest}, or --truncate start to cut their prompts",
        param="ctx",
    )


def _packed(samples: Samples, options: TrainOptions, n_ctx: int) -> Windows:
    return pack(samples, n_ctx, options.packing, seed=options.seed, keep=kept_end(options))


def kept_end(options: TrainOptions) -> Keep:
    """What stays of samples that are too long."""
    return "start" if options.truncate == "end" else "end"


def window_size(ctx: int, n_ctx_train: int) -> int:
    """Rows of a window: as asked, else 512 or the model's context if that is less."""
    return ctx or (min(USUAL_CTX, n_ctx_train) if n_ctx_train else USUAL_CTX)


def load_dataset(
    options: TrainOptions, encoder: Encoder, n_ctx: int, *, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Read and encode the data of the options. DataError names file and line of what cannot be used.

    `progress(bytes done, bytes in all)` is called on the way, without those for validation.
    """
    files = find_files(options.data)
    found = encode_files(files, options.kind, encoder, progress=progress)
    if not found:
        raise DataError(_nothing(options.data), found="no records: the files are empty", param="data")
    usable = [each for each in found if any(sample.loss_tokens for sample in each.samples)]
    if not usable:
        found_ = f"records: {len(found):,}, the first at {found[0].record.place}, none of them with an answer"
        raise DataError(_nothing(options.data), found=found_, hint=f"llamakit data check {files[0]}", param="data")
    if options.val_data:
        val_files = find_files(options.val_data)
        validation = encode_files(val_files, options.kind, encoder)
        train_samples = _samples(usable, options, n_ctx)
        val_samples = _samples(validation, options, n_ctx)
        if not any(sample.loss_tokens for sample in val_samples):
            raise DataError("there is nothing to validate on", found=", ".join(options.val_data), param="val_data")
    else:
        val_files = []
        train_samples, val_samples = split_samples(usable, options, n_ctx)
    return Dataset(
        train=Samples(train_samples), validation=Samples(val_samples), digest=digest_of([*files, *val_files]),
        files=[str(path) for path in files], kinds=dict(Counter(each.record.kind for each in found)),
        empty=len(found) - len(usable), duplicates=len(usable) - len({each.digest for each in usable}),
    )  # fmt: skip


def encode_files(
    files: Sequence[Path],
    kind: str,
    encoder: Encoder,
    *,
    bad: list[DataError] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Encoded]:
    """The records of files with their samples; what cannot be used is raised, or put into `bad`."""
    found = []
    sizes = [path.stat().st_size for path in files]
    for number, path in enumerate(files):
        for record in records_of(path, kind, bad=bad):
            if progress is not None:
                progress(sum(sizes[:number]) + round(record.place.share * sizes[number]), sum(sizes))
            try:
                samples = encoder.encode(record)
            except DataError as error:
                if bad is None:
                    raise
                bad.append(error)
                continue
            digest = hashlib.sha256(b"".join(sample.digest() for sample in samples)).digest()
            found.append(Encoded(record, samples, digest))
    return found


def split_samples(found: list[Encoded], options: TrainOptions, n_ctx: int) -> tuple[list[Sample], list[Sample]]:
    """Samples to learn from, and to validate on. Split by records; a few long texts are split by windows."""
    if len(found) >= LEAST_TO_SPLIT:
        back = held_back([each.digest for each in found], options.val_split)
        parts = ([each for i, each in enumerate(found) if (i in back) is wanted] for wanted in (False, True))
        train, validation = (_samples(part, options, n_ctx) for part in parts)
        return train, validation
    wrapped = options.packing == "wrapped"
    samples = _cut(found, n_ctx, overlap=0) if wrapped else _samples(found, options, n_ctx)
    back = held_back([sample.digest() for sample in samples], options.val_split)
    if not back:
        return _samples(found, options, n_ctx), []
    return [s for i, s in enumerate(samples) if i not in back], [s for i, s in enumerate(samples) if i in back]


def _samples(found: list[Encoded], options: TrainOptions, n_ctx: int) -> list[Sample]:
    """The samples; texts in pieces as long as a window, unless they are to be wrapped anyway."""
    if options.packing == "wrapped":
        return [sample for each in found for sample in each.samples]
    return _cut(found, n_ctx, overlap=1)


def _cut(found: list[Encoded], n_ctx: int, *, overlap: int) -> list[Sample]:
    samples: list[Sample] = []
    for each in found:
        long = each.record.kind == "text"
        samples += [p for s in each.samples for p in pieces(s, n_ctx, overlap=overlap)] if long else each.samples
    return samples


def _nothing(data: list[str]) -> str:
    return f"there is nothing to learn from in {', '.join(data) or 'no files'}"
