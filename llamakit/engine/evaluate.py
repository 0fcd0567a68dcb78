"""Evaluate one sequence and get an output for every token: perplexity, embeddings, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.engine.batch import Batch
from llamakit.engine.prepare import select
from llamakit.errors import ContextLengthError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from llamakit.engine.engine import Engine
    from llamakit.engine.runner import Runner


class Evaluator:
    """A program whose every row has an output called `output`; it shares the engine's cache and its adapters."""

    def __init__(self, runner: Runner, engine: Engine, output: str) -> None:
        self.runner, self.engine, self.output = runner, engine, output
        self.n_ctx = engine.n_ctx

    def chunks(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """The output, (n, width), for each chunk of tokens in turn; valid until the next one."""
        if len(tokens) > self.n_ctx:
            raise ContextLengthError(
                f"{len(tokens)} tokens do not fit into a context of {self.n_ctx}: give less text, or a larger -c"
            )
        adapters = self.engine.adapters
        slot = 0 if adapters is None else adapters.acquire(select(self.engine, None))
        if slot is None:
            raise UnavailableError("all slots for adapters are in use", hint="try again later, or more adapter_slots")
        table = self.engine.space.new_table()
        try:
            for start in range(0, len(tokens), self.runner.n_row):
                part = tokens[start : start + self.runner.n_row]
                batch = Batch()
                self.engine.space.find_room(table.missing(len(part)))
                batch.add(part, table, n_output=len(part), adapter=slot)
                yield self.runner.run(batch)[self.output].numpy()
        finally:
            table.release()
            if adapters is not None:
                adapters.release(slot)


def evaluate(evaluator: Evaluator, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """The output for every token, (n_tokens, width)."""
    import numpy as np

    return np.concatenate([chunk.copy() for chunk in evaluator.chunks(tokens)])
