"""One step's rows: which tokens are evaluated, where their keys and values go, and whose output is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.engine.kv_cache import BlockTable


class Batch:
    """Rows in the order in which they were added; parallel lists, one value a row."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.sequences: list[int] = []  # index into `tables`
        self.cells: list[int] = []
        self.adapters: list[int] = []  # adapter slot, 0: none
        self.outputs: list[int] = []  # rows whose output is wanted
        self.tables: list[BlockTable] = []
        self.longest = 0  # the largest position + 1

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, tokens: Sequence[int], table: BlockTable, *, n_output: int = 1, adapter: int = 0) -> int:
        """Append tokens of one sequence, which its table is extended by; the last `n_output` rows give outputs.

        Returns the index of the first of these outputs.
        """
        start, n = table.length, len(tokens)
        index = len(self.tables)
        self.tables.append(table)
        first_row, first_output = len(self.tokens), len(self.outputs)
        self.tokens += tokens
        self.cells += table.extend(n)
        if n == 1:
            self.positions.append(start)
            self.sequences.append(index)
            self.adapters.append(adapter)
        else:
            self.positions += range(start, start + n)
            self.sequences += [index] * n
            self.adapters += [adapter] * n
        self.outputs += range(first_row + n - n_output, first_row + n)
        self.longest = max(self.longest, start + n)
        return first_output
