"""Which tokens are evaluated in the next step.

Sequences that generate come first, one row each, so that they never wait for a long prompt; what is left of the
step's rows goes to prompts, in order of arrival, cut into chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llamakit.engine.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Iterable


class Chunk(msgspec.Struct, frozen=True):
    """Evaluate the next `n` tokens of a sequence; `last`: they are all it has, so its output is wanted."""

    sequence: Sequence
    n: int
    last: bool


def schedule(sequences: Iterable[Sequence], n_row: int, n_out: int, n_seq: int) -> list[Chunk]:
    """Fill a step of at most `n_row` rows, `n_out` outputs and `n_seq` sequences."""
    ready = sorted((s for s in sequences if s.n_pending), key=lambda s: s.n_pending > 1)  # stable: by arrival
    chunks: list[Chunk] = []
    rows = outputs = 0
    for sequence in ready[:n_seq]:
        n = min(sequence.n_pending, n_row - rows)
        last = n == sequence.n_pending
        if n == 0 or (last and outputs == n_out):
            break
        chunks.append(Chunk(sequence, n, last))
        rows, outputs = rows + n, outputs + last
    return chunks
