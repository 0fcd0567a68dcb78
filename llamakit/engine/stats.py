"""What the engine counts, and what it tells of its requests. Numbers only: no text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from llamakit.engine.group import Group


class SlotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One request: its state is "queued", "prompt" or "generating"; counts in tokens, `seconds` since it came.

    `width`: sequences that it may need at once.
    """

    id: str
    owner: str
    state: str
    n_prompt: int
    n_cached: int
    n_evaluated: int
    n_generated: int
    max_tokens: int
    n_answer: int
    width: int
    priority: int
    seconds: float
    adapters: tuple[tuple[str, float], ...] = ()


def slot_info(group: Group, state: str) -> SlotInfo:
    """What there is to say of a group; safe to call while it runs."""
    sequences = list(group.sequences)
    return SlotInfo(
        id=group.job.id, owner=group.owner, state=state,
        n_prompt=len(group.prepared.tokens), n_cached=group.timings.n_cached,
        n_evaluated=max((s.table.length for s in sequences), default=0),
        n_generated=sum(len(s.generated) for s in sequences), max_tokens=group.max_tokens,
        n_answer=group.request.n, width=group.width, priority=group.request.priority,
        seconds=group.now() - group.submitted, adapters=group.adapters,
    )  # fmt: skip


class Counters(msgspec.Struct):
    """Totals since the engine was made. `step_seconds`: spent in the backend, for `n_row` rows in `n_step` steps."""

    n_request: int = 0
    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_preempted: int = 0
    n_step: int = 0
    n_row: int = 0
    step_seconds: float = 0.0

    def step(self, rows: int, seconds: float) -> None:
        """One step of the backend."""
        self.n_step += 1
        self.n_row += rows
        self.step_seconds += seconds

    def finished(self, group: Group) -> None:
        """One request that ended."""
        self.n_request += 1
        self.n_prompt += len(group.prepared.tokens)
        self.n_generated += sum(len(s.generated) for s in group.sequences)
