"""Adapters merged into a model, tensor by tensor, some rows at a time: a base of any size needs little memory.

    W' = W + sum of S * scale * B A           in the order given, rounded once to the type that is written
    W' = m (W + S * scale * B A) / |row|      DoRA (arXiv:2402.09353), |row|: norm of each row of the sum

What rounding to the type costs is measured while writing, and reported per kind of tensor beside the change itself:
a small change to a coarse type may not survive.
"""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llamakit.bounded_json import short
from llamakit.errors import LONGEST_NAME, ModelFileError, UsageError
from llamakit.gguf.atomic import refuse_to_replace
from llamakit.gguf.constants import GGMLType, ValueType
from llamakit.gguf.native import dequantize, quantize
from llamakit.gguf.quantize import choose_type, copy_metadata, find_recipe, fit
from llamakit.gguf.quants import check_writable
from llamakit.gguf.reader import GGUFFile, TensorInfo, open_gguf, text_of
from llamakit.gguf.writer import GGUFWriter
from llamakit.lora.files import AdapterFile, adapter_paths, read_adapter_file
from llamakit.models.lora import Pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VALUES_AT_ONCE = 1 << 20  # of a tensor, on each thread
PIECES_AT_ONCE = 16  # in memory


class KindReport(msgspec.Struct, frozen=True):
    """What merging did to tensors of one kind and type. Errors are root mean squares, relative to what they name."""

    kind: str
    type: str
    tensors: int
    change: float  # of the weights: how much the adapters change
    error_of_change: float  # what rounding cost, as a share of the change
    error_of_weights: float

    def line(self) -> str:
        """For people."""
        return (
            f"  {self.kind:<12} {self.tensors:>4} {self.type:<7} changed by {self.change:.2%} of the weights,"
            f" error {self.error_of_change:.2g} of the change"
        )


class MergeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written. `kinds`: those that adapters changed."""

    base: str
    destination: str
    adapters: list[tuple[str, float]]
    changed: int
    bytes_after: int
    kinds: list[KindReport]
    fallbacks: list[str]

    def lines(self) -> list[str]:
        """For people."""
        out = [f"{self.destination}: {self.bytes_after / 2**20:.1f} MiB; {self.changed} tensors changed"]
        return out + [kind.line() for kind in self.kinds] + [f"  {text}" for text in self.fallbacks]


@dataclass
class _Sums:
    """Sums of squares over the tensors of one kind: of weights, changes and rounding errors."""

    squares: Any = None
    tensors: int = 0

    def add(self, squares: Any) -> None:
        """Those of more rows."""
        self.squares = squares if self.squares is None else self.squares + squares

    def report(self, kind: str, type: str) -> KindReport:
        """As shares."""
        weights, change, error = (math.sqrt(each) for each in self.squares)

        def share(part: float, of: float) -> float:
            return part / of if of else 0.0

        return KindReport(kind, type, self.tensors, share(change, weights), share(error, change), share(error, weights))


@dataclass(frozen=True)
class Change:
    """What one adapter does to one tensor: `factor` B A, or `factor` times a norm's own `delta` (n,)."""

    factor: float
    A: Any = None
    B: Any = None
    magnitude: Any = None
    delta: Any = None

    def apply(self, rows: Any, begin: int, end: int) -> Any:
        """Rows [begin, end) of the tensor, changed, in the precision that they have."""
        if self.delta is not None:
            return rows + (self.factor * self.delta).astype(rows.dtype)
        scaled = (self.factor * self.B[begin:end].astype(np.float64)).astype(rows.dtype)
        out = scaled @ self.A.astype(rows.dtype)
        out += rows
        if self.magnitude is None:
            return out
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        return out * (self.magnitude[begin:end, None] / np.where(norms > 0, norms, 1.0))


