"""Checkpoints of the 2023 `finetune` and `train-text-from-scratch`, with everything in them by name.

    training.type     finetune_lora: adapters `<tensor>.lora_a` (n_in, r), `.lora_b` (n_out, r), which trained as
                      W + B A^T whatever the --lora-alpha; train_model: the model's tensors
    training.lora     ranks; and r and alpha of what LlamaKit trained as W + alpha / r B A^T, which 2023 passes over
    optimizer.*       Adam's moments, flat in the file (see `moments`), and its counters; L-BFGS is read, not continued
    training.shuffle  which sample comes next, in an order that the generator's state gives

Source: common/train.cpp, finetune.cpp and train-text-from-scratch.cpp of llama.cpp at 0e76a8992c.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from llamakit.adapter import Adapter
from llamakit.errors import ModelFileError
from llamakit.gguf import GGMLType, StringArray, ValueType, open_gguf, text_of
from llamakit.gguf.constants import MAGIC
from llamakit.gguf.writer import GGUFWriter
from llamakit.lora.files import SCALE_KEYS, checkpoint_scale
from llamakit.train.tools_2023.moments import Order, find_order, join_moments, parameter_order, split_moments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from llamakit.gguf.reader import GGUFFile

Kind = Literal["finetune_lora", "train_model"]
Typed = tuple[ValueType, ValueType | None, Any]
FIRST, SECOND, PAST = (f"optimizer.adam.{name}" for name in ("first_moments", "second_moments", "past_loss_values"))
RANKS = (
    "token_embd", "output_norm", "output", "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm",
    "ffn_gate", "ffn_down", "ffn_up",
)  # fmt: skip
F32, I32, U32 = ValueType.FLOAT32, ValueType.INT32, ValueType.UINT32
MOST_COUNTED = 1 << 48
OPTIMIZER_KEYS = {  # what an optimizer counts besides its iterations: key -> type
    "adam": {"best_loss": F32, "previous_loss": F32, "no_improvement_count": U32},
    "lbfgs": {
        "approx_hessian_count": U32, "best_loss": F32, "line_search_step": F32, "line_search_j": I32,
        "line_search_k": I32, "line_search_end": I32, "no_improvement_count": U32,
    },
}  # fmt: skip


class Shuffle(msgspec.Struct, frozen=True):
    """Where a run is in its samples: `rng_state` gives the present order, `next_sample` the place in it."""

    samples_hash: int
    rng_state: str
    sample_count: int
    next_sample: int


class OptimizerState(msgspec.Struct, frozen=True):
    """What the optimizer counts. `counters`: of its own kind, such as best_loss. `past_count`: --opt-past."""

    type: Literal["adam", "lbfgs"] = "adam"
    iterations: int = 0
    just_initialized: bool = False
    past_count: int = 0
    counters: dict[str, float | int] = {}


@dataclass(frozen=True)
class Checkpoint2023:
    """A run of 2023 as it was saved. Arrays are float32, in numpy order, with the names and shapes of the file.

    `first` and `second`: Adam's moments by parameter, empty where there are none. `state`: further tensors of the
    optimizer by their names. `model`: metadata of the model with types. `order`: how the moments lie in the file.
    `lora_r`, `lora_alpha`: adapters count alpha / r times.
    """

    kind: Kind
    model: Mapping[str, Typed]
    tensors: Mapping[str, NDArray[np.float32]]
    first: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    second: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    optimizer: OptimizerState = field(default_factory=OptimizerState)
    state: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    iterations: int = 0
    samples: int = 0
    tokens: int = 0
    epochs: int = 0
    shuffle: Shuffle | None = None
    order: Order = field(default_factory=Order)
    lora_r: int = 1
    lora_alpha: int = 1

    @property
    def scale(self) -> float:
        """How often adapters count."""
        return self.lora_alpha / self.lora_r

    @property
    def n_layer(self) -> int:
        """Blocks of the model."""
        return int(self.model["llama.block_count"][2])

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each kind of tensor, such as attn_q, of a finetune checkpoint."""
        found = {}
        for name, values in self.tensors.items():
            base, _, part = name.rpartition(".")
            if part == "lora_a":
                found[base.removesuffix(".weight").rpartition(".")[2]] = int(values.shape[-1])
        return found

    def adapters(self, values: Mapping[str, NDArray[np.float32]] | None = None) -> dict[str, Adapter]:
        """The adapters, or with `first` or `second` their moments, as A (r, n_in) and B (n_out, r)."""
        values = self.tensors if values is None else values
        names = [name.removesuffix(".lora_a") for name in self.tensors if name.endswith(".lora_a")]
        pairs = {name: (values[f"{name}.lora_a"], values[f"{name}.lora_b"]) for name in names}
        return {
            name: Adapter(np.ascontiguousarray(a.T), np.ascontiguousarray(b), self.scale)
            for name, (a, b) in pairs.items()
        }


