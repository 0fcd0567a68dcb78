"""Writing GGUF adapters, so that every program that reads the format applies the scale that was trained with.

The format has one `adapter.lora.alpha` and scales a tensor by alpha / (its own rank). A set of adapters whose scales
follow one alpha is therefore written as it is. What the format cannot say is folded into B:

    alpha    the float32 value of scale * rank that most tensors share (for rsLoRA: alpha * sqrt(rank))
    B        B * (scale * rank / alpha), in float64, rounded to float32 once; untouched where the factor is 1

So the product that is applied is the same for alpha != rank, rsLoRA, mixed ranks and an alpha for each module.
Norms have no factors in the format: they are written whole, as they are after training.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.errors import UsageError
from llamakit.gguf.constants import GGMLType
from llamakit.gguf.writer import GGUFWriter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from llamakit.adapter import Adapter

EMBEDDING = "token_embd.weight"
SHAPE_KEYS = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")


def lora_scale(rank: int, alpha: float, rslora: bool = False) -> float:
    """What B A is multiplied by: alpha / rank, or alpha / sqrt(rank) for rsLoRA (arXiv:2312.03732)."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def write_adapter(
    path: str | Path,
    base: Mapping[str, object],
    tensors: Mapping[str, Adapter],
    *,
    norms: Mapping[str, npt.NDArray[Any]] | None = None,
    metadata: Mapping[str, object] | None = None,
    type: GGMLType = GGMLType.F32,
) -> float:
    """Write a GGUF adapter; returns the alpha in its head.

    `base`: metadata of the model that was trained, as `GGUFFile.metadata` has it. `tensors`: by the names of the
    base's tensors, each with A (rank, n_in), B (n_out, rank) and its scale; an embedding is (n_vocab, n_embd).
    `norms`: whole values (n,) of norms that were trained. `metadata`: keys to add, or with None to leave out.
    `type`: F32 or F16. The file appears whole or not at all. Raises UsageError for what cannot be written.
    """
    architecture = base.get("general.architecture")
    if not isinstance(architecture, str):
        raise UsageError("an adapter cannot be written without the base's general.architecture")
    if type not in (GGMLType.F32, GGMLType.F16):
        raise UsageError(f"adapters are written in F32 or F16, not {type.name}")
    if not tensors and not norms:
        raise UsageError("there are no adapters to write")
    alpha = common_alpha(tensors)
    with GGUFWriter(path) as writer:
        for key, value in (head(base, alpha, type) | dict(metadata or {})).items():
            writer.add(key, value)
        for name, adapter in tensors.items():
            A, B = parts(name, adapter, alpha)
            _add(writer, f"{name}.lora_a", A, type)
            _add(writer, f"{name}.lora_b", B, type)
        for name, values in (norms or {}).items():
            _add(writer, name, values, GGMLType.F32)
    return alpha


def common_alpha(tensors: Mapping[str, Adapter]) -> float:
    """The float32 alpha that scales most of the tensors rightly; never 0, which readers take for a scale of 1."""
    counts = Counter(float(np.float32(each.scale * _rank(name, each))) for name, each in tensors.items())
    del counts[0.0]
    return max(counts, key=lambda alpha: (counts[alpha], alpha)) if counts else 1.0


def parts(name: str, adapter: Adapter, alpha: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The two tensors of the file: what the format cannot say about the scale is in `lora_b`."""
    A, B = np.asarray(adapter.A, np.float32), np.asarray(adapter.B, np.float32)
    wanted = adapter.scale * A.shape[0]
    if float(np.float32(wanted)) != alpha:
        B = (B.astype(np.float64) * (wanted / alpha)).astype(np.float32)
    if name == EMBEDDING:  # the other way round, so that rows of tokens can be taken from lora_a
        return B, np.ascontiguousarray(A.T)
    return A, B


def head(base: Mapping[str, object], alpha: float, type: GGMLType) -> dict[str, object]:
    """The metadata of an adapter. The base's sizes are in it so that it can be converted without the base."""
    architecture = base["general.architecture"]
    keys: dict[str, object] = {
        "general.architecture": architecture, "general.type": "adapter", "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha), "general.file_type": 0 if type == GGMLType.F32 else 1,
    }  # fmt: skip
    name = base.get("general.name")
    if isinstance(name, str) and name:
        keys |= {"general.base_model.count": 1, "general.base_model.0.name": name}
    for key in (f"{architecture}.{each}" for each in SHAPE_KEYS):
        if isinstance(base.get(key), int):
            keys[key] = base[key]
    return keys


def _rank(name: str, adapter: Adapter) -> int:
    """The rank of a pair, once it is one."""
    A, B = adapter.A, adapter.B
    if A is None or A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
        found = f"A {None if A is None else A.shape}, B {B.shape}"
        raise UsageError(
            f"the adapter of {name!r} is not a pair of matrices with a common rank: {found}",
            hint="a norm is written whole: name it in `norms`" if A is None else "",
        )
    if not math.isfinite(adapter.scale):
        raise UsageError(f"the scale of the adapter of {name!r} is {adapter.scale}")
    return int(A.shape[0])


def _add(writer: GGUFWriter, name: str, values: npt.NDArray[Any], type: GGMLType) -> None:
    """One tensor, which must be finite in the type that it is written in."""
    dtype = np.float16 if type == GGMLType.F16 else np.float32
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(values, dtype)
    if not np.isfinite(array).all():
        raise UsageError(f"tensor {name!r} holds values that are not finite in {type.name}: nothing was written")
    writer.add_tensor(name, array, type, tuple(array.shape))