def merge_adapters(
    base: str | Path,
    destination: str | Path,
    adapters: Sequence[tuple[str | Path, float]],
    *,
    type_name: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    chosen: bool = True,
) -> MergeReport:
    """Write `base` with `adapters`, (file or PEFT folder, scale), merged into it, in the order given.

    Every tensor keeps its type unless `type_name` (such as F16 or Q4_K_M) is given for all of them. `progress(bytes
    done, in all)`. Unless the base was `chosen` by whoever merges, adapters that name another one are refused.
    The file appears whole or not at all. Raises UsageError and ModelFileError.
    """
    base, destination = Path(base), Path(destination)
    if not adapters:
        raise UsageError("no adapter to merge", hint="-l FILE, or -s FILE SCALE")
    for path, scale in adapters:
        if not math.isfinite(scale):
            raise UsageError(f"the scale of {path} is {scale}; a number is needed")
        if not Path(path).exists():
            raise ModelFileError(f"no adapter {path}")
    for path, _ in adapters:
        refuse_to_replace(destination, adapter_paths(path), "an adapter")
    with open_gguf(base) as file:
        refuse_to_replace(destination, file.paths, "the base")
        changes: dict[str, list[Change]] = {}
        for path, scale in adapters:
            adapter = read_adapter_file(path, file)
            if not chosen:
                _check_name(adapter, file)
            for name, change in _changes(adapter, file, scale).items():
                changes.setdefault(name, []).append(change)
        shown = [(str(path), float(scale)) for path, scale in adapters]
        return _Merger(file, destination, changes, type_name, threads, progress).run(shown)


def _check_name(adapter: AdapterFile, base: GGUFFile) -> None:
    """That the adapter is not for a model of another name, which may well have tensors of the same sizes."""
    found = text_of(base.metadata, "general.name")
    if adapter.base_name and adapter.base_name != found:
        wanted, found = (short(name, LONGEST_NAME) for name in (adapter.base_name, found))
        raise UsageError(
            f"{adapter.path} is for another model than the one that is used where none is named",
            found=f"it is for {wanted!r}; {base.path} is {found!r}",
            hint="name the base model: -m BASE.gguf",
            param="model",
        )


def _changes(adapter: AdapterFile, base: GGUFFile, scale: float) -> dict[str, Change]:
    """By tensor, once all of them are known to fit the base."""
    architecture = text_of(base.metadata, "general.architecture")
    if adapter.layout.architecture != architecture:
        raise ModelFileError(
            f"{adapter.path} is for architecture {adapter.layout.architecture!r}, {base.path} is {architecture!r}"
        )
    pairs = Pairs(adapter.path, {name: info.shape for name, info in base.tensors.items() if len(info.shape) <= 2})
    found = {}
    for name, each in adapter.tensors.items():
        pairs.add(name, each.A, each.B, each.scale)
        fitted = pairs.made[name]
        found[name] = Change(
            scale * fitted.scale, fitted.A, fitted.B, adapter.magnitudes.get(name),
            delta=fitted.B.astype(np.float64) if fitted.A is None else None,
        )  # fmt: skip
    for name, values in adapter.norms.items():
        if pairs.shape(name) != values.shape:
            raise pairs.wrong(name, f"it is {values.shape}, the model's tensor is {pairs.shape(name)}")
        pairs.check_values(name, "it", values, 1.0)
        found[name] = Change(scale, delta=values.astype(np.float64) - base.tensor(name))
    if not found:
        raise ModelFileError(f"{adapter.path} holds no adapters of tensors")
    return found


