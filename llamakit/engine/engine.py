"""The engine: requests in, tokens out, many at a time.

`step()` is the whole of it: admit, schedule, run, sample, remember. One thread calls it; any may call `prepare`.
"""

from __future__ import annotations

import logging
import time
from bisect import insort
from typing import TYPE_CHECKING, Any

from llamakit.engine.admission import in_turn, who_yields
from llamakit.engine.batch import Batch
from llamakit.engine.device_rows import rows_of
from llamakit.engine.job import PromptProgress, Queued
from llamakit.engine.kv_cache import BlockPool, BlockTable
from llamakit.engine.prefix_tree import PrefixTree
from llamakit.engine.prepare import make_group, prepare
from llamakit.engine.request import UNTIL_CONTEXT_FULL, FinishReason, PromptToken
from llamakit.engine.sampling import details, probabilities, sample_rows
from llamakit.engine.scheduler import Chunk, Limits, schedule
from llamakit.engine.sequence import Sequence
from llamakit.engine.speculation import draft_lengths, force
from llamakit.engine.stats import Counters, SlotInfo, slot_info
from llamakit.engine.step_cost import StepCost
from llamakit.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llamakit.backend import KVCache
    from llamakit.engine.adapters import AdapterStore
    from llamakit.engine.embedder import Embedder
    from llamakit.engine.group import Group, Prepared
    from llamakit.engine.job import Job
    from llamakit.engine.request import Request
    from llamakit.engine.runner import Runner
    from llamakit.engine.sampling import Rows
    from llamakit.engine.sequence import Track
    from llamakit.engine.speculation import Drafter
    from llamakit.sampler import Sampler
    from llamakit.tokenizer import Tokenizer

log = logging.getLogger("llamakit.engine")
STEP_SECONDS = 0.25  # a step with running answers takes prompts only up to about this time
LEAST_PROMPT_ROWS = 16  # but never fewer rows, so that prompts get on
PROGRESS_SECONDS = 0.2  # between two reports of progress to one request


