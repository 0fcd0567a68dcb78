"""Adapter files of every format, read without a model.

Whatever the format, a tensor's adapter is A (rank, n_in), B (n_out, rank) and the scale of their product, by the name
and in the layout that GGUF models have:

    gguf        `<name>.lora_a`, `.lora_b`, scale alpha / the tensor's rank; norms whole
    ggla        2023: `<name>.loraA` transposed, `.loraB`, one scale alpha / r; norms as products
    checkpoint  of the 2023 finetune: the same layout, scale 1, which is what it trained with whatever its --lora-alpha;
                what LlamaKit trains with another scale has keys that say so (`checkpoint_scale`)
    peft        a folder with adapter_config.json and adapter_model.safetensors (`llamakit.lora.peft`)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.adapter import Adapter
from llamakit.errors import ModelFileError
from llamakit.gguf.constants import GGMLType, ValueType
from llamakit.gguf.ggla import MAGIC as GGLA_MAGIC
from llamakit.gguf.ggla import read_ggla
from llamakit.gguf.reader import GGUFFile, StringArray, open_gguf, text_of
from llamakit.lora.names import Layout, layout_of
from llamakit.lora.write import EMBEDDING
from llamakit.models.lora import check_head, magic_of, pair_up
from llamakit.run_folder import adapter_of_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

SCALE_KEYS = ("training.lora.r", "training.lora.alpha")  # LlamaKit's own, where alpha is not r
MOST_ALPHA = 1e30  # JSON has numbers that no float can hold
FINETUNE = "finetune_lora"  # training.type of the 2023 checkpoints that hold adapters


@dataclass(frozen=True)
class Head:
    """What a GGUF adapter says beside its values: metadata as (key, type, element type, value), tensors with types."""

    metadata: list[tuple[str, ValueType, ValueType | None, object]]
    tensors: list[tuple[str, GGMLType]]

    @property
    def keys(self) -> dict[str, object]:
        """The metadata without its types."""
        return {key: value for key, _, _, value in self.metadata}


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as its file has it. `tensors`: norms as products are (rank, n) and (1, rank).

    `norms`: whole values (n,) after training. `magnitudes` (n_out,): DoRA's. `alpha`: of the head, 0 for none.
    """

    path: Path
    format: str
    layout: Layout
    tensors: Mapping[str, Adapter]
    norms: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    magnitudes: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    alpha: float = 0.0
    base_name: str = ""
    head: Head | None = None

    @property
    def rank(self) -> int:
        """The largest."""
        return max((int(each.A.shape[0]) for each in self.tensors.values()), default=0)


def read_adapter_file(path: str | Path, base: GGUFFile | None = None) -> AdapterFile:
    """Read an adapter of any format; of the folder of a training run, the adapter in it.

    A PEFT folder that LlamaKit did not make needs the `base` that it is for.
    Raises ModelFileError for what is damaged, of another kind, or holds what the formats cannot carry over.
    """
    path = adapter_of_run(Path(path))
    if (folder := _peft_folder(path)) is not None:
        from llamakit.lora.peft import read_peft

        return read_peft(folder, base)
    magic = magic_of(path)
    if magic == GGLA_MAGIC:
        return _read_ggla(path, base)
    if magic == b"GGUF":
        with open_gguf(path) as file:
            if text_of(file.metadata, "training.type") == FINETUNE:
                return _read_checkpoint(file)
            return _read_gguf(file, base)
    raise ModelFileError(
        f"{path} is not an adapter: it starts neither with GGUF nor with algg",
        hint="a PEFT adapter is named by its folder",
    )


def adapter_paths(path: str | Path) -> list[Path]:
    """The files that an adapter is read from: of a PEFT folder, where others may be, two."""
    path = adapter_of_run(Path(path))
    if (folder := _peft_folder(path)) is not None:
        from llamakit.lora.peft import CONFIG, WEIGHTS

        return [folder / CONFIG, folder / WEIGHTS]
    return [path]