def read_checkpoint(path: str | Path, order: Order | None = None) -> Checkpoint2023:
    """Read a checkpoint in GGUF, or one of before in ggcl or ggcp. `order`: of its moments, found from them if None.

    A plain F32 model of train-text-from-scratch is one without an optimizer. Raises ModelFileError.
    """
    from llamakit.models.lora import magic_of
    from llamakit.train.tools_2023.before_gguf import MAGICS, read_before_gguf

    path = Path(path)
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; a checkpoint is one file")
    magic = magic_of(path)
    if magic in MAGICS:
        return read_before_gguf(path, order)
    if magic != MAGIC:
        raise ModelFileError(f"{path} is not a checkpoint: it starts neither with GGUF nor with ggcl or ggcp")
    with open_gguf(path) as file:
        return _read(file, order)


def _read(file: GGUFFile, order: Order | None) -> Checkpoint2023:
    get = _Keys(file)
    kind = get("training.type", str, "train_model")
    if kind not in ("finetune_lora", "train_model"):
        raise ModelFileError(f"{file.path}: training.type is {kind!r}; finetune_lora and train_model are known")
    if text_of(file.metadata, "general.architecture") != "llama":
        raise ModelFileError(f"{file.path} is not a checkpoint of 2023: its architecture is not llama")
    model = {
        key: (*file.value_type(key), _plain(file, key))
        for key in file.metadata
        if not key.startswith(("training.", "optimizer.")) and key != "general.alignment"
    }
    if not 0 < get("llama.block_count", int) <= len(file.tensors):
        raise ModelFileError(f"{file.path} is not a checkpoint of 2023: its blocks are more than its tensors")
    names = [name for name in file.tensors if not name.startswith("optimizer.")]
    for name in names:
        if file.tensors[name].type != GGMLType.F32:
            raise ModelFileError(f"{file.path}: tensor {name!r} is {file.tensors[name].type.name}; 2023 trained F32")
    tensors = {name: file.tensor(name) for name in names}
    version = get("training.file_version", int, -1)
    if version not in (-1, 0, 1):
        raise ModelFileError(f"{file.path} is a checkpoint of version {version}; 0 and 1 are known")
    r, alpha = checkpoint_scale(file)
    made = Checkpoint2023(kind, model, tensors, lora_r=r, lora_alpha=alpha)
    return made if version < 0 else _with_training(file, get, made, version, order)


def _with_training(
    file: GGUFFile, get: _Keys, made: Checkpoint2023, version: int, order: Order | None
) -> Checkpoint2023:
    """The counters, the shuffle and the optimizer of a checkpoint."""
    counts = {name: get(f"training.{name}_count", int) for name in ("iteration", "sample", "token")}
    shuffle = None
    if version and "training.shuffle.rng_state" in file.metadata:
        keys = {name: get(f"training.shuffle.{name}", int) for name in ("samples_hash", "sample_count", "next_sample")}
        shuffle = Shuffle(rng_state=get("training.shuffle.rng_state", str), **keys)
    type_ = get("optimizer.type", str)
    if type_ not in OPTIMIZER_KEYS:
        raise ModelFileError(f"{file.path}: optimizer.type is {type_!r}; adam and lbfgs are known")
    optimizer = OptimizerState(
        type=type_, iterations=get("optimizer.iteration_count", int),
        just_initialized=get("optimizer.just_initialized", bool),
        past_count=get("optimizer.convergence_past_count", int),
        counters={key: get(f"optimizer.{type_}.{key}", (int, float)) for key in OPTIMIZER_KEYS[type_]},
    )  # fmt: skip
    state = {name: file.tensor(name) for name in file.tensors if name.startswith("optimizer.")}
    return with_optimizer(
        made, optimizer, state, order, iterations=counts["iteration"], samples=counts["sample"], tokens=counts["token"],
        epochs=get("training.epoch_count", int, 0), shuffle=shuffle,
    )  # fmt: skip


def with_optimizer(
    made: Checkpoint2023, optimizer: OptimizerState, state: dict[str, Any], order: Order | None, **counts: Any
) -> Checkpoint2023:
    """A checkpoint with its optimizer's tensors `state`: Adam's moments by name, in the order that is found."""
    counted = {name: value for name, value in counts.items() if isinstance(value, int)}
    for name, value in (counted | {"iterations of the optimizer": optimizer.iterations}).items():
        if not 0 <= value < MOST_COUNTED:
            raise ModelFileError(f"the checkpoint is damaged: it counts {value} {name}")
    shapes = {name: values.shape for name, values in made.tensors.items()}
    first, second = state.pop(FIRST, None), state.pop(SECOND, None)
    moments: dict[str, Any] = {}
    if first is not None and second is not None:
        lora = made.kind == "finetune_lora"
        split_moments(
            second, shapes, parameter_order(made.n_layer, lora, Order(), shapes)
        )  # sizes are right, or an error
        order = find_order(second, shapes, made.n_layer, lora) if order is None else order
        names = parameter_order(made.n_layer, lora, order, shapes)
        moments = {"first": split_moments(first, shapes, names), "second": split_moments(second, shapes, names)}
    elif optimizer.type == "adam":
        raise ModelFileError("the checkpoint's optimizer is adam, but its moments are missing")
    return dataclasses.replace(made, optimizer=optimizer, state=state, order=order or Order(), **moments, **counts)


