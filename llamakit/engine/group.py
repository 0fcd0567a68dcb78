"""The sequences of one request: one answer or several, ranked ones, guided ones, beams.

A group owns its sequences and what they share (prompt, adapters, priority); subclasses say how a step's logits lead to
tokens where that takes more than one row: `GuidedGroup` mixes the logits of two sequences before the chain, `BeamGroup`
selects parents and tokens over all of its rows.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.engine.failure import own_failure
from llamakit.engine.job import Finished
from llamakit.engine.kv_cache import BlockTable
from llamakit.engine.request import FinishReason, Timings
from llamakit.engine.sequence import Sequence, Track

if TYPE_CHECKING:
    from llamakit.engine.job import Job
    from llamakit.engine.sampling import SamplerChain
    from llamakit.tokenizer import Tokenizer


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What can be worked out of a request before the engine's thread sees it.

    `tokens`: the prompt as it will be evaluated; `last_shown`: its last token that has a text, if one has;
    `chains`: one for each answer that is made, the prompt accepted; `max_tokens`: with every limit applied; `width`:
    tracks that it may need at once.
    """

    tokens: list[int]
    last_shown: list[int]
    n_truncated: int
    chains: list[Any]  # SamplerChain
    max_tokens: int
    width: int
    selection: Any  # engine.adapters.Selection


class Group:
    """One or several independent answers to one prompt."""

    lockstep = False  # whether all tracks need their logits in the same step

    def __init__(self, job: Job, prepared: Prepared, tokenizer: Tokenizer, number: int) -> None:
        request = job.request
        self.job, self.request, self.tokenizer, self.number = job, request, tokenizer, number
        self.prepared, self.max_tokens, self.width = prepared, prepared.max_tokens, prepared.width
        self.order, self.owner, self.weight = (-request.priority, number), job.owner, job.weight
        self.selection, self.slot = prepared.selection, -1
        self.adapters: tuple[tuple[str, float], ...] = getattr(prepared.selection, "names", ())
        # Where its blocks are found again: by requests like it, or, if it shares none, only by itself after a break.
        shared = (getattr(prepared.selection, "key", ()), request.cache_salt)
        self.key: Hashable = shared if request.cache else ("private", number)
        self.submitted = self.began = self.entered = time.perf_counter()
        self.timings = Timings(n_prompt=len(request.prompt), n_truncated=prepared.n_truncated)
        self.ranked = request.best_of > request.n
        self.streams, self.scored = not self.ranked, self.ranked
        self.admitted = self.forked = False
        self.leader: Group | None = None  # a running group that evaluates the beginning of our prompt
        self.place, self.told = -1, 0.0  # what was last told of its progress: place in the queue, when
        self.sequences: list[Sequence] = []
        self._finished: list[Sequence] = []

    def start(self, tables: Any) -> None:
        """Make the first tracks; `tables()` gives a new block table."""
        self.sequences = [self._sequence(0, list(self.prepared.tokens), tables())]

    @property
    def tracks(self) -> list[Track]:
        """Everything that is to be evaluated."""
        return [sequence for sequence in self.sequences if sequence.result is None]

    @property
    def in_prefill(self) -> bool:
        """Whether its prompt is not evaluated yet."""
        return not self.forked

    @property
    def n_aside(self) -> int:
        """Tokens of which something was put aside."""
        return sum(track.aside.shape[1] for track in self.tracks if track.aside is not None)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.job.finished

    def now(self) -> float:
        """The clock of all its times, in seconds."""
        return time.perf_counter()

    def fork(self) -> list[Sequence]:
        """After the prompt: one sequence for each answer, which share its blocks."""
        if self.forked:
            return []
        self.forked = True
        primary = self.sequences[0]
        for choice in range(1, max(self.request.best_of, self.request.n)):
            self.sequences.append(self._copy(primary, choice))
        now = self.now()
        for sequence in self.sequences:
            sequence.begin(now)
        return self.sequences

    def finish(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """End all that is open; answers that were not begun end like the first."""
        for sequence in list(self.sequences):
            sequence.finish(reason, error=error)
        for choice in range(0 if self.done else self.request.n):
            self._tell(self.sequences[0], choice)

    def fail(self, error: BaseException, part: str) -> None:
        """End all that is open since `part` of the request raised an error."""
        self.finish(FinishReason.ERROR, own_failure(error, part))

    def forget(self) -> None:
        """At the very end: let go of the sequences, which hold the group, so that its memory is free at once."""
        self.sequences, self._finished, self.leader = [], [], None

    def context_full(self, track: Track) -> None:
        """A track has no room for its next token, and nothing may be dropped."""
        if isinstance(track, Sequence):
            track.finish(FinishReason.CONTEXT)

    def sequence_finished(self, sequence: Sequence) -> None:
        """Called by each sequence at its end: tell it, or rank when all are there."""
        if self.streams:
            self._tell(sequence, sequence.choice)
            return
        self._finished.append(sequence)
        if len(self._finished) == len(self.sequences):
            self._tell_best()

    def advance(self, rows: dict[Track, int], logits: Any) -> None:
        """Choose tokens from `logits` (n_rows, n_vocab), of lockstep groups; `rows` says which row is whose."""
        raise NotImplementedError

    def tell(self) -> None:
        """Called in every step: tell what is known but could not be told at once."""

    def _tell_best(self) -> None:
        ranked = sorted(self._finished, key=_score, reverse=True)
        broken = [s for s in self._finished if s.result is not None and s.result.error is not None]
        for choice, sequence in enumerate((broken or ranked)[: self.request.n]):
            self._tell(sequence, choice)
        for choice in range(len(broken), self.request.n if broken else 0):
            self._tell(broken[0], choice)

    def _tell(self, sequence: Sequence, choice: int) -> None:
        assert sequence.result is not None
        result = (
            sequence.result if sequence.choice == choice else msgspec.structs.replace(sequence.result, choice=choice)
        )
        self.job.emit(Finished(choice, result))

    def _sequence(self, choice: int, tokens: list[int], table: BlockTable) -> Sequence:
        chain: SamplerChain = self.prepared.chains[min(choice, len(self.prepared.chains) - 1)]
        return Sequence(self, choice, tokens, chain, table)

    def _copy(self, primary: Sequence, choice: int) -> Sequence:
        table = primary.table.fork()
        try:
            other = self._sequence(choice, list(primary.tokens), table)
        except BaseException:
            table.release()
            raise
        other.node, other.n_known, other.prompt = primary.node, primary.n_known, primary.prompt
        return other


def _score(sequence: Sequence) -> float:
    """What answers are ranked by; one without a score comes last."""
    result = sequence.result
    return float("-inf") if result is None or result.score is None else result.score
