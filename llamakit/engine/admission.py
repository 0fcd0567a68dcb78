"""Who of those that wait is let in next, and who of those that run makes room for them.

Priority comes first. Among equals, the client that has least running goes first, then who came first; a client that
holds more than its share for longer than `QUANTUM` seconds gives a place to one that has waited for `PATIENCE` seconds.
Who makes room goes back into the queue, and loses nothing but time.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llamakit.engine.group import Group

PATIENCE = 1.0
QUANTUM = 1.0


def shares(running: Sequence[Group]) -> Counter[str]:
    """Sequences that each client has running."""
    counts: Counter[str] = Counter()
    for group in running:
        counts[group.owner] += group.width
    return counts


def in_turn(waiting: Sequence[Group], running: Sequence[Group]) -> Iterator[Group]:
    """Those that wait, in the order in which they are let in. `waiting` is in order of priority and arrival."""
    if len({group.owner for group in waiting}) < 2:
        yield from waiting
        return
    counts = shares(running)
    for priority in sorted({group.request.priority for group in waiting}, reverse=True):
        queues: dict[str, deque[Group]] = {}
        for group in waiting:
            if group.request.priority == priority:
                queues.setdefault(group.owner, deque()).append(group)
        while queues:
            owner = min(queues, key=lambda each: (counts[each], queues[each][0].number))
            group = queues[owner].popleft()
            counts[owner] += group.width
            if not queues[owner]:
                del queues[owner]
            yield group


def who_yields(group: Group, running: Sequence[Group], now: float) -> Group | None:
    """The running group that makes room for one that waits, None if nobody has to."""
    priority = group.request.priority
    lower = [each for each in running if each.request.priority < priority]
    if lower:
        return max(lower, key=lambda each: each.order)
    if now - group.submitted < PATIENCE:
        return None
    counts = shares(running)
    fair = counts[group.owner] + group.width
    more = [
        each
        for each in running
        if each.request.priority == priority
        and counts[each.owner] - each.width >= fair
        and now - each.entered >= QUANTUM
    ]
    return max(more, key=lambda each: (counts[each.owner], each.order)) if more else None
