"""Who runs, who waits, and who makes room for whom.

Priority comes first. Among equals, the client that has least running for its weight goes first, then who came first; a
client that holds more than its share for longer than `QUANTUM` seconds gives a place to one that has waited for
`PATIENCE` seconds.
Who makes room goes back into the queue, and loses nothing but time.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from typing import TYPE_CHECKING

from llamakit.engine.job import Queued
from llamakit.engine.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llamakit.engine.adapters import AdapterStore
    from llamakit.engine.group import Group
    from llamakit.engine.kv_space import KVSpace
    from llamakit.engine.prefix_tree import Node
    from llamakit.engine.sequence import Sequence as Answer
    from llamakit.engine.stats import Counters

PATIENCE = 1.0
QUANTUM = 1.0
MOST_MATCHED = 1 << 19  # tokens of prompts that are found in the prefix tree in one step: about 30 ms
UNREAD_SECONDS = 0.1  # one step of a wide answer may be more than may be unread: its reader has time for that


class Admission:
    """The queue and the running requests, both by priority and arrival.

    `places`: sequences that may run at once. A request that runs holds places, an adapter slot, blocks of `space`, and
    what `let_go` gives back of each of its answers: blocks of a model that guesses, say. `make_way` has a text for
    embeddings give back what it holds; whether there was one.
    """

    def __init__(
        self,
        space: KVSpace,
        adapters: AdapterStore | None,
        counters: Counters,
        places: int,
        let_go: Callable[[Answer], None],
        make_way: Callable[[], bool],
    ) -> None:
        self.space, self.adapters, self.counters, self.places = space, adapters, counters, places
        self._let_go, self._make_way = let_go, make_way
        self.waiting: list[Group] = []  # both change in place: one made beside many answers would keep their memory
        self.running: list[Group] = []

    def add(self, group: Group) -> None:
        """Queue a request."""
        insort(self.waiting, group, key=lambda each: each.order)
        if group.request.progress:
            self._tell_places()

    def end_unwanted(self, now: float) -> None:
        """End requests whose client left, that were cancelled, or whose time is up."""
        for group in [*self.waiting, *self.running]:
            if _unwanted(group):
                group.finish(FinishReason.CANCELLED)
            elif group.request.deadline is not None and now - group.submitted > group.request.deadline:
                group.finish(FinishReason.DEADLINE)
        if any(group.done for group in self.waiting):
            for group in self.waiting:
                if group.done:
                    self._count_finished(group)
            self.waiting[:] = [group for group in self.waiting if not group.done]
            self._tell_places()

    def admit(self, now: float) -> None:
        """Let waiting requests in while there are places, adapter slots and blocks for them."""
        any_admitted = slots_are_full = False
        most = self.space.n_matched + MOST_MATCHED
        self.space.begin_step()
        for group in in_turn(list(self.waiting), self.running):  # whoever makes room joins those that wait
            if self.space.n_matched > most or self.space.copied_enough:
                break  # the others are looked at in the next step
            if group.job.behind or (slots_are_full and group.adapters) or self._follows(group):
                continue
            if not self._finds_place(group, now):
                if self._has_slot(group):
                    break  # no one overtakes, so nobody waits for ever
                slots_are_full = True  # who needs none goes on, and takes none from it
                continue
            any_admitted = True
            self.waiting.remove(group)  # at once: it may have to make room for a later one, and wait again
            if group.done:
                self._count_finished(group)
            else:
                group.entered = now
                insort(self.running, group, key=lambda each: each.order)
        if any_admitted:
            self._tell_places()

    def preempt(self, group: Group) -> None:
        """Back into the queue: its tokens stay, its blocks are evaluated again, or kept where that is not the same."""
        changed = [track for track in group.tracks if self.space.is_changed(track)]
        held = sum(each.n_aside for each in self.waiting) if changed else 0  # hundreds may wait, with dozens of tracks
        for track in changed:
            held += self.space.put_aside(track, held)
        self._leave(group)
        self.running.remove(group)
        insort(self.waiting, group, key=lambda each: each.order)
        self.counters.n_preempted += 1

    def preempt_last(self, keeps: Callable[[Group], bool]) -> bool:
        """Preempt the last of those that run, except who `keeps` its place; whether there was one."""
        victim = next((group for group in reversed(self.running) if not keeps(group)), None)
        if victim is not None:
            self.preempt(victim)
        return victim is not None

    def retire(self) -> None:
        """Finished sequences leave their blocks to the prefix tree; finished groups go."""
        for group in self.running:
            for sequence in group.sequences:
                if sequence.result is not None and sequence.table.blocks:
                    self.space.remember(sequence, whole=False)
                    sequence.release()
                    self._let_go(sequence)
        if any(group.done for group in self.running):
            for group in self.running:
                if group.done:
                    self._leave(group)
                    self._count_finished(group)
            self.running[:] = [group for group in self.running if not group.done]

    def abandon(self, error: BaseException) -> None:
        """End every request with an error; those that run keep what they hold until `clear`."""
        for group in [*self.waiting, *self.running]:
            group.finish(FinishReason.ERROR, error)
        for group in self.waiting:
            group.forget()
        self.waiting.clear()

    def clear(self) -> None:
        """Nothing runs and nothing waits."""
        for group in self.running:
            self._leave(group)
            group.forget()
        self.forget()

    def forget(self) -> None:
        """The same after the device was lost, and with it all that the running ones held."""
        self.running.clear()
        self.waiting.clear()

    # -- who gets in --------------------------------------------------------------------------------------------

    def _follows(self, group: Group) -> bool:
        """Whether a running prompt begins like this one and is further than what is known: then that is waited for.

        Not for one of less priority, nor for one that had to leave: others may go before these for long.
        """
        if not group.request.cache or group.request.prompt_logprobs is not None:
            return False
        if group.leader is not None:
            if group.leader.in_prefill and not group.leader.done and group.leader in self.running:
                return True
            group.leader = None
        tokens, size = group.sequences[0].tokens, self.space.size
        leaders = [g for g in self.running if g.in_prefill and g.key == group.key and g.request.cache]
        leaders = [g for g in leaders if g.request.priority >= group.request.priority]
        if leaders and len(tokens) > size:
            node, n_known = self.space.known(group.key, tokens[:-1])
            start, end = n_known * size, (n_known + 1) * size
            if end < len(tokens):  # its last token must be evaluated anyway
                block = tokens[start:end]
                group.leader = next((g for g in leaders if _goes_on(g, node, start, block)), None)
        return group.leader is not None

    def _finds_place(self, group: Group, now: float) -> bool:
        """Whether a group gets in, if need be at the cost of others of less priority, or with more than their share."""
        while True:
            places = self.places - sum(each.width for each in self.running)
            if group.width <= places and self._tries_to_enter(group, now):
                return True
            victim = who_yields(group, self.running, now, needs_slot=not self._has_slot(group))
            if victim is None or self.space.copied_enough:
                return False
            self.preempt(victim)

    def _has_slot(self, group: Group) -> bool:
        """Whether there is an adapter slot for a group, if it needs one."""
        return self.adapters is None or self.adapters.has_room(group.selection)

    def _tries_to_enter(self, group: Group, now: float) -> bool:
        """Let a group in if there is room; one whose adapters cannot be put to work ends, and makes no one wait."""
        try:
            return self._enter(group, now)
        except BaseException as error:
            self._leave(group)
            group.fail(error, "an adapter")
            return True

    def _enter(self, group: Group, now: float) -> bool:
        """Take what a group needs to run: an adapter slot, the known part of its prompt, room for the rest."""
        if self.adapters is not None:
            slot = self.adapters.acquire(group.selection)
            if slot is None:
                return False
            group.slot = slot
        scored = group.request.prompt_logprobs is not None and group.in_prefill
        for track in group.tracks:
            self.space.recall(group.key, track, known=not scored)
        need = sum(track.table.missing(track.n_pending) for track in group.tracks)
        need += sum(group.width for group in self.running)  # they will grow
        while not self.space.find_room(min(need, self.space.pool.n_block)):
            if self.running:
                self._leave(group)
                return False
            if not group.n_aside or not self._make_way():
                break  # it makes others give way when it needs the room
        for track in group.tracks:
            self.space.bring_back(track)
        if not group.admitted:
            group.admitted, group.began = True, now
            group.timings.queue_seconds = now - group.submitted
            group.timings.n_cached = group.tracks[0].table.length
            self.counters.n_cached += group.timings.n_cached
        return True

    def _leave(self, group: Group) -> None:
        """Give back what a group holds."""
        for track in {*group.tracks, *group.sequences}:
            track.release()
        for sequence in group.sequences:
            self._let_go(sequence)
        if self.adapters is not None and group.slot >= 0:
            self.adapters.release(group.slot)
            group.slot = -1

    def _count_finished(self, group: Group) -> None:
        if not group.request.cache:
            self.space.tree.forget(group.key)
        self.counters.finished(group)
        group.forget()
        self.counters.mean_seconds += 0.1 * (group.now() - group.submitted - self.counters.mean_seconds)

    def _tell_places(self) -> None:
        """Tell those who asked how many are before them."""
        for ahead, group in enumerate(self.waiting):
            if group.request.progress and group.place != ahead:
                group.place = ahead
                group.job.emit(Queued(ahead))


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
            owner = min(queues, key=lambda each: (counts[each] / queues[each][0].weight, queues[each][0].number))
            group = queues[owner].popleft()
            counts[owner] += group.width
            if not queues[owner]:
                del queues[owner]
            yield group


def who_yields(group: Group, running: Sequence[Group], now: float, *, needs_slot: bool = False) -> Group | None:
    """The running group that makes room for one that waits, None if nobody has to.

    One whose reader stays behind comes first: nothing is made for it meanwhile, whatever its priority. `needs_slot`:
    an adapter slot is missing, which only those that have one can give.
    """
    able = [each for each in running if each.slot > 0] if needs_slot else running
    paused = [each for each in able if each.job.behind and now - each.job.behind_since >= UNREAD_SECONDS]
    if paused:
        return max(paused, key=lambda each: each.order)
    priority = group.request.priority
    lower = [each for each in able if each.request.priority < priority]
    if lower:
        return max(lower, key=lambda each: each.order)
    if now - group.submitted < PATIENCE:
        return None
    counts = shares(running)
    fair = (counts[group.owner] + group.width) / group.weight
    more = [
        each
        for each in able
        if each.request.priority == priority
        and (counts[each.owner] - each.width) / each.weight >= fair
        and now - each.entered >= QUANTUM
    ]
    return max(more, key=lambda each: (counts[each.owner] / each.weight, each.order)) if more else None


def _goes_on(group: Group, node: Node, start: int, block: list[int]) -> bool:
    """Whether the prompt of a group stands at a node of the tree, and goes on with a block.

    By the node its beginning is known: to compare tens of thousands of tokens with those of all others takes seconds.
    """
    return any(track.node is node and track.tokens[start : start + len(block)] == block for track in group.tracks[:1])


def _unwanted(group: Group) -> bool:
    """Whether nobody waits for a group; what cannot tell is taken for a client that left."""
    try:
        return group.job.unwanted
    except BaseException as error:
        group.fail(error, "asking whether the client is there")
        return True
