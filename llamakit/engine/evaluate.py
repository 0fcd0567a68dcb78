"""Evaluate one sequence and get an output for every token: perplexity, embeddings, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.engine.kv_cache import BlockPool, BlockTable
from llamakit.engine.runner import Row, Runner
from llamakit.errors import ContextLengthError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from llamakit.backend import Executable, KVCache


class Evaluator:
    """A program whose every row has an output called `output`."""

    def __init__(self, program: Executable, kv: KVCache, n_ctx: int, n_row: int, output: str) -> None:
        self.runner = Runner(program, n_row, n_row, 1)
        self.kv, self.n_ctx, self.output = kv, n_ctx, output

    def chunks(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """The output, (n, width), for each chunk of tokens in turn; valid until the next one."""
        if len(tokens) > self.n_ctx:
            raise ContextLengthError(
                f"{len(tokens)} tokens do not fit into a context of {self.n_ctx}: give less text, or a larger -c"
            )
        table = BlockTable(BlockPool(self.kv.spec.n_block), self.kv)
        for start in range(0, len(tokens), self.runner.n_row):
            part = tokens[start : start + self.runner.n_row]
            rows = [Row(token, start + i, 0, True) for i, token in enumerate(part)]
            yield self.runner.run(rows, table.extend(len(part)), [table])[self.output].numpy()


def evaluate(evaluator: Evaluator, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """The output for every token, (n_tokens, width)."""
    import numpy as np

    return np.concatenate([chunk.copy() for chunk in evaluator.chunks(tokens)])