class _Merger:
    """Writes one file."""

    def __init__(
        self,
        file: GGUFFile,
        destination: Path,
        changes: dict[str, list[Change]],
        type_name: str | None,
        threads: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.file, self.destination, self.changes, self.progress = file, destination, changes, progress
        self.recipe = None if type_name is None else find_recipe(type_name)
        self.tied = "output.weight" not in file.tensors
        blocks = [int(match[1]) for name in file.tensors if (match := re.match(r"blk\.(\d+)\.", name))]
        self.n_layer = 1 + max(blocks, default=0)
        self.pool = ThreadPoolExecutor(threads)
        self.sums: dict[tuple[str, str], _Sums] = {}
        self.fallbacks: list[str] = []
        self.done, self.total = 0, sum(info.n_bytes for info in file.tensors.values())

    def run(self, adapters: list[tuple[str, float]]) -> MergeReport:
        """All of it."""
        with self.pool, GGUFWriter(self.destination, self.file.alignment, source=self.file) as writer:
            copy_metadata(self.file, writer)
            if self.recipe is not None:
                writer.add("general.file_type", self.recipe.file_type, ValueType.UINT32)
                writer.add("general.quantization_version", 2, ValueType.UINT32)
            for info in self.file.tensors.values():
                type_ = self.type_of(info)
                writer.add_tensor(info.name, self.maker(info, type_), type_, info.shape)
        kinds = [sums.report(*key) for key, sums in self.sums.items()]
        return MergeReport(
            base=str(self.file.path), destination=str(self.destination), adapters=adapters, changed=len(self.changes),
            bytes_after=self.destination.stat().st_size, kinds=kinds, fallbacks=self.fallbacks,
        )  # fmt: skip

    def type_of(self, info: TensorInfo) -> GGMLType:
        """What a tensor is written in."""
        if self.recipe is None:
            if info.name in self.changes:
                self._check_writable(info)
            return info.type
        wanted = choose_type(info, self.recipe, self.n_layer, self.tied)
        given = fit(wanted, info.shape[-1])
        if given != wanted:
            text = f"{info.name}: rows of {info.shape[-1]} do not fit {wanted.name}, written as {given.name}"
            self.fallbacks.append(text)
        return given

    def _check_writable(self, info: TensorInfo) -> None:
        try:
            check_writable(info.type)
        except UsageError as error:
            raise UsageError(
                f"{info.name} is {info.type.name}, which is read but not written: {error.message}",
                hint="name a type for the merged model: --type F16",
            ) from None

    def maker(self, info: TensorInfo, type: GGMLType) -> Callable[[], Iterator[Any]]:
        """What makes a tensor's bytes, piece by piece, when it is its turn."""

        def make() -> Iterator[Any]:
            n_row = math.prod(info.shape[:-1])
            step = max(1, VALUES_AT_ONCE // info.shape[-1])
            spans = [(begin, min(begin + step, n_row)) for begin in range(0, n_row, step)]
            for first in range(0, len(spans), PIECES_AT_ONCE):
                part = spans[first : first + PIECES_AT_ONCE]
                for made, squares in self.pool.map(lambda span: self.rows(info, type, *span), part):
                    if squares is not None:
                        self.sums_of(info, type).add(squares)
                    yield made
                size = info.type.n_bytes(info.shape[-1])
                self.file.release(info.name, part[0][0] * size, part[-1][1] * size)
            self.finish(info, type)

        return make

    def rows(self, info: TensorInfo, type: GGMLType, begin: int, end: int) -> tuple[Any, Any]:
        """The bytes of rows [begin, end) in the type that is written, and sums of squares if they change."""
        size = info.type.n_bytes(info.shape[-1])
        raw = self.file.raw(info.name)[begin * size : end * size]
        changes, shape = self.changes.get(info.name), (end - begin, info.shape[-1])
        if changes is None:
            return raw if type == info.type else quantize(type, dequantize(info.type, raw, shape)), None
        old = dequantize(info.type, raw, shape)
        # Only F32 can show more than float32 sums have.
        exact = old.astype(np.float64 if type == GGMLType.F32 else np.float32)
        for change in changes:
            exact = change.apply(exact, begin, end)
        made = quantize(type, exact.astype(np.float32, copy=False))
        error = dequantize(type, made, shape)
        np.subtract(exact, error, out=error, casting="same_kind")
        np.subtract(exact, old, out=old, casting="same_kind")
        flat = (np.ravel(each) for each in (exact, old, error))
        return made, np.array([float(np.dot(each, each)) for each in flat])

    def sums_of(self, info: TensorInfo, type: GGMLType) -> _Sums:
        """Those of the tensor's kind."""
        kind = info.name.removesuffix(".weight").rpartition(".")[2]
        return self.sums.setdefault((kind, type.name), _Sums())

    def finish(self, info: TensorInfo, type: GGMLType) -> None:
        """Count a tensor that is written."""
        self.done += info.n_bytes
        if info.name in self.changes:
            self.sums_of(info, type).tensors += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
