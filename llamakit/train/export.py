"""What was trained, as files that are served."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.adapter import Adapter
from llamakit.gguf.constants import GGMLType
from llamakit.gguf.native import quantize
from llamakit.gguf.quantize import copy_metadata
from llamakit.gguf.writer import GGUFWriter
from llamakit.lora.write import write_adapter
from llamakit.passes.lora import A, B

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from llamakit.backend import State
    from llamakit.gguf import GGUFFile
    from llamakit.passes.lora import AdapterShape


def write_trained_adapter(
    path: Path, base: GGUFFile, shapes: Mapping[str, AdapterShape], states: Mapping[str, Any]
) -> None:
    """The adapters as a GGUF file that scales them as they were trained; of norms, which it holds whole, the sums."""
    pairs = {name: (states[name + A], states[name + B], shape.scale) for name, shape in shapes.items()}
    tensors = {name: Adapter(A=a, B=b, scale=scale) for name, (a, b, scale) in pairs.items() if not _is_norm(name)}
    norms = {name: _whole(base.tensor(name), *pair) for name, pair in pairs.items() if _is_norm(name)}
    write_adapter(path, base.metadata, tensors, norms=norms)


def _whole(weight: Any, a: Any, b: Any, scale: float) -> npt.NDArray[np.float32]:
    """A norm's weight (n,) with its adapter, (r, n) and (1, r)."""
    whole: npt.NDArray[np.float32] = np.asarray(weight + scale * (b.astype(np.float64) @ a)[0], np.float32)
    return whole


def _is_norm(name: str) -> bool:
    return name.endswith("_norm.weight")


def write_model(path: Path, base: GGUFFile, trained: Mapping[str, State]) -> None:
    """The base with its trained tensors in the place of its own, in the types that they have there.

    ModelChangedError, and no file, if the base is changed meanwhile.
    """
    with GGUFWriter(path, source=base) as writer:
        copy_metadata(base, writer)
        for name, info in base.tensors.items():
            data = partial(_encoded, trained[name], info.type) if name in trained else partial(base.raw, name)
            writer.add_tensor(name, data, info.type, tuple(info.shape))


def _encoded(state: State, type_: GGMLType) -> npt.NDArray[Any]:
    """A state's values in a type, made when its turn to be written comes."""
    values = np.ascontiguousarray(state.read(), np.float32)
    return values if type_ is GGMLType.F32 else quantize(type_, values)
