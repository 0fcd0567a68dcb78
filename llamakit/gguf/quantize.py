"""Quantising a whole file: which tensor gets which type, and writing the result.

Matrices get the type that was asked for; vectors (norms, biases) stay float32. A row that the type cannot divide
into whole blocks gets a type that fits, and is listed. The mixtures (`_S`, `_M`, `_L`) give the tensors that matter
most, as in llama.cpp, more bits: half of the layers' `attn_v` and `ffn_down`, and the output.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llamakit.errors import UsageError
from llamakit.gguf.atomic import refuse_to_replace
from llamakit.gguf.constants import GGMLType, ValueType
from llamakit.gguf.native import dequantize, quantize
from llamakit.gguf.reader import GGUFFile, open_gguf
from llamakit.gguf.writer import GGUFWriter
from llamakit.options import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from llamakit.gguf.reader import TensorInfo

T = GGMLType


class Recipe(msgspec.Struct, frozen=True):
    """A target: the types of most matrices, of the more important ones, of the output; GGUF's number for the mix."""

    base: GGMLType
    file_type: int
    more: GGMLType | None = None  # attn_v and ffn_down of half of the layers
    always: GGMLType | None = None  # attn_v, attn_output and ffn_down of every layer
    output: GGMLType | None = None
    embedding: GGMLType | None = None  # where it is not the output too


RECIPES: dict[str, Recipe] = {
    "F32": Recipe(T.F32, 0),
    "F16": Recipe(T.F16, 1),
    "BF16": Recipe(T.BF16, 32),
    "Q4_0": Recipe(T.Q4_0, 2, output=T.Q6_K),
    "Q4_1": Recipe(T.Q4_1, 3, output=T.Q6_K),
    "Q5_0": Recipe(T.Q5_0, 8, output=T.Q6_K),
    "Q5_1": Recipe(T.Q5_1, 9, output=T.Q6_K),
    "Q8_0": Recipe(T.Q8_0, 7),
    "Q2_K": Recipe(T.Q2_K, 10, always=T.Q3_K, output=T.Q6_K),
    "Q3_K_S": Recipe(T.Q3_K, 11, output=T.Q6_K),
    "Q3_K_M": Recipe(T.Q3_K, 12, always=T.Q4_K, output=T.Q6_K),
    "Q3_K_L": Recipe(T.Q3_K, 13, always=T.Q5_K, output=T.Q6_K),
    "Q4_K_S": Recipe(T.Q4_K, 14, output=T.Q6_K),
    "Q4_K_M": Recipe(T.Q4_K, 15, more=T.Q6_K, output=T.Q6_K),
    "Q5_K_S": Recipe(T.Q5_K, 16, output=T.Q6_K),
    "Q5_K_M": Recipe(T.Q5_K, 17, more=T.Q6_K, output=T.Q6_K),
    "Q6_K": Recipe(T.Q6_K, 18),
    "IQ4_NL": Recipe(T.IQ4_NL, 25, output=T.Q6_K),
    "IQ4_XS": Recipe(T.IQ4_XS, 30, output=T.Q6_K),
    "MXFP4": Recipe(T.MXFP4, 38, output=T.Q8_0),
    "TQ1_0": Recipe(T.TQ1_0, 36, output=T.Q6_K, embedding=T.Q4_K),  # for weights that were trained to be ternary
    "TQ2_0": Recipe(T.TQ2_0, 37, output=T.Q6_K, embedding=T.Q4_K),
    "Q8_K": Recipe(T.Q8_K, 1024),  # no number of its own: nobody else writes whole files of it
}
RECIPES |= {"Q3_K": RECIPES["Q3_K_M"], "Q4_K": RECIPES["Q4_K_M"], "Q5_K": RECIPES["Q5_K_M"]}

KEPT = ("norm.weight", "ffn_gate_inp.weight")  # are few, and choose or scale what all others do

# What to try, in order, when a row is not a multiple of a type's block.
FITTING: dict[GGMLType, tuple[GGMLType, ...]] = {
    T.Q2_K: (T.Q4_0,), T.Q3_K: (T.Q4_0,), T.Q4_K: (T.Q5_0,), T.Q5_K: (T.Q5_1,), T.Q6_K: (T.Q8_0,), T.Q8_K: (T.Q8_0,),
    T.IQ4_XS: (T.IQ4_NL,), T.TQ1_0: (T.Q4_0,), T.TQ2_0: (T.Q4_0,),
}  # fmt: skip


class Fallback(msgspec.Struct, frozen=True):
    """A tensor that could not have the type meant for it."""

    tensor: str
    row: int
    wanted: str
    given: str


class QuantizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written. Sizes in bytes."""

    source: str
    destination: str
    type: str
    bytes_before: int
    bytes_after: int
    tensors: dict[str, int]  # type -> how many
    fallbacks: list[Fallback]

    def lines(self) -> list[str]:
        """For people."""
        kinds = ", ".join(f"{n} {name}" for name, n in self.tensors.items())
        ratio = self.bytes_after / self.bytes_before
        out = [f"{self.destination}: {self.bytes_after / 2**20:.1f} MiB, {ratio:.0%} of the source; {kinds}"]
        out += [f"  {f.tensor}: rows of {f.row} do not fit {f.wanted}, written as {f.given}" for f in self.fallbacks]
        return out


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`, in any case."""
    recipe = RECIPES.get(name.upper())
    if recipe is None:
        found = nearest(name.upper(), RECIPES)
        raise UsageError(f"no tensor type {name!r}", found=found, hint=f"one of {' '.join(RECIPES)}", param="type")
    return recipe


