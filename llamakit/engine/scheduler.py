"""Which tokens are evaluated in the next step.

Answers that are being written come first, one row each and one for each guessed token, so that they never wait for a
long prompt. What is left of the step's rows goes to prompts, by priority and then arrival, cut into chunks; beside
running answers these are kept so small that the step does not take long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llamakit.engine.sequence import Track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.engine.group import Group


class Limits(msgspec.Struct, frozen=True):
    """The most that a step may have; `prompt_rows`: rows of prompts beside running answers.

    `context`: tokens that a sequence may have; what is beyond is evaluated when the others were shifted.
    """

    rows: int
    outputs: int
    sequences: int
    prompt_rows: int
    context: int


class Chunk(msgspec.Struct):
    """Evaluate the next `n` tokens of a track; `n_output` rows at its end give logits."""

    group: Group
    track: Track
    n: int
    n_output: int
    first_output: int = -1  # where they are, once the step ran

    @property
    def tokens(self) -> list[int]:
        """The tokens, guessed ones last."""
        track, start = self.track, self.track.table.length
        known = track.tokens[start : start + self.n]
        return known + track.draft[: self.n - len(known)]


class _Plan:
    """A step that fills up."""

    def __init__(self, limits: Limits) -> None:
        self.rows, self.outputs, self.sequences = limits.rows, limits.outputs, limits.sequences
        self.guesses = 0  # rows that are left for guessed tokens when every answer has its own
        self.chunks: list[Chunk] = []

    def add(self, group: Group, track: Track, n: int, n_output: int) -> None:
        self.chunks.append(Chunk(group, track, n, n_output))
        self.rows -= n
        self.outputs -= n_output
        self.sequences -= 1


def schedule(groups: Sequence[Group], limits: Limits) -> list[Chunk]:
    """The chunks of a step; `groups` are in the order in which they are served."""
    plan = _Plan(limits)
    answers: list[tuple[Group, list[Track]]] = []
    prompts: list[tuple[Group, list[Track]]] = []
    for group in groups:
        ready, behind = _parted(group)
        if ready:
            answers.append((group, ready))
        if behind:
            prompts.append((group, behind))
    plan.guesses = max(0, min(plan.rows, plan.outputs) - sum(len(tracks) for _, tracks in answers))
    for group, tracks in answers:
        _decode(plan, group, tracks)
    if plan.chunks:
        plan.rows = min(plan.rows, limits.prompt_rows)
    for group, tracks in prompts:
        for track in tracks:
            _prefill(plan, group, track, limits.context)
            if group.forked and track.n_pending > 1:
                break  # the others begin alike, and find it when it is there
    return plan.chunks


def _parted(group: Group) -> tuple[list[Track], list[Track]]:
    """The tracks that choose a token in the next step, and those that are evaluated up to there first.

    Those of a lockstep group choose together. Of others, which were sent back into the queue, say, some may be found
    whole in the cache and some not: each of the former goes on by itself, with what was guessed for it.
    """
    pending = [track for track in group.tracks if track.n_pending]
    ready = [track for track in pending if track.n_pending == 1]
    if group.lockstep and len(ready) < len(pending):
        return [], pending
    return ready, [track for track in pending if track.n_pending > 1]


def _decode(plan: _Plan, group: Group, tracks: Sequence[Track]) -> None:
    """One row for each track; tracks of a lockstep group all or none."""
    n = len(tracks)
    if group.lockstep and (n > plan.rows or n > plan.outputs or n > plan.sequences):
        return
    for track in tracks:
        if not plan.sequences or not plan.rows or not plan.outputs:
            return
        del track.draft[plan.guesses :]
        n_row = 1 + len(track.draft)
        plan.guesses -= len(track.draft)
        plan.add(group, track, n_row, n_row)


def _prefill(plan: _Plan, group: Group, track: Track, context: int) -> None:
    """As much of the pending tokens as there is room for."""
    want_all = group.request.prompt_logprobs is not None and group.in_prefill
    # The last one goes together with those of the others, or after a shift.
    pending = track.n_pending - (1 if group.lockstep or len(track.tokens) > context else 0)
    n = min(pending, plan.rows, plan.outputs if want_all else plan.rows)
    if n <= 0 or not plan.sequences:
        return
    last = n == track.n_pending
    if last and not plan.outputs:
        n, last = n - 1, False
    if n:
        plan.add(group, track, n, n if want_all else int(last))
