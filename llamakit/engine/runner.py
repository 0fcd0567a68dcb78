"""Runs the model: one compiled program, rows in and logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.backend import KVSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamakit.backend import Buffer, Executable
    from llamakit.engine.batch import Batch
    from llamakit.models import LoadedModel

BLOCK_SIZE = 32  # positions a block: small enough to share short prefixes, large enough for long inner loops
SPARE_BLOCKS = 2


class Runner:
    """One compiled program for a model on a device; `n_row`, `n_out` and `n_seq` are the most that a step may have.

    `check` raises an error after a step if the weights are not what they were.
    """

    def __init__(
        self, program: Executable, n_row: int, n_out: int, n_seq: int, check: Callable[[], None] | None = None
    ) -> None:
        self.program, self.n_row, self.n_out, self.n_seq, self.check = program, n_row, n_out, n_seq, check

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
        sizes = {"rows": n, "out_rows": m, "seqs": len(batch.tables)}
        found = self.program.run(sizes, longest=batch.longest)
        if self.check is not None:
            self.check()
        return found


def blocks_for(n_token: int) -> int:
    """Blocks that so many positions of one sequence take."""
    return -(-n_token // BLOCK_SIZE)


def kv_spec(model: LoadedModel, n_block: int, kv_type: str) -> KVSpec:
    """A KV cache of `n_block` blocks, and two more that let a context shift work when all are taken."""
    return KVSpec(layers=model.cache_layers(), n_block=n_block + SPARE_BLOCKS, block_size=BLOCK_SIZE, type=kv_type)
