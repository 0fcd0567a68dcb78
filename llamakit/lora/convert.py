"""Writing an adapter that was read from one format as another.

What a format cannot say is refused by name, never left out silently: DoRA's magnitudes in all that are written here
(merging folds them), norms in PEFT.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.errors import ModelFileError, UsageError
from llamakit.gguf.atomic import refuse_to_replace, whole_file
from llamakit.gguf.constants import GGMLType
from llamakit.gguf.ggla import write_ggla
from llamakit.gguf.native import quantize
from llamakit.gguf.writer import GGUFWriter
from llamakit.lora.files import adapter_paths
from llamakit.lora.heads import keep_head
from llamakit.lora.names import TOP
from llamakit.lora.peft import CONFIG, PREFIX, WEIGHTS
from llamakit.lora.safetensors import NAMES, write_safetensors
from llamakit.lora.write import EMBEDDING, common_alpha, write_adapter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.adapter import Adapter
    from llamakit.gguf.reader import GGUFFile
    from llamakit.lora.files import AdapterFile, Head


def to_gguf(file: AdapterFile, path: str | Path, base: GGUFFile | None = None, type: GGMLType | None = None) -> None:
    """Write as a GGUF adapter: one that came from there as it was unless `type` is given, others by `write_adapter`.

    Norms that a ggla file or a checkpoint holds as products become whole ones, for which the `base` must be given.
    """
    _check_output(path, file, base)
    _refuse_dora(file)
    if file.head is not None and type is None:
        _restore(file, file.head, path)
        return
    matrices, products = _norms_apart(file)
    norms = dict(file.norms)
    for name, each in products.items():
        if base is None:
            raise UsageError(
                f"{file.path} adapts the norm {name!r} by a product; GGUF adapters hold norms whole",
                hint="name the base model: -m BASE.gguf",
            )
        norms[name] = (base.tensor(name) + each.scale * (each.B.astype(np.float64) @ each.A)[0]).astype(np.float32)
    metadata: Mapping[str, object] = {"general.architecture": file.layout.architecture}
    if base is not None:
        metadata = base.metadata
    elif file.head is not None:
        metadata = file.head.keys | {"general.name": file.base_name}
    write_adapter(path, metadata, matrices, norms=norms, type=type or GGMLType.F32)


def _restore(file: AdapterFile, head: Head, path: str | Path) -> None:
    """The GGUF adapter that the values came from: same metadata, order and types."""
    found: dict[str, Any] = dict(file.norms)
    for name, each in file.tensors.items():
        flip = name == EMBEDDING
        found[f"{name}.lora_a"] = np.asarray(each.B if flip else each.A)
        found[f"{name}.lora_b"] = np.ascontiguousarray(each.A.T) if flip else np.asarray(each.B)
    with GGUFWriter(path) as writer:
        for key, type_, element, value in head.metadata:
            if key != "general.alignment":
                writer.add(key, value, type_, element)
        for name, kind in head.tensors:
            writer.add_tensor(name, quantize(kind, found[name]), kind, found[name].shape)


def to_ggla(file: AdapterFile, path: str | Path, base: GGUFFile | None = None) -> None:
    """Write in the format of the 2023 `finetune`. Its scale is alpha / r of the head, both whole numbers.

    B holds what those cannot say; whole norms become products of rank 1, for which the `base` must be given.
    """
    _check_output(path, file, base)
    _refuse_dora(file)
    matrices, _ = _norms_apart(file)
    ranks = Counter(int(each.A.shape[0]) for each in matrices.values())
    r = max(ranks, key=lambda rank: (ranks[rank], rank)) if ranks else 1
    alpha = common_alpha({name: each for name, each in matrices.items() if each.A.shape[0] == r})
    alpha = int(alpha) if alpha == int(alpha) and 0 < alpha < 1 << 32 else r
    out: dict[str, Any] = {}
    for name, each in file.tensors.items():
        factor = each.scale / (alpha / r)
        B = each.B if factor == 1 else (each.B.astype(np.float64) * factor).astype(np.float32)
        out[f"{name}.loraA"], out[f"{name}.loraB"] = np.ascontiguousarray(each.A.T), B
    for name, values in file.norms.items():
        if base is None:
            raise UsageError(f"{file.path} holds the norm {name!r} whole", hint="name the base model: -m BASE.gguf")
        change = (values.astype(np.float64) - base.tensor(name)) / (alpha / r)
        out[f"{name}.loraA"], out[f"{name}.loraB"] = change.astype(np.float32)[:, None], np.ones((1, 1), np.float32)
    write_ggla(path, r, alpha, out)


def to_peft(
    file: AdapterFile,
    folder: str | Path,
    base: GGUFFile | None = None,
    *,
    base_name: str = "",
    without_norms: bool = False,
) -> None:
    """Write as a PEFT folder. `base_name`: what PEFT loads the base by; `without_norms` leaves norms out.

    The `base` is needed where the adapter does not say how many heads it has.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        _check_output(folder / name, file, base)
    _refuse_tied(file, base)
    _refuse_dora(file)
    matrices, products = _norms_apart(file)
    norms = [*file.norms, *products]
    if norms and not without_norms:
        raise UsageError(
            f"{file.path} adapts norms, which PEFT's LoRA cannot: {', '.join(norms[:4])}{' ...' if norms[4:] else ''}",
            hint="--without-norms leaves them out; llamakit lora merge keeps them",
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; a PEFT adapter is a folder")
    kept = {name: type_ for name, type_ in file.head.tensors if type_ in NAMES} if file.head else {}
    weights: dict[str, Any] = {}
    types: dict[str, GGMLType] = {}
    for name, each in matrices.items():
        keys = _keys(file.layout.module(name), name)
        A, B = np.asarray(each.A, np.float32), file.layout.to_peft(name, np.asarray(each.B, np.float32))
        flip = name == EMBEDDING
        for key, values, part in zip(keys, (B.T, A.T) if flip else (A, B), ("lora_a", "lora_b"), strict=True):
            weights[key] = np.ascontiguousarray(values)
            types[key] = kept.get(f"{name}.{part}", GGMLType.F32)
    config = _config(file, matrices, base_name or file.base_name)
    with whole_file(folder / CONFIG) as out:
        out.write(json.dumps(config, indent=2).encode() + b"\n")
        out.flush()  # both are on the disk before one takes its place: new weights with an old scale would be wrong
        os.fsync(out.fileno())
        write_safetensors(folder / WEIGHTS, weights, types, keep_head(file))


def _check_output(path: str | Path, file: AdapterFile, base: GGUFFile | None) -> None:
    """Refuse to write over the adapter that is converted, and over the base."""
    refuse_to_replace(path, adapter_paths(file.path), "the adapter")
    refuse_to_replace(path, base.paths if base is not None else (), "the base")


def _refuse_tied(file: AdapterFile, base: GGUFFile | None) -> None:
    if base is not None and EMBEDDING in file.tensors and "output.weight" not in base.tensors:
        raise UsageError(
            f"{file.path} adapts the one matrix that {base.path} uses as embedding and as output",
            found="PEFT changes one of the two uses, an adapter of the GGUF's tensor both",
            hint="merge it: llamakit lora merge",
        )


def _keys(module: str, name: str) -> tuple[str, str]:
    if name == EMBEDDING:
        return f"{PREFIX}{module}.lora_embedding_A", f"{PREFIX}{module}.lora_embedding_B"
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


def _config(file: AdapterFile, matrices: dict[str, Adapter], base_name: str) -> dict[str, Any]:
    """The configuration: one rank and alpha, and patterns for the modules that differ."""
    modules = {file.layout.module(name): each for name, each in matrices.items()}
    ranks = {module: int(each.A.shape[0]) for module, each in modules.items()}
    alphas = {module: float(np.float32(each.scale * ranks[module])) for module, each in modules.items()}
    r, alpha = (max(set(table.values()), key=list(table.values()).count) for table in (ranks, alphas))
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name or None,
        "inference_mode": True, "r": r, "lora_alpha": _number(alpha), "lora_dropout": 0.0, "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False, "use_dora": False, "init_lora_weights": True, "modules_to_save": None,
        "target_modules": _targets(list(modules), file.layout.n_layer),
        "rank_pattern": {module: rank for module, rank in ranks.items() if rank != r},
        "alpha_pattern": {module: _number(value) for module, value in alphas.items() if value != alpha},
    }  # fmt: skip


