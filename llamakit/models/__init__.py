"""Networks: hyperparameters and graphs. Architectures are plugins; most are built from `llama.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.errors import ModelFileError
from llamakit.models.architecture import Architecture
from llamakit.models.hparams import HParams, RopeParams
from llamakit.models.llama import GraphSizes, LlamaFamily, Variant
from llamakit.models.rope import RopeOverrides

if TYPE_CHECKING:
    from collections.abc import Set

    import numpy as np
    import numpy.typing as npt

    from llamakit.graph.cache import CacheLayer
    from llamakit.graph.graph import Graph
    from llamakit.graph.ops import Op
    from llamakit.models.architecture import ModelFile
    from llamakit.registry import Registry

__all__ = [
    "Architecture", "GraphSizes", "HParams", "LlamaFamily", "LoadedModel", "RopeOverrides", "RopeParams", "Variant",
    "find_architecture", "load_model",
]  # fmt: skip


class LoadedModel:
    """A model whose metadata and tensors have been checked against its architecture."""

    def __init__(self, file: ModelFile, architecture: Architecture) -> None:
        self._file = file
        self.architecture, self.hparams = architecture, architecture.hparams
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
        return self.architecture.build(sizes, outputs, adapters=adapters, activations=activations)

    def build_loss(self, rows: int, *, states: Set[str] = frozenset(), activations: str = "native") -> Graph:
        """The graph of the loss of at most `rows` rows; the tensors that `states` names are states of the device."""
        return self.architecture.build_loss(rows, states=states, activations=activations)

    def cache_layers(self) -> tuple[CacheLayer, ...]:
        """What each layer of the KV cache keeps of a position."""
        return self.architecture.cache_layers()

    def shallow(self, n_layer: int) -> LoadedModel:
        """The same with its first layers only, for measuring."""
        return LoadedModel(self._file, self.architecture.shallow(n_layer))

    def uses(self) -> dict[str, frozenset[tuple[Op, str]]]:
        """For each tensor the (op, node name) pairs that read it, whatever is asked of the model."""
        sizes = GraphSizes(rows=1, out_rows=1, seqs=1, blocks_per_seq=1)
        return self.build(sizes, outputs=("logits", "embeddings")).uses()

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor of the file as float32, in numpy order: a linear's weight is (n_out, n_in)."""
        return self._file.tensor(name)

    @property
    def n_parameter(self) -> int:
        """How many parameters the model's tensors hold."""
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
                hint = "it has a tensor for each expert, as before 2024; convert it again" * (old in self.tensors)
                missing = f"{self._file.path}: tensor {parameter.name!r} {parameter.shape} is missing"
                raise ModelFileError(missing, hint=hint)
            if tuple(info.shape) != parameter.shape:
                raise ModelFileError(
                    f"{self._file.path}: tensor {parameter.name!r} has shape {tuple(info.shape)},"
                    f" the metadata asks for {parameter.shape}"
                )


def load_model(
    file: ModelFile, overrides: RopeOverrides | None = None, registry: Registry | None = None
) -> LoadedModel:
    """Check a file's metadata and tensors and make the model; weights are not read.

    `registry` knows the architectures; without one, those that are installed.
    """
    name = str(file.metadata.get("general.architecture"))[:100]
    found, known = find_architecture(name, registry)
    if found is None:
        raise ModelFileError(f"{file.path}: architecture {name!r} is not supported; supported are: {', '.join(known)}")
    return LoadedModel(file, found(file, overrides))


def find_architecture(name: str, registry: Registry | None = None) -> tuple[type[Architecture] | None, list[str]]:
    """The architecture that files call `name`, None if there is no such; and the names of all."""
    from llamakit.registry import Registry

    registry = registry or Registry.discover()
    known = registry.entry_names("architecture")
    return (registry.architecture(name) if name in known else None), known
