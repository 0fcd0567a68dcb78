"""Runs the model: weights on the device, one compiled program, rows in and logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.backend import KVSpec, RunSizes
from llamakit.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from llamakit.backend import Buffer, Device, Executable, TensorSource, Weight
    from llamakit.engine.batch import Batch
    from llamakit.gguf import GGMLType, GGUFFile
    from llamakit.models import LoadedModel

BLOCK_SIZE = 32  # positions a block: small enough to share short prefixes, large enough for long inner loops
SPARE_BLOCKS = 2


class FileTensor:
    """A tensor of a GGUF file, read in pieces (`backend.TensorSource`)."""

    def __init__(self, file: GGUFFile, name: str) -> None:
        info = file.tensors[name]
        self.name: str = name
        self.type: GGMLType = info.type
        self.shape: tuple[int, ...] = info.shape
        self.n_bytes: int = info.n_bytes
        self._file, self._raw = file, file.raw(name)

    def pieces(self, size: int = 1 << 24) -> Any:
        """Yield (offset, bytes) in order. Whoever takes the next piece is done with the one before."""
        for offset in range(0, self.n_bytes, size):
            yield offset, self._raw[offset : offset + size]
            self._file.release(self.name, offset, min(offset + size, self.n_bytes))

    def whole(self) -> Any:
        """All bytes where they lie. The array keeps the file mapped."""
        return self._raw


def load_weights(
    device: Device,
    model: LoadedModel,
    file: GGUFFile,
    progress: Callable[[int, int], None] | None = None,
    overrides: Mapping[str, GGUFFile] | None = None,
) -> dict[str, Weight]:
    """Every tensor of the model on the device; `progress(bytes done, bytes in all)` after each.

    `overrides`: other files that tensors are read from, by name, as for `--lora-base`.
    """
    from llamakit.models import GraphSizes

    uses = model.build(
        GraphSizes(rows=1, out_rows=1, seqs=1, blocks_per_seq=1), outputs=("logits", "embeddings")
    ).uses()
    sources: list[TensorSource] = [_source(file, name, overrides or {}) for name in uses]
    total, done = sum(source.n_bytes for source in sources), 0
    weights: dict[str, Weight] = {}
    for source in sources:
        weights[source.name] = device.load(source, uses[source.name])
        done += source.n_bytes
        if progress is not None:
            progress(done, total)
    return weights


def _source(file: GGUFFile, name: str, overrides: Mapping[str, GGUFFile]) -> FileTensor:
    """The tensor, from the file that `overrides` names for it, which must hold it in the model's shape."""
    other = overrides.get(name, file)
    if name not in other.tensors:
        raise ModelFileError(f"{other.path} has no tensor {name!r}, which is to be read from it")
    found, shape = other.tensors[name].shape, file.tensors[name].shape
    if found != shape:
        raise ModelFileError(f"{other.path}: tensor {name!r} has shape {found}, the model's has {shape}")
    return FileTensor(other, name)


class Runner:
    """One compiled program for a model on a device; `n_row`, `n_out` and `n_seq` are the most that a step may have."""

    def __init__(self, program: Executable, n_row: int, n_out: int, n_seq: int) -> None:
        self.program, self.n_row, self.n_out, self.n_seq = program, n_row, n_out, n_seq

    def run(self, batch: Batch) -> Mapping[str, Buffer]:
        """Evaluate a batch; the outputs have one row for each of `batch.outputs`."""
        inputs, n, m = self.program.inputs, len(batch), len(batch.outputs)
        inputs["tokens"][:n] = batch.tokens
        inputs["positions"][:n] = batch.positions
        inputs["sequences"][:n] = batch.sequences
        inputs["cells"][:n] = batch.cells
        inputs["out_rows"][:m] = batch.outputs
        if "adapters" in inputs:
            inputs["adapters"][:n] = batch.adapters
            inputs["out_adapters"][:m] = [batch.adapters[row] for row in batch.outputs]
        tables = inputs["block_tables"]
        for i, table in enumerate(batch.tables):
            blocks = table.array()
            tables[i, : len(blocks)] = blocks
        return self.program.run(RunSizes(rows=n, out_rows=m, seqs=len(batch.tables), longest=batch.longest))


def blocks_for(n_token: int) -> int:
    """Blocks that so many positions of one sequence take."""
    return -(-n_token // BLOCK_SIZE)


def kv_spec(model: LoadedModel, n_block: int, kv_type: str) -> KVSpec:
    """A KV cache of `n_block` blocks, and two more that let a context shift work when all are taken."""
    h = model.hparams
    return KVSpec(
        n_layer=h.n_layer,
        n_block=n_block + SPARE_BLOCKS,
        block_size=BLOCK_SIZE,
        n_head_kv=h.n_head_kv,
        head_dim_k=h.head_dim_k,
        head_dim_v=h.head_dim_v,
        type=kv_type,
        rope=model.rope,
    )


def as_array(buffer: Buffer) -> npt.NDArray[np.float32]:
    """The values on the host."""
    return buffer.numpy()