def _targets(modules: list[str], n_layer: int | None) -> list[str]:
    """Ends of names that stand for these modules only: whole names where not every layer has a module of the kind."""
    by_end: dict[str, list[str]] = {}
    for module in modules:
        by_end.setdefault(module.rpartition(".")[2], []).append(module)
    top = {name.rpartition(".")[2] for name in TOP.values()}
    return [each for end, names in by_end.items() for each in ([end] if end in top or len(names) == n_layer else names)]


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _norms_apart(file: AdapterFile) -> tuple[dict[str, Adapter], dict[str, Adapter]]:
    """Adapters of matrices, and of norms as products."""
    products = {name: each for name, each in file.tensors.items() if name.endswith("norm.weight")}
    for name, each in products.items():
        if each.B.shape[0] != 1:
            raise ModelFileError(f"{file.path}: the adapter of norm {name!r} makes {each.B.shape[0]} rows; 1 is right")
    return {name: each for name, each in file.tensors.items() if name not in products}, products


def _refuse_dora(file: AdapterFile) -> None:
    if file.magnitudes:
        raise UsageError(
            f"{file.path} is DoRA, whose magnitudes these formats cannot hold: {', '.join(list(file.magnitudes)[:4])}",
            hint=f"fold it into the model: llamakit lora merge -m BASE.gguf -l {file.path} -o merged.gguf",
        )
