"""The engine: requests in, tokens out, many at a time.

`step()` is the whole of it: admit, schedule, run, sample, remember. One thread calls it; any may call `prepare`.
"""

from __future__ import annotations

import logging
import time
from itertools import count
from typing import TYPE_CHECKING, Any

from llamakit.engine.admission import Admission
from llamakit.engine.batch import Batch
from llamakit.engine.device_rows import rows_of
from llamakit.engine.job import PromptProgress
from llamakit.engine.kv_space import KVSpace
from llamakit.engine.pace import Pace, by_time, has_grammar
from llamakit.engine.prepare import make_group, prepare
from llamakit.engine.request import UNTIL_CONTEXT_FULL, FinishReason, PromptToken
from llamakit.engine.sampling import details, probabilities, sample_rows, wants_details
from llamakit.engine.scheduler import Chunk, Limits, schedule
from llamakit.engine.sequence import Sequence
from llamakit.engine.speculation import draft_lengths, force
from llamakit.engine.stats import Counters, SlotInfo, slot_info
from llamakit.engine.step_cost import StepCost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llamakit.backend import KVCache
    from llamakit.engine.adapters import AdapterStore
    from llamakit.engine.embedder import Embedder
    from llamakit.engine.group import Group, Prepared
    from llamakit.engine.job import Job
    from llamakit.engine.request import Request
    from llamakit.engine.runner import Runner
    from llamakit.engine.sampling import Rows
    from llamakit.engine.sequence import Details, Track
    from llamakit.engine.speculation import Drafter
    from llamakit.sampler import Sampler
    from llamakit.tokenizer import Tokenizer

