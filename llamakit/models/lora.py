"""LoRA adapters from files, checked against the model that they are for.

    W' = W + scale * B A        A (rank, n_in), B (n_out, rank), scale = alpha / rank

Hu et al. 2021, arXiv:2106.09685. Two formats are read, told apart by their first bytes: GGUF adapters (tensors
`<name>.lora_a` and `<name>.lora_b`, scale from each tensor's own rank) and the `ggla` files of 2023 (`<name>.loraA`,
`.loraB`, one scale for all). Both adapt embeddings; ggla adapts norms by a product, GGUF holds them whole.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.adapter import Adapter
from llamakit.errors import ModelFileError, UsageError
from llamakit.gguf.file_bytes import check_regular
from llamakit.gguf.ggla import MAGIC as GGLA_MAGIC
from llamakit.gguf.ggla import read_ggla
from llamakit.gguf.reader import GGUFFile, open_gguf, text_of
from llamakit.options import nearest
from llamakit.run_folder import adapter_of_run, not_an_adapter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llamakit.models import LoadedModel

MAX_VALUE = 1e10  # of |A| and |scale * B|: far above what training gives, far below what overflows
MAX_NAME = 256  # characters of an adapter's name
SHOWN = (
    "general.name", "general.version", "general.author", "general.organization", "general.license",
    "general.description", "general.base_model.0.name", "adapter.lora.task_name", "adapter.lora.prompt_prefix",
)  # fmt: skip
MAX_SHOWN = 1000  # characters of a shown value


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter in memory, by the names of the base's tensors. `rank` is the largest; `digest` is of the content.

    Equal digests mean that the adapters change a model in the same way, wherever they came from.
    """

    name: str
    path: Path
    rank: int
    alpha: float
    digest: str
    tensors: Mapping[str, Adapter]
    n_bytes: int
    metadata: Mapping[str, str]


class Pairs:
    """Adapters by tensor, checked one by one against the model's `targets` (name -> shape)."""

    def __init__(self, path: Path, targets: Mapping[str, tuple[int, ...]]) -> None:
        self.path, self.targets = path, targets
        self.made: dict[str, Adapter] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the base's tensor; an unknown name is an error with the nearest ones."""
        if name not in self.targets:
            raise ModelFileError(
                f"{self.path} adapts tensor {name!r}, which the model does not have or cannot adapt",
                found=nearest(name, self.targets),
                hint="an adapter fits the base model that it was trained on",
            )
        return self.targets[name]

    def add(self, name: str, a: Any, b: Any, scale: float) -> None:
        """One pair, A (rank, n_in) and B (n_out, rank); for a norm their product is kept."""
        shape = self.shape(name)
        n_out, n_in = shape if len(shape) == 2 else (1, shape[0])
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise self.wrong(name, f"A is {a.shape} and B is {b.shape}; one rank must be common to both")
        if (b.shape[0], a.shape[1]) != (n_out, n_in):
            raise self.wrong(name, f"it makes {(b.shape[0], a.shape[1])}, the model's tensor is {shape}")
        if a.shape[0] > max(n_out, n_in):
            raise self.wrong(name, f"its rank {a.shape[0]} is more than the sizes of the tensor, {shape}")
        self.check_values(name, "A", a, 1.0)
        self.check_values(name, "B", b, scale)
        if len(shape) == 1:
            self.add_delta(name, (b.astype(np.float64) @ a).reshape(shape).astype(np.float32), scale)
        else:
            self.made[name] = Adapter(_frozen(a), _frozen(b), scale)

    def add_delta(self, name: str, delta: Any, scale: float) -> None:
        """A norm's own change, (n,)."""
        self.check_values(name, "the change", delta, scale)
        self.made[name] = Adapter(None, _frozen(delta), scale)

    def check_values(self, name: str, part: str, x: Any, scale: float) -> None:
        """Refuse what is not finite, and what is so large that sums might not be."""
        low, high = float(x.min()), float(x.max())  # NaN if there is one
        if not math.isfinite(low) or not math.isfinite(high):
            raise self.wrong(name, f"{part} holds a NaN or an infinity")
        if max(-low, high) * abs(scale) > MAX_VALUE:
            raise self.wrong(name, f"{part} holds values beyond {MAX_VALUE:g}")

    def wrong(self, name: str, fault: str) -> ModelFileError:
        """The error for a tensor that does not fit."""
        return ModelFileError(f"{self.path}: the adapter of tensor {name!r} does not fit: {fault}")