class Engine:
    """Generates for any number of sequences at once, batched."""

    def __init__(
        self,
        runner: Runner,
        kv: KVCache,
        tokenizer: Tokenizer,
        samplers: Mapping[str, type[Sampler]],
        n_ctx: int,
        *,
        max_predict: int = 0,
        adapters: AdapterStore | None = None,
        embedder: Embedder | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.runner, self.kv, self.tokenizer, self.samplers, self.n_ctx = runner, kv, tokenizer, samplers, n_ctx
        self.max_predict = max_predict or 8 * n_ctx
        self.adapters, self.embedder, self.drafter = adapters, embedder, drafter
        self.pool = BlockPool(kv.spec.n_block)
        self.tree = PrefixTree(self.pool, kv.spec.block_size)
        self.cost, self.counters = StepCost(), Counters()
        self.waiting: list[Group] = []
        self.running: list[Group] = []
        self.mean_seconds = 1.0  # that requests took, lately
        self._number = 0

    # -- for any thread -----------------------------------------------------------------------------------------

    def prepare(self, request: Request) -> Prepared:
        """Check a request and do the work on it that needs no device. Raises what is wrong with it."""
        return prepare(self, request)

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return len(self.waiting)

    @property
    def n_running(self) -> int:
        """Requests that are being worked on."""
        return len(self.running)

    def slots(self) -> list[SlotInfo]:
        """What runs and what waits."""
        return [slot_info(group, "queued") for group in list(self.waiting)] + [
            slot_info(group, "prompt" if group.in_prefill else "generating") for group in list(self.running)
        ]

    # -- for the engine's thread --------------------------------------------------------------------------------

    def submit(self, job: Job, prepared: Prepared | None = None) -> Group:
        """Queue a request."""
        self._number += 1
        group = make_group(job, prepared or self.prepare(job.request), self.tokenizer, self._number)
        group.start(self.new_table)
        insort(self.waiting, group, key=lambda each: each.order)
        if job.request.progress:
            self._tell_places()
        return group

    def cancel(self, job: Job) -> None:
        """End a request now."""
        job.cancel()
        self._end_unwanted(time.perf_counter())

    def step(self) -> bool:
        """Evaluate one batch and sample from it; False when there was nothing to do."""
        now = time.perf_counter()
        self._end_unwanted(now)
        self._admit(now)
        n_preempted = self.counters.n_preempted
        for group in tuple(self.running):
            if self.counters.n_preempted > n_preempted and group not in self.running:
                continue  # it went back into the queue to make room for another's shift
            self._make_room(group)
            self._recall_siblings(group)
        self._draft()
        chunks, batch = self._fill(schedule(self.running, self._limits()))
        if chunks:
            self._run(chunks, batch)
        self._retire()
        embedded = self.embedder is not None and self.embedder.turn(self)
        return bool(chunks) or embedded or bool(self.running)

    def run(self, job: Job) -> Iterator[Any]:
        """Step until a job is finished, yielding its events: for those who have no engine thread."""
        self.submit(job)
        try:
            while not job.read_all:
                self.step()
                yield from job.drain()
        finally:
            self.cancel(job)

    def abandon(self, error: BaseException) -> None:
        """End every request with an error."""
        for group in [*self.waiting, *self.running]:
            group.finish(FinishReason.ERROR, error)
        for group in self.waiting:
            group.forget()
        self.waiting.clear()
        if self.embedder is not None:
            self.embedder.abandon(error)

    def reset(self) -> None:
        """After a failure: nothing runs, nothing is remembered."""
        for group in self.running:
            self._leave(group)
            group.forget()
        self.running, self.waiting = [], []
        self.pool = BlockPool(self.kv.spec.n_block)
        self.tree = PrefixTree(self.pool, self.kv.spec.block_size)
        if self.drafter is not None:
            self.drafter.reset()

    def replace(self, runner: Runner, kv: KVCache, drafter: Drafter | None) -> None:
        """Go on with what was made anew on a device that was lost, and an empty cache of the same size."""
        self.runner, self.kv, self.drafter = runner, kv, drafter
        if self.embedder is not None:
            self.embedder.forget()
        self.running, self.waiting = [], []  # what they held was on the device
        self.reset()

    def new_table(self) -> BlockTable:
        """A table without blocks."""
        return BlockTable(self.pool, self.kv)

    def find_room(self, n_block: int) -> bool:
        """Whether so many blocks are free, after forgetting old prefixes if need be."""
        if self.pool.n_free < n_block:
            self.tree.evict(n_block)
        return self.pool.n_free >= n_block

    # -- who runs -----------------------------------------------------------------------------------------------

    def _end_unwanted(self, now: float) -> None:
        """Requests whose client left, that were cancelled, or whose time is up."""
        for group in [*self.waiting, *self.running]:
            if self._unwanted(group):
                group.finish(FinishReason.CANCELLED)
            elif group.request.deadline is not None and now - group.submitted > group.request.deadline:
                group.finish(FinishReason.DEADLINE)
        if any(group.done for group in self.waiting):
            for group in self.waiting:
                if group.done:
                    self._count_finished(group)
            self.waiting = [group for group in self.waiting if not group.done]
            self._tell_places()
        self._retire()

    def _unwanted(self, group: Group) -> bool:
        """Whether nobody waits for a group; what cannot tell is taken for a client that left."""
        try:
            return group.job.unwanted
        except BaseException as error:
            group.fail(error, "asking whether the client is there")
            return True

    def _admit(self, now: float) -> None:
        """Let waiting requests in while there are places, adapter slots and blocks for them."""
        admitted: list[Group] = []
        for group in in_turn(self.waiting, self.running):
            if self._follows(group):
                continue
            if not self._finds_place(group, now):
                break  # no one overtakes, so nobody waits for ever
            admitted.append(group)
            if group.done:
                self._count_finished(group)
            else:
                group.entered = now
                insort(self.running, group, key=lambda each: each.order)
        if admitted:
            self.waiting = [group for group in self.waiting if group not in admitted]
            self._tell_places()

    def _follows(self, group: Group) -> bool:
        """Whether a running prompt begins like this one and is further than what is known: then that is waited for."""
        if not group.request.cache or group.request.prompt_logprobs is not None:
            return False
        if group.leader is not None:
            if group.leader.in_prefill and not group.leader.done:
                return True
            group.leader = None
        tokens, size = group.sequences[0].tokens, self.kv.spec.block_size
        leaders = [g for g in self.running if g.in_prefill and g.key == group.key and g.request.cache]
        if leaders and len(tokens) > size:
            known = self.tree.match(group.key, tokens[:-1])[1] // size * size
            begin = tokens[: known + size]
            group.leader = next((g for g in leaders if g.sequences[0].tokens[: known + size] == begin), None)
            if len(begin) == len(tokens):  # its last token must be evaluated anyway
                group.leader = None
        return group.leader is not None

    def _finds_place(self, group: Group, now: float) -> bool:
        """Whether a group gets in, if need be at the cost of others of less priority, or with more than their share."""
        while True:
            places = self.runner.n_seq - sum(each.width for each in self.running)
            if group.width <= places and self._tries_to_enter(group, now):
                return True
            victim = who_yields(group, self.running, now)
            if victim is None:
                return False
            self._preempt(victim)

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
        for track in group.tracks:
            self._recall(group, track)
        need = sum(track.table.missing(track.n_pending) for track in group.tracks)
        need += sum(group.width for group in self.running)  # they will grow
        if not self.find_room(min(need, self.kv.spec.n_block)) and self.running:
            self._leave(group)
            return False
        if not group.admitted:
            group.admitted, group.began = True, now
            group.timings.queue_seconds = now - group.submitted
            group.timings.n_cached = group.tracks[0].table.length
            self.counters.n_cached += group.timings.n_cached
        return True

    def _recall(self, group: Group, track: Track) -> None:
        """Give a track the blocks of the longest beginning that is known; at least one token stays to be evaluated."""
        track.table.release()
        track.node, track.n_known = self.tree.root(group.key), 0
        if group.request.prompt_logprobs is not None and group.in_prefill:
            return  # logits are wanted for all of it
        path, length = self.tree.match(group.key, track.tokens[:-1])
        track.table.share([node.block for node in path], length)
        whole = [node for node in path if len(node.tokens) == self.tree.size]
        n_whole = min(len(whole), length // self.tree.size)
        if n_whole:
            track.node, track.n_known = path[n_whole - 1], n_whole

    def _recall_siblings(self, group: Group) -> None:
        """After a break, sequences of one group find what the first of them has evaluated again."""
        if group.forked and len(group.tracks) > 1:
            for track in group.tracks:
                if not track.table.length and track.n_pending > 1:
                    self._recall(group, track)

    def _leave(self, group: Group) -> None:
        """Give back what a group holds."""
        for track in {*group.tracks, *group.sequences}:
            track.release()
        if self.adapters is not None and group.slot >= 0:
            self.adapters.release(group.slot)
            group.slot = -1

    def _preempt(self, group: Group) -> None:
        """Back into the queue: its tokens stay, its blocks are evaluated again later."""
        self._leave(group)
        self.running.remove(group)
        insort(self.waiting, group, key=lambda each: each.order)
        self.counters.n_preempted += 1

    def _retire(self) -> None:
        """Finished sequences leave their blocks to the prefix tree, finished groups their places."""
        for group in self.running:
            for sequence in group.sequences:
                if sequence.result is not None and sequence.table.blocks:
                    self._remember(group, sequence, whole=False)
                    sequence.release()
                    if self.drafter is not None:
                        self.drafter.forget(sequence)
        if any(group.done for group in self.running):
            for group in self.running:
                if group.done:
                    self._leave(group)
                    self._count_finished(group)
            self.running = [group for group in self.running if not group.done]

    def _count_finished(self, group: Group) -> None:
        if not group.request.cache:
            self.tree.forget(group.key)
        self.counters.finished(group)
        group.forget()
        self.mean_seconds += 0.1 * (group.now() - group.submitted - self.mean_seconds)

    def _tell_places(self) -> None:
        """Tell those who asked how many are before them."""
        for ahead, group in enumerate(self.waiting):
            if group.request.progress and group.place != ahead:
                group.place = ahead
                group.job.emit(Queued(ahead))

    # -- one step -----------------------------------------------------------------------------------------------

    @property
    def prompt_rows(self) -> int:
        """Rows of prompts that a step may have, so that running answers do not wait long."""
        n_decode = sum(len(group.tracks) for group in self.running if not group.in_prefill)
        if not n_decode:
            return self.runner.n_row
        return max(LEAST_PROMPT_ROWS, self.cost.rows_within(STEP_SECONDS, n_decode))

    def _limits(self) -> Limits:
        return Limits(self.runner.n_row, self.runner.n_out, self.runner.n_seq, self.prompt_rows)

    def _make_room(self, group: Group) -> None:
        """Finish or shift a sequence whose next token does not fit into the context."""
        for track in group.tracks:
            if len(track.tokens) <= self.n_ctx:
                continue
            shifts = group.request.shift and group.request.max_tokens != UNTIL_CONTEXT_FULL and not group.lockstep
            if shifts and isinstance(track, Sequence):
                self._shift(track)
            else:
                group.context_full(track)

    def _shift(self, sequence: Sequence) -> None:
        """Drop the older half of what follows the kept tokens (and the BOS), as the 2023 server did."""
        request, n_prompt = sequence.group.request, len(sequence.group.prepared.tokens)
        keep = (n_prompt if request.keep < 0 else min(request.keep, n_prompt)) + 1
        table, length = sequence.table, len(sequence.tokens) - 1
        n = (length - keep) // 2
        if n < 1 or (table.length == length and not self._room_to_shift(sequence, keep, n)):
            sequence.finish(FinishReason.CONTEXT)
            return
        if table.length == length:
            table.discard(keep, n)
        else:  # it lost its blocks to others just when they were full
            table.truncate(min(table.length, keep))
        del sequence.tokens[keep : keep + n]
        sequence.shifted, sequence.node = True, None
        sequence.timings.n_shifted += n
        if self.drafter is not None:
            self.drafter.forget(sequence)

    def _room_to_shift(self, sequence: Sequence, keep: int, n: int) -> bool:
        """Find the blocks that a shift takes on its way, at the cost of the known prefix, then of younger requests.

        Blocks that the prefix tree holds too do not get free as the text moves out of them.
        """
        table, pruned = sequence.table, sequence.node is None
        while not self.find_room(table.spare_for_discard(keep, n)):
            victim = next((group for group in reversed(self.running) if group is not sequence.group), None)
            if not pruned and sequence.node is not None:
                self.tree.prune(sequence.node, sequence.n_known - keep // table.size)
                pruned = True
            elif victim is not None:
                self._preempt(victim)
            else:
                return False
        return True

    def _draft(self) -> None:
        """Take tokens that must follow anyway; else let the drafter guess, as far as that pays."""
        force(self.running, self.n_ctx)
        if self.drafter is None:
            return
        wanted = draft_lengths(self.running, self.cost, self.drafter, self.n_ctx)
        if not wanted:
            return
        try:
            self.drafter.propose(wanted)
        except Exception:  # guesses are a help, not a part of any answer
            log.exception("guessing ahead ended with an error and is switched off")
            self.drafter = None
            for sequence, _ in wanted:
                sequence.draft = []

    def _fill(self, planned: list[Chunk]) -> tuple[list[Chunk], Batch]:
        """The batch of a plan, with blocks for every row; requests go back into the queue where there are too few."""
        batch, chunks = Batch(), []
        held: set[int] = set()  # groups with rows in the batch keep their blocks
        for unit in _units(planned):
            group = unit[0].group
            if group not in self.running or group.done or not self._find_blocks(unit, held):
                continue
            for chunk in unit:
                chunk.first_output = batch.add(
                    chunk.tokens, chunk.track.table, n_output=chunk.n_output, adapter=max(group.slot, 0)
                )
            held.add(id(group))
            chunks += unit
        return chunks, batch

    def _find_blocks(self, unit: list[Chunk], held: set[int]) -> bool:
        """Whether there is room for chunks of one group, after sending others back into the queue if need be."""
        group = unit[0].group
        while not self.find_room(sum(chunk.track.table.missing(chunk.n) for chunk in unit)):
            if unit[0].track.draft:
                unit[0].track.draft.clear()
                unit[0].n = unit[0].n_output = 1
                continue
            victim = next((g for g in reversed(self.running) if id(g) not in held and g is not group), None)
            if victim is None:
                if len(self.running) == 1:
                    group.finish(FinishReason.ERROR, self._no_blocks())
                elif id(group) not in held:
                    self._preempt(group)
                return False
            self._preempt(victim)
        return True

    def _no_blocks(self) -> OutOfMemoryError:
        n = self.kv.spec.n_block * self.kv.spec.block_size
        return OutOfMemoryError(
            f"the KV cache is full: one request needs more than the {n:,} positions that there are",
            hint="more memory for it (--kv-memory), or a shorter context (-c)",
        )

    def _run(self, chunks: list[Chunk], batch: Batch) -> None:
        began = time.perf_counter()
        outputs = self.runner.run(batch)
        seconds = time.perf_counter() - began
        self.cost.observe(len(batch), seconds)
        self.counters.step(len(batch), seconds)
        for chunk in chunks:
            if chunk.group.request.progress and chunk.group.in_prefill:
                self._tell_progress(chunk.group, min(chunk.track.table.length, len(chunk.group.prepared.tokens)))
        if batch.outputs:
            self._sample(chunks, rows_of(outputs["logits"]))
        for chunk in chunks:
            track = chunk.track
            if track.draft:
                self._keep_right_guesses(chunk)
            self._remember(chunk.group, track)

    def _sample(self, chunks: list[Chunk], logits: Rows) -> None:
        """Choose the next tokens; sequences whose guessed token was chosen go on with the row after it."""
        turns: list[tuple[Sequence, int, int]] = []  # sequence, row, guessed tokens found right
        locked: dict[Group, dict[Track, int]] = {}
        for chunk in chunks:
            if not chunk.n_output:
                continue
            try:
                turns += _turns(chunk, logits, locked)
            except BaseException as error:
                chunk.group.fail(error, "the answer")
        for group, rows in locked.items():
            try:
                if not group.done:
                    group.advance(rows, logits)
            except BaseException as error:
                group.fail(error, "a sampler")
        while turns:
            turns = self._choose(turns, logits)

    def _choose(self, turns: list[tuple[Sequence, int, int]], logits: Rows) -> list[tuple[Sequence, int, int]]:
        """One token for each turn; returns those that may go on with the next row."""
        choices = sample_rows(logits, [row for _, row, _ in turns], [sequence.chain for sequence, _, _ in turns])
        further = []
        for (sequence, row, right), choice in zip(turns, choices, strict=True):
            if choice.ends or choice.error is not None:
                sequence.finish(FinishReason.GRAMMAR if choice.ends else FinishReason.ERROR, error=choice.error)
                continue
            token_id, draft = choice.token_id, sequence.draft
            try:
                found = details(logits, row, token_id, sequence.group.request, sequence)
                sequence.chain.accept(token_id)
                sequence.accept(token_id, found)
            except BaseException as error:
                sequence.fail(error, "the answer")
                continue
            if right < len(draft) and draft[right] == token_id:
                sequence.n_right += 1
                sequence.timings.n_accepted += 1
                if sequence.result is None:
                    further.append((sequence, row + 1, right + 1))
        return further

    def _keep_right_guesses(self, chunk: Chunk) -> None:
        """Rewind a track behind the guessed tokens that were not chosen."""
        track = chunk.track
        assert isinstance(track, Sequence)
        n_draft, right = len(track.draft), track.n_right
        track.draft, track.n_right = [], 0
        start = track.table.length - chunk.n
        track.table.truncate(min(start + 1 + right, len(track.tokens)))
        track.timings.n_drafted += n_draft
        if not track.forced:
            track.accept_rate += 0.2 * (right / n_draft - track.accept_rate)
        self.counters.n_drafted += n_draft
        self.counters.n_accepted += right

    def _remember(self, group: Group, track: Track, *, whole: bool = True) -> None:
        """Put the blocks that are complete into the prefix tree; at the end, also the part of the last one."""
        if track.node is None:
            return
        size, table = self.tree.size, track.table
        while (track.n_known + 1) * size <= table.length:
            start = track.n_known * size
            node = self.tree.insert(track.node, track.tokens[start : start + size], table.blocks[track.n_known])
            table.adopt(track.n_known, node.block)
            track.node, track.n_known = node, track.n_known + 1
        rest = track.tokens[track.n_known * size : table.length]
        if not whole and rest:
            self.tree.insert(track.node, rest, table.blocks[track.n_known])

    def _tell_progress(self, group: Group, done: int) -> None:
        now, total = group.now(), len(group.prepared.tokens)
        if now - group.told >= PROGRESS_SECONDS or done == total:
            group.told = now
            group.job.emit(PromptProgress(total, group.timings.n_cached, done, now - group.began))


def _turns(chunk: Chunk, logits: Rows, locked: dict[Group, dict[Track, int]]) -> list[tuple[Sequence, int, int]]:
    """The sequences that choose a token from a chunk's last row; rows of lockstep groups go into `locked`."""
    group, track = chunk.group, chunk.track
    if group.request.prompt_logprobs is not None and group.in_prefill and isinstance(track, Sequence):
        _score_prompt(track, chunk, logits)
        if track.n_pending:
            return []  # more of the prompt is to come
    last = chunk.first_output + (0 if track.draft else chunk.n_output - 1)
    if group.prepared.max_tokens == 0:
        group.finish(FinishReason.LENGTH)
        return []
    if group.lockstep:
        locked.setdefault(group, {})[track] = last
        return []
    if group.forked:
        return [(track, last, 0)]  # type: ignore[list-item]
    return [(sequence, last, 0) for sequence in group.fork()]


def _units(planned: list[Chunk]) -> list[list[Chunk]]:
    """Chunks that run together or not at all: those of a lockstep group, else each alone."""
    units: list[list[Chunk]] = []
    for chunk in planned:
        if chunk.group.lockstep and units and units[-1][0].group is chunk.group:
            units[-1].append(chunk)
        else:
            units.append([chunk])
    return units


def _score_prompt(sequence: Sequence, chunk: Chunk, logits: Rows) -> None:
    """Log-probabilities of the prompt's tokens that follow a chunk's rows."""
    tokens, n = sequence.tokens, sequence.group.request.prompt_logprobs or 0
    start = sequence.table.length - chunk.n
    if start == 0:
        sequence.prompt.append(PromptToken(tokens[0], None))
    for i in range(chunk.n):
        if start + i + 1 < len(tokens):
            token_id = tokens[start + i + 1]
            logprob, top = probabilities(logits[chunk.first_output + i], token_id, n)
            sequence.prompt.append(PromptToken(token_id, logprob, top))
