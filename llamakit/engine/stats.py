"""What the engine counts, and what it tells of its requests. Numbers only: no text."""

from __future__ import annotations

from ctypes import Structure, c_double, c_int64
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


class Counters(Structure):
    """Totals since the engine was made. `step_seconds`: spent in the backend, for `n_row` rows in `n_step` steps;
    `mean_seconds`: what requests took, lately.

    The numbers lie in the structure. As objects they would be made anew by each change, among what answers hold then,
    and keep the memory around them from being given back.
    """

    n_request: int
    n_prompt: int
    n_cached: int
    n_generated: int
    n_drafted: int
    n_accepted: int
    n_preempted: int
    n_step: int
    n_row: int
    step_seconds: float
    mean_seconds: float
    _fields_ = (
        ("n_request", c_int64), ("n_prompt", c_int64), ("n_cached", c_int64), ("n_generated", c_int64),
        ("n_drafted", c_int64), ("n_accepted", c_int64), ("n_preempted", c_int64), ("n_step", c_int64),
        ("n_row", c_int64), ("step_seconds", c_double), ("mean_seconds", c_double),
    )  # fmt: skip

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