def adapter_targets(model: LoadedModel) -> dict[str, tuple[int, ...]]:
    """The tensors of a model that adapters can change, with their shapes in numpy order."""
    from llamakit.models import GraphSizes

    sizes = GraphSizes(rows=1, seqs=1, blocks_per_seq=1, out_rows=1)
    graph = model.build(sizes, outputs=("logits", "embeddings"), adapters=True)
    found: dict[str, tuple[int, ...]] = {}
    for node in graph.nodes:
        weight = node.tensors[0] if node.tensors else None
        if weight is not None and dict(node.named_inputs()).get("adapter") is not None:
            found[weight.name] = weight.shape
    return found


def changed_tensors(adapters: Iterable[LoadedAdapter]) -> frozenset[str]:
    """The base's tensors that any of the adapters changes."""
    return frozenset(name for adapter in adapters for name in adapter.tensors)


def load_adapter(path: str | Path, model: LoadedModel, *, name: str | None = None) -> LoadedAdapter:
    """Read an adapter for `model`: a file, or the folder of a training run, for the adapter in it.

    Its name is the file's without the ending, or the folder's, unless given.
    Raises ModelFileError for a file that is damaged, of another kind, or made for another model.
    """
    given, path = Path(path), adapter_of_run(Path(path))
    if name is None:
        stem = given.absolute().stem if path == given else given.resolve().name
        name = "".join(c if c.isprintable() else "_" for c in stem)[:MAX_NAME]
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise UsageError(f"an adapter's name has 1 to {MAX_NAME} printable characters", param="name")
    pairs = Pairs(path, adapter_targets(model))
    magic = magic_of(path)
    if magic == b"GGUF":
        with open_gguf(path) as file:
            alpha, metadata = _read_gguf(file, model, pairs)
    elif magic == GGLA_MAGIC:
        alpha, metadata = _read_ggla(path, pairs)
    else:
        raise ModelFileError(
            f"{path} is not an adapter that can be read: it starts neither with GGUF nor with algg",
            hint="a PEFT adapter: llamakit lora import FOLDER -m BASE.gguf -o adapter.gguf",
        )
    if not pairs.made:
        raise ModelFileError(f"{path} holds no adapters of tensors")
    return make_adapter(name, path, alpha, pairs.made, metadata)


def make_adapter(
    name: str, path: Path, alpha: float, tensors: Mapping[str, Adapter], metadata: Mapping[str, str] | None = None
) -> LoadedAdapter:
    """An adapter of tensors that are in memory already."""
    ordered = {key: tensors[key] for key in sorted(tensors)}
    digest, n_bytes, rank = hashlib.sha256(), 0, 1
    for key, adapter in ordered.items():
        digest.update(f"{key}\0{adapter.scale!r}\0".encode())
        for part in (adapter.A, adapter.B):
            digest.update(repr(None if part is None else part.shape).encode())
            if part is not None:
                digest.update(np.ascontiguousarray(part).data)
                n_bytes += part.nbytes
        rank = max(rank, 1 if adapter.A is None else adapter.A.shape[0])
    shown = MappingProxyType(dict(metadata or {}))
    return LoadedAdapter(name, path, rank, alpha, digest.hexdigest(), MappingProxyType(ordered), n_bytes, shown)


def magic_of(path: Path) -> bytes:
    """The first four bytes of a file."""
    try:
        if path.is_dir():
            raise not_an_adapter(path)
        check_regular(path)
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelFileError(f"no file {path}") from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the name
        raise ModelFileError(f"{str(path)!r} cannot be the name of a file") from None
    if len(magic) < 4:
        raise ModelFileError(f"{path} is damaged: it has {len(magic)} bytes")
    return magic