class _Keys:
    """Metadata with types checked."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file

    def __call__(self, key: str, kind: Any, default: Any = None) -> Any:
        value = self.file.metadata.get(key, default)
        if value is None or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ModelFileError(f"{self.file.path} is not a checkpoint of 2023: {key} is {value!r}")
        return value


def _plain(file: GGUFFile, key: str) -> Any:
    """A value that outlives the file."""
    value = file.metadata[key]
    if isinstance(value, str):
        return file.metadata.text(key)
    if isinstance(value, np.ndarray):
        return value.copy()
    return [value.bytes(i) for i in range(len(value))] if isinstance(value, StringArray) else value


def with_vocabulary(checkpoint: Checkpoint2023, path: str | Path) -> Checkpoint2023:
    """The same checkpoint with the vocabulary of a GGUF file in it."""
    with open_gguf(path) as file:
        keys = [key for key in file.metadata if key.startswith("tokenizer.")]
        found = {key: (*file.value_type(key), _plain(file, key)) for key in keys}
    if not found:
        raise ModelFileError(f"{path} has no vocabulary")
    kept = {key: value for key, value in checkpoint.model.items() if not key.startswith("tokenizer.")}
    return dataclasses.replace(checkpoint, model=kept | found)


def write_checkpoint(path: str | Path, checkpoint: Checkpoint2023) -> None:
    """Write as the tools of 2023 do: GGUF version 2, keys and tensors in their order. Whole or not at all."""
    c, lora = checkpoint, checkpoint.kind == "finetune_lora"
    with GGUFWriter(path, version=2) as writer:
        writer.add("training.type", c.kind)
        for key, (type_, element, value) in c.model.items():
            writer.add(key, value, type_, element)
        if lora:
            for name in RANKS:
                writer.add(f"training.lora.rank.{name}", c.ranks.get(name, 0), ValueType.UINT32)
            if c.lora_alpha != c.lora_r:
                for key, value in zip(SCALE_KEYS, (c.lora_r, c.lora_alpha), strict=True):
                    writer.add(key, value, ValueType.UINT32)
        _add_counters(writer, c)
        for name, values in c.tensors.items():
            writer.add_tensor(name, values)
        if c.first:
            names = parameter_order(c.n_layer, lora, c.order, c.first)
            writer.add_tensor(FIRST, join_moments(c.first, names))
            writer.add_tensor(SECOND, join_moments(c.second, names))
        for name, values in c.state.items():
            writer.add_tensor(name, values)


def write_model(path: str | Path, checkpoint: Checkpoint2023) -> None:
    """Write the model of a train_model checkpoint alone, as `--model-out` does."""
    with GGUFWriter(path, version=2) as writer:
        for key, (type_, element, value) in checkpoint.model.items():
            writer.add(key, value, type_, element)
        for name, values in checkpoint.tensors.items():
            writer.add_tensor(name, values)


def _add_counters(writer: GGUFWriter, c: Checkpoint2023) -> None:
    """training.* and optimizer.*: version 1, or 0 where there is no shuffle to go on from."""
    wide = ValueType.UINT64 if c.shuffle else ValueType.UINT32
    writer.add("training.file_version", 1 if c.shuffle else 0, ValueType.UINT32)
    writer.add("training.iteration_count", c.iterations, wide)
    writer.add("training.sample_count", c.samples, wide)
    writer.add("training.token_count", c.tokens, wide)
    if c.shuffle:
        writer.add("training.epoch_count", c.epochs, ValueType.UINT64)
        writer.add("training.shuffle.samples_hash", c.shuffle.samples_hash, ValueType.UINT64)
        writer.add("training.shuffle.rng_state", c.shuffle.rng_state)
        writer.add("training.shuffle.sample_count", c.shuffle.sample_count, ValueType.UINT64)
        writer.add("training.shuffle.next_sample", c.shuffle.next_sample, ValueType.UINT64)
    optimizer = c.optimizer
    n_parameter = sum(values.size for values in c.tensors.values())
    writer.add("optimizer.file_version", 0, ValueType.UINT32)
    writer.add("optimizer.convergence_past_count", optimizer.past_count, ValueType.UINT32)
    writer.add("optimizer.parameter_count", n_parameter, ValueType.UINT64)
    writer.add("optimizer.iteration_count", optimizer.iterations, ValueType.UINT32)
    writer.add("optimizer.just_initialized", optimizer.just_initialized)
    writer.add("optimizer.type", optimizer.type)
    for key, type_ in OPTIMIZER_KEYS[optimizer.type].items():
        writer.add(f"optimizer.{optimizer.type}.{key}", optimizer.counters.get(key, 0), type_)
