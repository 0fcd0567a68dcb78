"""What an architecture is: the contract between the core and the plugins under `plugins/architectures`.

    class Qwen2(LlamaFamily):
        name = "qwen2"  # `general.architecture` in GGUF files
        variant = Variant(rope_pairs="halves")

An object stands for one model: it has read the metadata of a file, and builds the graphs that the engine and training
run. Weights are named, never read. `models.llama.LlamaFamily` has what most decoders share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import TYPE_CHECKING, ClassVar, Self

import msgspec

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Set
    from typing import Any, Protocol

    import numpy as np
    import numpy.typing as npt

    from llamakit.graph.cache import CacheLayer
    from llamakit.graph.graph import Graph
    from llamakit.models.hparams import HParams
    from llamakit.models.llama import GraphSizes
    from llamakit.models.rope import RopeOverrides

    class ModelFile(Protocol):
        """What is needed of an opened file (`gguf.GGUFFile`)."""

        path: Any

        @property
        def metadata(self) -> Mapping[str, object]:
            """Values by key."""

        @property
        def tensors(self) -> Mapping[str, Any]:
            """Records with `shape`, by name."""

        def tensor(self, name: str) -> npt.NDArray[np.float32]:
            """A tensor as float32."""


class Architecture(ABC):
    """A model of one architecture. Making it reads and checks metadata; a `ModelFileError` says what is wrong.

    The engine's graphs have the inputs tokens, positions, sequences, cells (rows,), block_tables (seqs, blocks) and
    out_rows (out_rows,), with adapters also adapters (rows,) and out_adapters (out_rows,); the order of `cache_layers`
    is that of `AttentionAttrs.layer`.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    hparams: HParams

    @abstractmethod
    def __init__(self, file: ModelFile, overrides: RopeOverrides | None = None) -> None:
        """Read `hparams` from the metadata; `overrides` are what a user sets over the file's rope."""

    @abstractmethod
    def cache_layers(self) -> tuple[CacheLayer, ...]:
        """What each layer of the KV cache keeps of a position."""

    @abstractmethod
    def build(
        self, sizes: GraphSizes, outputs: tuple[str, ...], *, adapters: bool = False, activations: str = "native"
    ) -> Graph:
        """The graph for steps of at most `sizes`.

        `outputs` of "logits" (out_rows, n_vocab) and "embeddings" (out_rows, n_embd); `adapters`: with slots of LoRA
        adapters; `activations`: see `graph.attrs.LinearAttrs`.
        """

    def shallow(self, n_layer: int) -> Self:
        """The same with its first layers only."""
        other = copy(self)
        h = self.hparams
        other.hparams = msgspec.structs.replace(h, n_layer=n_layer, layers=h.layers[:n_layer])
        return other

    def build_loss(self, rows: int, *, states: Set[str] = frozenset(), activations: str = "native") -> Graph:
        """The graph of the loss, (rows,), of at most `rows` rows, without a cache; `states`: tensors that are trained.

        Inputs, all (rows,): tokens, positions, sequences; targets, -1 for none; and weights, float32.
        """
        raise UsageError(f"models of architecture {self.name!r} cannot be trained")
