"""Hyperparameters of a model, read and checked from GGUF metadata; names are GGUF's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from llamakit.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_SIZE = 1 << 24  # of any one dimension; the largest models have about 2^18


class RopeParams(msgspec.Struct, frozen=True, kw_only=True):
    """How positions are encoded. `scaling`: "none", "linear" or "yarn"; `factor` stretches the context."""

    n_rot: int
    freq_base: float = 10000.0
    scaling: str = "none"
    factor: float = 1.0
    n_ctx_orig: int = 0
    attn_factor: float = 1.0
    ext_factor: float = 1.0  # of YaRN: 1 mixes extrapolation in, 0 is plain interpolation
    beta_fast: float = 32.0
    beta_slow: float = 1.0


class LayerSizes(NamedTuple):
    """What may differ from layer to layer."""

    n_head: int
    n_head_kv: int
    n_ff: int


class HParams(msgspec.Struct, frozen=True, kw_only=True):
    """What defines a network of the llama family; `layers` where its layers differ, else all have the same sizes.

    Then `n_head`, `n_head_kv` and `n_ff` are those of the largest.
    """

    architecture: str
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim_k: int
    head_dim_v: int
    n_ff: int
    norm_epsilon: float
    rope: RopeParams
    n_expert: int = 0  # 0: no mixture of experts
    n_expert_used: int = 0
    n_ff_expert: int = 0
    sliding_window: int | None = None
    tied_embeddings: bool = False
    layers: tuple[LayerSizes, ...] = ()

    def layer(self, number: int) -> LayerSizes:
        """Heads and width of one layer."""
        return self.layers[number] if self.layers else LayerSizes(self.n_head, self.n_head_kv, self.n_ff)


class _Reader:
    """Typed access to the keys of one architecture."""

    def __init__(self, metadata: Mapping[str, object], architecture: str, where: str) -> None:
        self.metadata, self.architecture, self.where = metadata, architecture, where

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of `<architecture>.<key>`; without a default it must be there."""
        name = f"{self.architecture}.{key}"
        value = self.metadata.get(name)
        if value is None:
            if default is None:
                raise ModelFileError(f"{self.where}: metadata {name!r} is missing")
            return default
        if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
            value = value[0].item()  # one value a layer, all the same
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            found = "an array that differs by layer" if isinstance(value, np.ndarray) else repr(value)[:100]
            raise ModelFileError(f"{self.where}: metadata {name!r} is {found}; one {kind.__name__} is needed")
        return value

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        """An integer between `least` and `MAX_SIZE`."""
        value: int = self.get(key, int, default)
        if not least <= value <= MAX_SIZE:
            raise ModelFileError(
                f"{self.where}: metadata '{self.architecture}.{key}' is {value}, outside {least}..{MAX_SIZE}"
            )
        return value

    def sizes(self, key: str, n_layer: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """An integer between 1 and `MAX_SIZE` for each layer; one for all may stand for them."""
        name = f"{self.architecture}.{key}"
        value = self.metadata.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, np.ndarray):
            return (self.size(key),) * n_layer
        found = tuple(int(each) for each in value) if value.dtype.kind in "iu" else ()
        if len(found) != n_layer or not all(1 <= each <= MAX_SIZE for each in found):
            raise ModelFileError(
                f"{self.where}: metadata {name!r} must be a size of 1 to {MAX_SIZE} for each of {n_layer} layers",
                found=str(value.tolist())[:100],
            )
        return found

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite float above 0."""
        value: float = self.get(key, float, default)
        if not 0 < value < float("inf"):
            raise ModelFileError(
                f"{self.where}: metadata '{self.architecture}.{key}' is {value}; more than 0 is needed"
            )
        return value


def read_hparams(
    metadata: Mapping[str, object],
    architecture: str,
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
    norm_epsilon: float | None = None,
) -> HParams:
    """Read the keys that the whole llama family shares; `shapes` are those of the file's tensors.

    `norm_epsilon`: of norms if the file does not say; None: it must.
    """
    r = _Reader(metadata, architecture, where)
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise ModelFileError(
            f"{where} has no tensor 'token_embd.weight': it holds a vocabulary only, or is not a whole model"
        )
    n_layer = r.size("block_count")
    _check_layers(n_layer, shapes, where)
    layers = _read_layers(r, n_layer)
    n_head, n_head_kv, n_ff = (max(sizes) for sizes in zip(*layers, strict=True))
    n_embd = r.size("embedding_length")
    head_dim_k = r.size("attention.key_length", n_embd // n_head or None)
    n_expert = r.size("expert_count", 0, least=0)
    n_expert_used = r.size("expert_used_count", 0, least=0)
    if n_expert and not 1 <= n_expert_used <= n_expert:
        raise ModelFileError(f"{where}: expert_used_count is {n_expert_used}, of {n_expert} experts")
    return HParams(
        architecture=architecture,
        n_vocab=embedding[0],
        n_ctx_train=r.size("context_length"),
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim_k=head_dim_k,
        head_dim_v=r.size("attention.value_length", n_embd // n_head or None),
        n_ff=n_ff,
        n_expert=n_expert,
        n_expert_used=n_expert_used if n_expert else 0,
        n_ff_expert=r.size("expert_feed_forward_length", n_ff),
        norm_epsilon=r.positive("attention.layer_norm_rms_epsilon", norm_epsilon),
        rope=_read_rope(r, head_dim_k),
        sliding_window=r.size("attention.sliding_window", 0, least=0) or None,
        tied_embeddings="output.weight" not in shapes,
        layers=() if len(set(layers)) == 1 else layers,
    )


def _read_layers(r: _Reader, n_layer: int) -> tuple[LayerSizes, ...]:
    """Heads and width of each layer."""
    heads = r.sizes("attention.head_count", n_layer)
    heads_kv = r.sizes("attention.head_count_kv", n_layer, heads)
    layers = tuple(map(LayerSizes, heads, heads_kv, r.sizes("feed_forward_length", n_layer)))
    for n_head, n_head_kv, _ in layers:
        if n_head % n_head_kv:
            raise ModelFileError(f"{r.where}: {n_head} heads do not divide into {n_head_kv} KV heads")
    return layers


def _check_layers(n_layer: int, shapes: Iterable[str], where: str) -> None:
    """Every layer has tensors. Looked at before a graph is built, which takes as long as there are layers to be."""
    there = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
    if len(there) < n_layer:
        missing = next(i for i in range(n_layer) if str(i) not in there)
        raise ModelFileError(
            f"{where}: block_count is {n_layer:,}, but tensors of layer {missing:,} are missing",
            found=f"tensors of {len(there):,} layers",
        )


def _read_rope(r: _Reader, head_dim: int) -> RopeParams:
    n_rot = r.size("rope.dimension_count", head_dim)
    if n_rot % 2 or n_rot > head_dim:
        raise ModelFileError(f"{r.where}: rope.dimension_count is {n_rot}; an even number up to {head_dim} is needed")
    linear = r.get("rope.scale_linear", float, 1.0)  # the key of 2023
    return RopeParams(
        n_rot=n_rot,
        freq_base=r.positive("rope.freq_base", 10000.0),
        scaling=r.get("rope.scaling.type", str, "linear" if linear != 1.0 else "none"),
        factor=r.positive("rope.scaling.factor", linear),
        n_ctx_orig=r.size("rope.scaling.original_context_length", r.size("context_length")),
        attn_factor=r.positive("rope.scaling.attn_factor", 1.0),
        ext_factor=r.get("rope.scaling.yarn_ext_factor", float, 1.0),
        beta_fast=r.positive("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=r.positive("rope.scaling.yarn_beta_slow", 1.0),
    )