def _peft_folder(path: Path) -> Path | None:
    """The folder of a PEFT adapter, which may be named by its weights; None for other kinds."""
    if path.is_dir():
        return path
    return path.parent if path.suffix == ".safetensors" else None


def _read_gguf(file: GGUFFile, base: GGUFFile | None) -> AdapterFile:
    alpha = check_head(file)
    parts = [name for name in file.tensors if name.endswith((".lora_a", ".lora_b"))]
    tensors = {}
    for name, (a, b) in pair_up(file.path, parts, "lora_a", "lora_b").items():
        A, B = file.tensor(a), file.tensor(b)
        if name == EMBEDDING:
            A, B = np.ascontiguousarray(B.T), A
        tensors[name] = checked(file.path, name, A, B, alpha / A.shape[0] if alpha else 1.0)
    norms = {name: file.tensor(name) for name in file.tensors if name not in set(parts)}
    for name, values in norms.items():
        if values.ndim != 1:
            raise ModelFileError(f"{file.path}: tensor {name!r} {values.shape} belongs to no adapter")
    metadata = [(key, *file.value_type(key), _plain(file, key)) for key in file.metadata]
    head = Head(metadata, [(info.name, info.type) for info in file.tensors.values()])
    layout = layout_of(file.metadata)
    if layout.n_head is None and base is not None:
        layout = layout_of(base.metadata, layout.architecture)
    base_name = file.metadata.get("general.base_model.0.name")
    base_name = base_name if isinstance(base_name, str) else ""
    return AdapterFile(file.path, "gguf", layout, tensors, norms, alpha=alpha, head=head, base_name=base_name)


def _plain(file: GGUFFile, key: str) -> object:
    """A metadata value that outlives the file and that JSON can hold."""
    value: Any = file.metadata[key]
    if isinstance(value, str):
        return file.metadata.text(key).decode("utf-8", "surrogateescape")
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, StringArray) else value


def _read_ggla(path: Path, base: GGUFFile | None) -> AdapterFile:
    file = read_ggla(path)
    tensors = {}
    for name, (a, b) in pair_up(path, file.tensors, "loraA", "loraB").items():
        A, B = np.atleast_2d(file.tensors[a]), np.atleast_2d(file.tensors[b])
        tensors[name] = checked(path, name, np.ascontiguousarray(A.T), B, file.alpha / file.r)
    layout = Layout("llama") if base is None else layout_of(base.metadata)
    return AdapterFile(path, "ggla", layout, tensors, alpha=float(file.alpha))


def _read_checkpoint(file: GGUFFile) -> AdapterFile:
    tensors, (r, alpha) = {}, checkpoint_scale(file)
    names = [name for name in file.tensors if not name.startswith("optimizer.")]
    for name, (a, b) in pair_up(file.path, names, "lora_a", "lora_b").items():
        A, B = np.atleast_2d(file.tensor(a)), np.atleast_2d(file.tensor(b))
        tensors[name] = checked(file.path, name, np.ascontiguousarray(A.T), B, alpha / r)
    return AdapterFile(file.path, "checkpoint", layout_of(file.metadata), tensors)


def checkpoint_scale(file: GGUFFile) -> tuple[int, int]:
    """(r, alpha) of a finetune checkpoint in the form of 2023, which trained as W + alpha / r B A^T; (1, 1) without."""
    found = []
    for key in SCALE_KEYS:
        value = file.metadata.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 32:
            raise ModelFileError(f"{file.path}: {key} is {value!r}, a number above 0 is needed")
        found.append(value)
    return found[0], found[1]


def checked(path: Path, name: str, A: Any, B: Any, scale: float) -> Adapter:
    """One pair, once both parts are matrices of one rank."""
    if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
        raise ModelFileError(
            f"{path}: the adapter of {name!r} is not a pair of one rank: A is {A.shape}, B is {B.shape}"
        )
    return Adapter(A, B, scale)