def choose_type(info: TensorInfo, recipe: Recipe, n_layer: int, tied: bool) -> GGMLType:
    """The type meant for a tensor, before it is checked against its rows."""
    if len(info.shape) < 2 or not info.name.endswith(".weight") or info.name.endswith(KEPT):
        return T.F32
    if recipe.output is not None and (info.name == "output.weight" or (tied and info.name == "token_embd.weight")):
        return recipe.output
    if recipe.embedding is not None and info.name == "token_embd.weight":
        return recipe.embedding
    match = re.match(r"blk\.(\d+)\.(attn_v|attn_output|ffn_down)(?:_exps)?\.", info.name)
    if match is None:
        return recipe.base
    if recipe.always is not None:
        return recipe.always
    if recipe.more is not None and match[2] != "attn_output" and _matters(int(match[1]), n_layer):
        return recipe.more
    return recipe.base


def _matters(layer: int, n_layer: int) -> bool:
    """The first and last eighth of the layers, and every third between: about half in all."""
    return layer < n_layer // 8 or layer >= 7 * n_layer // 8 or (layer - n_layer // 8) % 3 == 2


def fit(type: GGMLType, row: int) -> GGMLType:
    """`type`, or what fits rows of `row` values instead; F16 fits always."""
    for candidate in (type, *FITTING.get(type, ())):
        if row % candidate.block_size == 0:
            return candidate
    return T.F16


def quantize_file(
    source: str | Path, destination: str | Path, type_name: str, progress: Callable[[int, int], None] | None = None
) -> QuantizeReport:
    """Write `source` as `destination` with its matrices in `type_name`; `progress(bytes done, bytes in all)`."""
    recipe = find_recipe(type_name)
    source, destination = Path(source), Path(destination)
    with open_gguf(source) as file:
        refuse_to_replace(destination, file.paths, "the source")
        return _quantize(file, destination, recipe, type_name.upper(), progress)


def _quantize(
    file: GGUFFile, destination: Path, recipe: Recipe, name: str, progress: Callable[[int, int], None] | None
) -> QuantizeReport:
    total, done = sum(info.n_bytes for info in file.tensors.values()), 0
    fallbacks: list[Fallback] = []
    counts: dict[str, int] = {}
    tied = "output.weight" not in file.tensors
    n_layer = 1 + max((int(m[1]) for key in file.tensors if (m := re.match(r"blk\.(\d+)\.", key))), default=0)

    def encoder(info: TensorInfo, type: GGMLType) -> Callable[[], npt.NDArray[np.uint8]]:
        def encode() -> npt.NDArray[np.uint8]:
            nonlocal done
            data = _convert(file, info, type, pool)
            done += info.n_bytes
            if progress is not None:
                progress(done, total)
            return data

        return encode

    with ThreadPoolExecutor() as pool, GGUFWriter(destination, file.alignment, source=file) as writer:
        copy_metadata(file, writer)
        writer.add("general.file_type", recipe.file_type, ValueType.UINT32)
        writer.add("general.quantization_version", 2, ValueType.UINT32)
        for info in file.tensors.values():
            wanted = choose_type(info, recipe, n_layer, tied)
            given = fit(wanted, info.shape[-1])
            if given != wanted:
                fallbacks.append(Fallback(info.name, info.shape[-1], wanted.name, given.name))
            counts[given.name] = counts.get(given.name, 0) + 1
            writer.add_tensor(info.name, encoder(info, given), given, info.shape)
    return QuantizeReport(
        source=str(file.path), destination=str(destination), type=name, bytes_before=file.n_bytes,
        bytes_after=destination.stat().st_size, tensors=counts, fallbacks=fallbacks,
    )  # fmt: skip


def copy_metadata(file: GGUFFile, writer: GGUFWriter) -> None:
    """All metadata with its types, but for what belongs to the split of the source."""
    for key in file.metadata:
        if key != "general.alignment" and not key.startswith("split."):
            copy_key(file, writer, key)


def copy_key(file: GGUFFile, writer: GGUFWriter, key: str) -> None:
    """One key with its value and type."""
    type_, element = file.metadata.value_type(key)
    value = file.metadata.text(key) if type_ == ValueType.STRING else file.metadata[key]
    writer.add(key, value, type_, element)


def _convert(file: GGUFFile, info: TensorInfo, type: GGMLType, pool: ThreadPoolExecutor) -> npt.NDArray[np.uint8]:
    """A tensor's bytes in another type, a slice of rows at a time on each thread."""
    raw = file.raw(info.name)
    if info.type == type:
        return raw
    row = info.shape[-1]
    n_row = int(np.prod(info.shape)) // row
    step = max(1, (1 << 20) // row)
    size = info.type.n_bytes(row)

    def part(start: int) -> npt.NDArray[np.uint8]:
        stop = min(start + step, n_row)
        values = dequantize(info.type, raw[start * size : stop * size], (stop - start, row))
        return quantize(type, values)

    return np.concatenate(list(pool.map(part, range(0, n_row, step))))