log = logging.getLogger("llamakit.engine")
STEP_SECONDS = 0.25  # a step with running answers takes prompts only up to about this time
SHIFT_SECONDS = 0.05  # after which further contexts that are full are shifted in the next step
LEAST_PROMPT_ROWS = 16  # but never fewer rows, so that prompts get on
MOST_DRAFTS_FAILED = 8  # errors of a drafter in a row, after which it is not asked again
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
        self.runner, self.tokenizer, self.samplers, self.n_ctx = runner, tokenizer, samplers, n_ctx
        self.max_predict = max_predict or 8 * n_ctx
        self.adapters, self.embedder, self.drafter = adapters, embedder, drafter
        self.cost, self.counters, self.pace = StepCost(), Counters(mean_seconds=1.0), Pace()
        self.space = KVSpace(kv)
        self.queue = Admission(
            self.space, adapters, self.counters, runner.n_seq, self._forget_guesses, self._embedder_makes_way
        )
        self._numbers = count(1)  # of requests, in the order in which they came
        self._drafts_failed = 0  # in a row

    # -- for any thread -----------------------------------------------------------------------------------------

    def prepare(self, request: Request) -> Prepared:
        """Check a request and do the work on it that needs no device. Raises what is wrong with it."""
        return prepare(self, request)

    @property
    def waiting(self) -> list[Group]:
        """The queue."""
        return self.queue.waiting

    @property
    def running(self) -> list[Group]:
        """What is being worked on."""
        return self.queue.running

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
        group = make_group(job, prepared or self.prepare(job.request), self.tokenizer, next(self._numbers))
        group.start(self.space.new_table)
        self.queue.add(group)
        return group

    def cancel(self, job: Job) -> None:
        """End a request now."""
        job.cancel()
        self.queue.end_unwanted(time.perf_counter())
        self._retire()

    def step(self) -> bool:
        """Evaluate one batch and sample from it; False when there was nothing to do.

        Answers whose readers are far behind wait until these have read.
        """
        now = time.perf_counter()
        self.pace.begin_step()
        self.queue.end_unwanted(now)
        self._retire()
        self.queue.admit(now)
        full = self._make_room()
        read = [group for group in self.running if not group.job.behind and group not in full]
        self._tell(read)
        self._draft(read)
        chunks, batch = self._fill(schedule(read, self._limits()))
        if chunks:
            self._run(chunks, batch)
        self._retire()
        embedded = self.embedder is not None and self.embedder.turn(self)
        return bool(chunks) or embedded or bool(read) or bool(full)

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
        self.queue.abandon(error)
        if self.embedder is not None:
            self.embedder.abandon(self, error)

    def reset(self) -> None:
        """After a failure: nothing runs, nothing is remembered."""
        self.queue.clear()
        self.space.reset()
        if self.drafter is not None:
            self.drafter.reset()

    def replace(self, runner: Runner, kv: KVCache, drafter: Drafter | None) -> None:
        """Go on with what was made again on a device that was lost, and an empty cache of the same size."""
        self.runner, self.space.kv, self.drafter = runner, kv, drafter
        if self.embedder is not None:
            self.embedder.forget()
        self.queue.forget()  # what the running ones held was on the device
        self.reset()

    # -- one step -----------------------------------------------------------------------------------------------

    @property
    def prompt_rows(self) -> int:
        """Rows of prompts that a step may have, so that running answers do not wait long."""
        n_decode = sum(len(group.tracks) for group in self.running if not group.in_prefill)
        if not n_decode:
            return self.runner.n_row
        return max(LEAST_PROMPT_ROWS, self.cost.rows_within(STEP_SECONDS, n_decode))

    def _limits(self) -> Limits:
        return Limits(self.runner.n_row, self.runner.n_out, self.runner.n_seq, self.prompt_rows, self.n_ctx)

    def _make_room(self) -> set[Group]:
        """Finish or shift the sequences whose next token does not fit into the context.

        Returns the groups of which one waits for the next step, since shifting took long enough in this one.
        """
        n_preempted, began = self.counters.n_preempted, time.perf_counter()
        full: set[Group] = set()
        n_moved = 0
        for group in tuple(self.running):
            if self.counters.n_preempted > n_preempted and group not in self.running:
                continue  # it went back into the queue to make room for another's shift
            for track in group.tracks:
                if len(track.tokens) > self.n_ctx:
                    if n_moved and time.perf_counter() - began > SHIFT_SECONDS:
                        full.add(group)
                        break
                    self._end_or_shift(group, track)
                    n_moved += 1
            self._recall_siblings(group)
        return full

    def _end_or_shift(self, group: Group, track: Track) -> None:
        shifts = group.request.shift and group.request.max_tokens != UNTIL_CONTEXT_FULL and not group.lockstep
        if shifts and isinstance(track, Sequence):
            if track.n_pending == 1:  # else it had to make room just then, and is evaluated again first
                self._shift(track)
            return
        try:
            group.context_full(track)
        except BaseException as error:  # of the detokenizer, say, by which the best of the beams is told
            group.fail(error, "the answer")

    def _shift(self, sequence: Sequence) -> None:
        """Drop the older half of what follows the kept tokens (and the BOS), as the 2023 server did."""
        group, request = sequence.group, sequence.group.request
        n_prompt = len(group.prepared.tokens)
        keep = (n_prompt if request.keep < 0 else min(request.keep, n_prompt)) + 1
        n = (len(sequence.tokens) - 1 - keep) // 2
        if n < 1 or not self.space.shift(sequence, keep, n, lambda: self._make_way(lambda each: each is group)):
            sequence.finish(FinishReason.CONTEXT)
            return
        sequence.shifted = True
        sequence.timings.n_shifted += n
        self._forget_guesses(sequence)

    def _recall_siblings(self, group: Group) -> None:
        """After a break, sequences of one group find what the first of them has evaluated again."""
        if group.forked and len(group.tracks) > 1:
            for track in group.tracks:
                if not track.table.length and track.n_pending > 1:
                    self.space.recall(group.key, track)

    def _draft(self, groups: list[Group]) -> None:
        """Take tokens that must follow anyway; else let the drafter guess, as far as that pays."""
        force(groups, self.n_ctx, self.pace)
        if self.drafter is None:
            return
        wanted = draft_lengths(groups, self.cost, self.drafter, self.n_ctx)
        if not wanted:
            return
        try:
            self.drafter.propose(wanted)
            self._drafts_failed = 0
        except Exception:  # guesses are a help, not a part of any answer
            self._drafts_failed += 1
            off = self._drafts_failed == MOST_DRAFTS_FAILED
            log.exception("guessing ahead ended with an error%s", " again and is switched off" if off else "")
            for sequence, _ in wanted:
                sequence.draft = []
            if off:
                self.drafter = None
            else:
                self.drafter.reset()

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
        while not self.space.find_room(sum(chunk.track.table.missing(chunk.n) for chunk in unit)):
            if unit[0].track.draft:
                unit[0].track.draft.clear()
                unit[0].n = unit[0].n_output = 1
            elif not self._make_way(lambda each: id(each) in held or each is group):
                if len(self.running) == 1:
                    group.finish(FinishReason.ERROR, self.space.no_room())
                elif id(group) not in held:
                    self.queue.preempt(group)
                return False
        return True

    def _make_way(self, keeps: Callable[[Group], bool]) -> bool:
        """Have somebody give blocks back; whether there was anybody.

        First the last of the requests that run, except those that `keeps` is true of. If only one runs, a text for
        embeddings gives way to it.
        """
        alone = len(self.running) == 1
        return self.queue.preempt_last(keeps) or (alone and self._embedder_makes_way())

    def _embedder_makes_way(self) -> bool:
        return self.embedder is not None and self.embedder.make_way()

    def _run(self, chunks: list[Chunk], batch: Batch) -> None:
        began = time.perf_counter()
        outputs = self.runner.run(batch)
        seconds = time.perf_counter() - began
        self.cost.observe(len(batch), seconds)
        self.counters.step(len(batch), seconds)
        for chunk in chunks:
            if chunk.group.request.progress and chunk.group.in_prefill:
                self._tell_progress(chunk.group, min(chunk.track.table.length, len(chunk.group.prepared.tokens)))
        held = self._sample(chunks, rows_of(outputs["logits"])) if batch.outputs else []
        for chunk in chunks:
            if chunk.track.draft:
                self._keep_right_guesses(chunk)
        for track in held:
            self.pace.hold(track)
        for chunk in chunks:
            self.space.remember(chunk.track)

    def _sample(self, chunks: list[Chunk], logits: Rows) -> list[Track]:
        """Choose the next tokens; sequences whose guessed token was chosen go on with the row after it.

        Returns those that have to wait for the next step.
        """
        held: list[Track] = []
        turns: list[tuple[Sequence, int, int]] = []  # sequence, row, guessed tokens found right
        locked: dict[Group, dict[Track, int]] = {}
        for chunk in chunks:
            if not chunk.n_output or chunk.group.done:  # done: since blocks were missing for another of its answers
                continue
            try:
                turns += _turns(chunk, logits, locked, self.pace)
            except BaseException as error:
                chunk.group.fail(error, "the answer")
        self.pace.begin()  # only now, so that what `_turns` and looking for forced tokens took does not count here
        turns.sort(key=lambda turn: self.pace.turn_of(turn[0]))
        first = self.pace.turn_of(turns[0][0]) if turns else 0
        for group, rows in sorted(locked.items(), key=lambda each: self._turn_of(each[1])):
            if turns and self._turn_of(rows) > first:  # those that have waited longer come before it
                self._choose_all(turns, logits, held)
                turns = []
            self._advance(group, rows, logits, held)
        self._choose_all(turns, logits, held)
        return held

    def _turn_of(self, rows: dict[Track, int]) -> int:
        return min(self.pace.turn_of(track) for track in rows)

    def _advance(self, group: Group, rows: dict[Track, int], logits: Rows, held: list[Track]) -> None:
        """A lockstep group chooses."""
        try:
            if group.done:
                return
            if not self.pace.may_choose_together(track.chain for track in rows):
                held += rows
                return
            for track in rows:
                track.waits = 0
            with by_time():
                group.advance(rows, logits)
        except BaseException as error:
            group.fail(error, "a sampler")

    def _choose_all(self, turns: list[tuple[Sequence, int, int]], logits: Rows, held: list[Track]) -> None:
        while turns:
            turns = self._choose(turns, logits, held)

    def _choose(
        self, turns: list[tuple[Sequence, int, int]], logits: Rows, held: list[Track]
    ) -> list[tuple[Sequence, int, int]]:
        """One token for each turn but those `held`; returns those that may go on with the next row."""
        chains = [sequence.chain for sequence, _, _ in turns]
        choices = sample_rows(logits, [row for _, row, _ in turns], chains, self.pace)
        further = []
        for (sequence, row, right), choice in zip(turns, choices, strict=True):
            if choice.ends or choice.error is not None:
                sequence.finish(FinishReason.GRAMMAR if choice.ends else FinishReason.ERROR, error=choice.error)
                continue
            token_id, draft = choice.token_id, sequence.draft
            try:
                if choice.waits or not self._may_go_on(sequence):
                    held.append(sequence)
                    continue
                sequence.waits = 0
                found = self._details(logits, row, token_id, sequence)
                self.pace.accept(sequence.chain, token_id)
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

    def _may_go_on(self, sequence: Sequence) -> bool:
        """Whether what was chosen for an answer can be looked into, and told to its chain, in this step."""
        return (self.pace.may_accept or not has_grammar(sequence.chain)) and (
            self.pace.may_score or not wants_details(sequence)
        )

    def _details(self, logits: Rows, row: int, token_id: int, sequence: Sequence) -> Details | None:
        if not wants_details(sequence):
            return None
        with self.pace.score():
            return details(logits, row, token_id, sequence.group.request, sequence)

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

    def _retire(self) -> None:
        """Let go of what has ended."""
        self.queue.retire()

    def _forget_guesses(self, sequence: Sequence) -> None:
        """Have the drafter forget a sequence that gave up its place, or whose tokens have changed."""
        if self.drafter is not None:
            self.drafter.forget(sequence)

    @staticmethod
    def _tell(groups: list[Group]) -> None:
        for group in groups:
            try:
                group.tell()
            except BaseException as error:
                group.fail(error, "the answer")

    def _tell_progress(self, group: Group, done: int) -> None:
        now, total = group.now(), len(group.prepared.tokens)
        if now - group.told >= PROGRESS_SECONDS or done == total:
            group.told = now
            group.job.emit(PromptProgress(total, group.timings.n_cached, done, now - group.began))


def _turns(
    chunk: Chunk, logits: Rows, locked: dict[Group, dict[Track, int]], pace: Pace
) -> list[tuple[Sequence, int, int]]:
    """The sequences that choose a token from a chunk's last row; rows of lockstep groups go into `locked`."""
    group, track = chunk.group, chunk.track
    if group.request.prompt_logprobs is not None and group.in_prefill and isinstance(track, Sequence):
        with pace.score_prompt():
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
    first = sequence.table.length - chunk.n + 1  # what follows the first row
    if not sequence.prompt:
        sequence.prompt.append(PromptToken(tokens[0], None))
    for i, token_id in enumerate(tokens[first : first + chunk.n]):
        if first + i == len(sequence.prompt):  # else it is evaluated again, after it had to make room
            logprob, top = probabilities(logits[chunk.first_output + i], token_id, n)
            sequence.prompt.append(PromptToken(token_id, logprob, top))
