"""Networks: one small file for each architecture, all built from `llama.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llamakit.errors import ModelFileError
from llamakit.models import baichuan, qwen2, qwen3
from llamakit.models.hparams import HParams, RopeParams, read_hparams
from llamakit.models.llama import GraphSizes, LlamaGraph, Variant
from llamakit.models.rope import RopeOverrides, override, rope_attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Set
    from typing import Any, Protocol

    import numpy as np
    import numpy.typing as npt

    from llamakit.graph.graph import Graph
    from llamakit.graph.ops import Op, RopeAttrs

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


__all__ = ["ARCHITECTURES", "GraphSizes", "HParams", "LoadedModel", "RopeOverrides", "RopeParams", "load_model"]

ARCHITECTURES: dict[str, Variant] = {
    "llama": Variant(),
    "mistral": Variant(),
    "baichuan": baichuan.VARIANT,
    "qwen2": qwen2.VARIANT,
    "qwen3": qwen3.VARIANT,
    "qwen3moe": qwen3.VARIANT,  # its experts are in the metadata, as Mixtral's are
}


class LoadedModel:
    """A model whose metadata and tensors have been checked against its architecture."""

    def __init__(self, file: ModelFile, hparams: HParams, variant: Variant, rope: RopeAttrs) -> None:
        self._file = file
        self.hparams, self.variant, self.rope = hparams, variant, rope
        self.tensors: Set[str] = file.tensors.keys()
        self._check_tensors()

    def build(
        self,
        sizes: GraphSizes,
        *,
        outputs: tuple[str, ...] = ("logits",),
        adapters: bool = False,
        activations: str = "native",
    ) -> Graph:
        """The model's graph for steps of at most `sizes`; `activations`: see `graph.attrs.LinearAttrs`."""
        return self._graph(activations=activations).build(sizes, outputs, adapters)

    def build_loss(self, rows: int, *, states: Set[str] = frozenset(), activations: str = "native") -> Graph:
        """The graph of the loss of at most `rows` rows; the tensors that `states` names are states of the device."""
        return self._graph(states=states, activations=activations).build_loss(rows)

    def _graph(self, **settings: Any) -> LlamaGraph:
        return LlamaGraph(self.hparams, self.variant, self.rope, self.tensors, **settings)

    def shallow(self, n_layer: int) -> LoadedModel:
        """The same with its first layers only, for measuring."""
        hparams = msgspec.structs.replace(self.hparams, n_layer=n_layer)
        return LoadedModel(self._file, hparams, self.variant, self.rope)

    def uses(self) -> dict[str, frozenset[tuple[Op, str]]]:
        """For each tensor the (op, node name) pairs that read it, whatever is asked of the model."""
        sizes = GraphSizes(rows=1, out_rows=1, seqs=1, blocks_per_seq=1)
        return self.build(sizes, outputs=("logits", "embeddings")).uses()

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor of the file as float32, in numpy order: a linear's weight is (n_out, n_in)."""
        return self._file.tensor(name)

    @property
    def n_parameter(self) -> int:
        """How many numbers the model's tensors hold."""
        total = 0
        for info in self._file.tensors.values():
            count = 1
            for size in info.shape:
                count *= size
            total += count
        return total

    def _check_tensors(self) -> None:
        """Every tensor that the graph reads must be there with its shape."""
        graph = self.build(GraphSizes(rows=1, seqs=1, blocks_per_seq=1, out_rows=1))
        for parameter in graph.parameters.values():
            info = self._file.tensors.get(parameter.name)
            if info is None:
                old = parameter.name.replace("_exps.weight", ".0.weight")
                hint = "it has a tensor for each expert, as before 2024; convert it anew" * (old in self.tensors)
                missing = f"{self._file.path}: tensor {parameter.name!r} {parameter.shape} is missing"
                raise ModelFileError(missing, hint=hint)
            if tuple(info.shape) != parameter.shape:
                raise ModelFileError(
                    f"{self._file.path}: tensor {parameter.name!r} has shape {tuple(info.shape)},"
                    f" the metadata asks for {parameter.shape}"
                )


def load_model(file: ModelFile, overrides: RopeOverrides | None = None) -> LoadedModel:
    """Check a file's metadata and tensors and make the model; weights are not read."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelFileError(f"{file.path}: architecture {architecture!r} is not supported; supported are: {known}")
    name = str(architecture)
    shapes = {key: tuple(info.shape) for key, info in file.tensors.items()}
    hparams = read_hparams(file.metadata, name, shapes, str(file.path))
    if name == "baichuan":
        baichuan.check(hparams)
    variant = ARCHITECTURES[name]
    factors = file.tensor("rope_freqs.weight") if "rope_freqs.weight" in file.tensors else None
    rope = rope_attrs(override(hparams.rope, overrides), variant.rope_pairs, factors)
    return LoadedModel(file, hparams, variant, rope)
