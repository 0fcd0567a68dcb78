"""How fast a model runs here: tokens per second of prompts and of generation, at depths and batch sizes."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import msgspec

from llamakit.engine.batch import Batch
from llamakit.engine.kv_cache import BlockPool, BlockTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llamakit.backend import Buffer
    from llamakit.engine.engine import Engine
    from llamakit.work import Work


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `deviation` is the standard deviation of tokens_per_second over the repetitions.

    `share`: of the rate that the device's ceilings allow (0: they are not known), `limit`: by which of them, "read" or
    a type of operands. Above 1 where weights stay in caches, which give more than the memory behind them, and where the
    device was busy while its ceilings were measured.
    """

    test: str
    n_prompt: int
    n_gen: int
    depth: int
    batch: int
    tokens_per_second: float
    deviation: float
    repetitions: int
    share: float = 0.0
    limit: str = ""


class Bench:
    """Runs the engine's program directly: no sampling, no text, the same tokens each time.

    With `work`, each measurement says how near to the ceilings it came.
    """

    def __init__(self, engine: Engine, work: Work | None = None) -> None:
        self.engine, self.work = engine, work
        self._pool = BlockPool(engine.space.kv.spec.n_block)
        self._tables: list[BlockTable] = []  # of sequences that are `_depth` tokens long
        self._depth = 0
        self._made: Buffer | None = None

    def run(
        self, prompts: Sequence[int], gens: Sequence[int], depths: Sequence[int], batches: Sequence[int], repeat: int
    ) -> Iterator[Measurement]:
        """Every prompt length at every depth, every generation length at every depth and batch."""
        for depth in depths:
            for n in (n for n in prompts if n):
                yield self.measure(f"pp{n}", n, 0, depth, 1, repeat)
            for n in (n for n in gens if n):
                for batch in batches:
                    yield self.measure(f"tg{n}", 0, n, depth, batch, repeat)

    def measure(self, test: str, n_prompt: int, n_gen: int, depth: int, batch: int, repeat: int) -> Measurement:
        """One line: a prompt, then tokens of `batch` sequences, after `depth` tokens; one run more warms up."""
        name = test + (f"@d{depth}" if depth else "") + (f"x{batch}" if batch > 1 else "")
        tables = self._at(depth, batch)
        rates = []
        for i in range(repeat + 1):
            start = time.perf_counter()
            if n_prompt:
                self._prompt(tables[0], n_prompt)
            for _ in range(n_gen):
                self._decode(tables)
            self._wait()
            seconds = time.perf_counter() - start
            if i:  # the first one warms up
                rates.append((n_prompt + n_gen * batch) / seconds)
            for table in tables:
                table.truncate(depth)
        rate = statistics.median(rates)
        share, limit = 0.0, ""
        if self.work is not None:
            seconds, limit = self.work.least(n_prompt, n_gen, depth, batch, self.engine.runner.n_row)
            share = rate * seconds / (n_prompt + n_gen * batch)
        return Measurement(
            test=name, n_prompt=n_prompt, n_gen=n_gen, depth=depth, batch=batch, tokens_per_second=rate,
            deviation=statistics.pstdev(rates), repetitions=repeat, share=share, limit=limit,
        )  # fmt: skip

    def _at(self, depth: int, batch: int) -> list[BlockTable]:
        """Sequences of that length; filling them takes long, so they are kept until another length is asked for."""
        if depth != self._depth:
            for table in self._tables:
                table.truncate(0)
            self._tables, self._depth = [], depth
        while len(self._tables) < batch:
            table = BlockTable(self._pool, self.engine.space.kv)
            self._prompt(table, depth)
            self._tables.append(table)
        return self._tables[:batch]

    def _prompt(self, table: BlockTable, n: int) -> None:
        runner = self.engine.runner
        for start in range(0, n, runner.n_row):
            count, base = min(runner.n_row, n - start), table.length
            batch = Batch()
            batch.add([self._token(base + i) for i in range(count)], table, n_output=int(start + count == n))
            self._made = runner.run(batch)["logits"]

    def _wait(self) -> None:
        """Until the last step is done: devices go on while the host does."""
        if self._made is not None and self._made.shape[0]:
            self._made.rows([0])

    def _decode(self, tables: list[BlockTable]) -> None:
        batch = Batch()
        for i, table in enumerate(tables):
            batch.add([self._token(table.length + i)], table)
        self._made = self.engine.runner.run(batch)["logits"]

    def _token(self, i: int) -> int:
        return (i * 7919 + 1) % self.engine.tokenizer.n_vocab