def _read_ggla(path: Path, pairs: Pairs) -> tuple[float, dict[str, str]]:
    """The scale is alpha / r of the head, whatever the rank of a tensor."""
    file = read_ggla(path)
    for name, (a, b) in pair_up(path, file.tensors, "loraA", "loraB").items():
        pairs.add(name, np.atleast_2d(file.tensors[a]).T, np.atleast_2d(file.tensors[b]), file.alpha / file.r)
    return float(file.alpha), {"format": "ggla"}


def _read_gguf(file: GGUFFile, model: LoadedModel, pairs: Pairs) -> tuple[float, dict[str, str]]:
    """The scale is alpha / the rank of the tensor, or 1 for an alpha of 0."""
    alpha = check_head(file, model.hparams.architecture)
    whole = {name for name in file.tensors if not name.endswith((".lora_a", ".lora_b"))}
    for name, (a, b) in pair_up(file.path, (n for n in file.tensors if n not in whole), "lora_a", "lora_b").items():
        A, B = file.tensor(a), file.tensor(b)
        if name == "token_embd.weight" and A.ndim == B.ndim == 2:
            A, B = B.T, A  # stored the other way round, so that rows of tokens can be taken from it
        rank = A.shape[0]
        pairs.add(name, A, B, alpha / rank if alpha else 1.0)
    for name in sorted(whole):
        _add_whole(file, model, pairs, name)
    shown = {key: str(file.metadata[key])[:MAX_SHOWN] for key in SHOWN if isinstance(file.metadata.get(key), str)}
    return alpha, {"format": "gguf"} | shown


def check_head(file: GGUFFile, architecture: str | None = None) -> float:
    """That the file is an adapter, for this architecture if one is given; its alpha, 0 where it has none."""
    path, trained = file.path, "training.type" in file.metadata
    kind, type_, found = (
        text_of(file.metadata, key)[:MAX_NAME] for key in ("general.type", "adapter.type", "general.architecture")
    )
    if kind != "adapter":
        raise ModelFileError(
            f"{path} is {'a training checkpoint' if trained else 'not an adapter'}",
            found=f"general.type is {kind!r}" if kind else "it does not say that it is one (general.type)",
            hint=f"llamakit lora import {path} -m BASE.gguf -o adapter.gguf" if trained else "",
        )
    if type_ != "lora":
        raise ModelFileError(f"{path} is an adapter of type {type_!r}; 'lora' can be used")
    if "adapter.alora.invocation_tokens" in file.metadata:
        raise ModelFileError(f"{path} is an activated LoRA, which starts at a phrase of the prompt: not supported")
    if architecture is not None and found != architecture:
        raise ModelFileError(f"{path} is for architecture {found!r}, the model is {architecture!r}")
    alpha = file.metadata.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ModelFileError(f"{path}: adapter.lora.alpha is {alpha!r}; a number is needed")
    return float(alpha)


def _add_whole(file: GGUFFile, model: LoadedModel, pairs: Pairs, name: str) -> None:
    """A norm that the adapter holds whole, as it was after training: its change is the difference to the base."""
    shape, found = pairs.shape(name), file.tensors[name].shape
    if len(shape) != 1 or tuple(found) != shape:
        raise pairs.wrong(name, f"a tensor {tuple(found)} of its own can only replace a norm; the model's is {shape}")
    values = file.tensor(name)
    pairs.check_values(name, "it", values, 1.0)
    pairs.add_delta(name, values - model.tensor(name), 1.0)


def pair_up(path: Path, names: Iterable[str], a: str, b: str) -> dict[str, tuple[str, str]]:
    """The names of both parts by the base's tensor, in order; a part without its other is an error."""
    known = dict.fromkeys(names)
    found: dict[str, tuple[str, str]] = {}
    for name in known:
        base, _, part = name.rpartition(".")
        if part not in (a, b) or not base:
            raise ModelFileError(f"{path}: tensor {name!r} belongs to no adapter; the names end in .{a} and .{b}")
        found[base] = (f"{base}.{a}", f"{base}.{b}")
        other = found[base][part == a]
        if other not in known:
            raise ModelFileError(f"{path}: tensor {name!r} is there, {other!r} is missing")
    return found


def _frozen(x: Any) -> Any:
    """A float32 array of its own that nothing changes."""
    out = np.array(x, np.float32, order="C")
    out.flags.writeable = False
    return out
