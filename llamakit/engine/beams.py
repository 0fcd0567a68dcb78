"""Beam search: keep the likeliest beginnings of an answer, instead of sampling one.

In every step each beam offers its likeliest continuations; the best of all become the next beams, with their blocks
shared until they part. Samplers that change logits (bias, penalties, a grammar) count; those that cut or choose do not.
An answer's score is its mean log-probability, so that short answers are not preferred.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from llamakit.engine.group import Group
from llamakit.engine.request import FinishReason
from llamakit.engine.sampling import NativeCandidates, apply
from llamakit.engine.sequence import Track
from llamakit.sampler import EndOfAnswer, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from llamakit.engine.kv_cache import BlockTable
    from llamakit.engine.sampling import Rows, SamplerChain


TOLD_AT_ONCE = 256  # tokens of the best answers that are told in one step, which others wait for
SPARE_TOKENS = 64  # without text, such as control tokens, that may be within a stop string


class Beam(Track):
    """A beginning of an answer; `score` is the sum of its log-probabilities."""

    def __init__(self, tokens: list[int], table: BlockTable, chain: SamplerChain) -> None:
        super().__init__(tokens, table)
        self.chain: SamplerChain = chain
        self.generated: list[int] = []
        self.score = 0.0


class Step(NamedTuple):
    """One more token for a beam, and the score that it leads to."""

    score: float
    beam: Beam
    token_id: int


class BeamGroup(Group):
    """All beams of one request."""

    lockstep = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.streams, self.scored = False, True
        self._longest_stop = max((len(stop.encode()) for stop in self.request.stop), default=0)
        self._why_short = FinishReason.GRAMMAR  # why answers end that no token and no limit ends
        self.complete: list[tuple[float, list[int], float]] = []  # mean log-probability, tokens, sum
        self._untold: Iterator[None] = iter(())  # a token of the best answers each, once these are known

    def start(self, tables: Any) -> None:
        """One beam, and the sequence by which the best answer is told."""
        super().start(tables)
        self.beams = [Beam(list(self.prepared.tokens), tables(), self.prepared.chains[0])]
        self._tables = tables

    @property
    def tracks(self) -> list[Track]:
        """The beams."""
        return list(self.beams) if not self.done else []

    def finish(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """End without an answer."""
        self._drop_beams()
        super().finish(reason, error)

    def forget(self) -> None:
        """What was not told too, which holds the group."""
        super().forget()
        self._untold = iter(())

    def context_full(self, track: Track) -> None:
        """The beams, which are all as long, end here."""
        self._why_short = FinishReason.CONTEXT
        for beam in self.beams:
            self._keep(beam)
        if self.complete:
            self._answer()
        else:
            self.finish(FinishReason.CONTEXT)

    def advance(self, rows: dict[Track, int], logits: Rows) -> None:
        """Select the next beams."""
        if not self.forked:
            self.forked = True
            self.sequences[0].begin(self.now())
        width, chosen = self.request.beams, list[Step]()
        offers = sorted(self._offers(rows, logits), key=lambda step: (-step.score, step.token_id))
        n_before = len(self.complete)  # with beams that a grammar ended, which are shorter
        for step in offers:
            if not self._completes(step):
                chosen.append(step)
            if len(chosen) == width or len(self.complete) - n_before == width:
                break  # what comes is as long and less likely, so it is none of the best
        self._become(chosen)
        if len(self.complete) >= width or not self.beams:
            self._answer()

    def _offers(self, rows: dict[Track, int], logits: Rows) -> list[Step]:
        """Twice as many continuations of each beam as there are beams: enough even if half of them end."""
        from llamakit import _sampling

        offers = []
        for beam in self.beams:
            try:
                candidates = _changed(beam.chain, logits[rows[beam]])
            except (EndOfAnswer, _sampling.SamplingEnd):  # a grammar has no way on from here
                self._keep(beam)
                continue
            top = candidates.top(2 * self.request.beams)
            offers += [
                Step(beam.score + float(logit) - top.log_sum_exp, beam, int(token_id))
                for token_id, logit in zip(top.ids, top.logits, strict=True)
                if logit > -math.inf
            ]
        return offers

    def _keep(self, beam: Beam) -> None:
        """A beam that ends as it is."""
        if beam.generated:
            self.complete.append((beam.score / len(beam.generated), beam.generated, beam.score))

    def _completes(self, step: Step) -> bool:
        """Whether the step ends an answer; if so it is noted."""
        generated = [*step.beam.generated, step.token_id]
        ends = step.token_id in self.tokenizer.eog_ids and not self.request.ignore_eos
        if not ends and len(generated) < self.max_tokens and not self._stops(generated):
            return False
        self.complete.append((step.score / len(generated), generated, step.score))
        return True

    def _stops(self, generated: list[int]) -> bool:
        if not self.request.stop:
            return False
        # One that was there before ended the answer then: only what the last token adds is new, its bytes and at most
        # three of a character that they complete.
        text = self.tokenizer.decode(generated[-(2 * self._longest_stop + SPARE_TOKENS) :])
        start = len(text) - len(self.tokenizer.piece(generated[-1], special=False)) - 3
        return any(text.find(stop, max(0, start - len(stop))) >= 0 for stop in self.request.stop)

    def _become(self, steps: list[Step]) -> None:
        """The chosen steps as the new beams; a parent's blocks go to its first child, the others share them."""
        beams, taken = [], set()
        chains = [_advanced(step) for step in steps]  # before any block changes hands: samplers may raise
        for step, chain in zip(steps, chains, strict=True):
            parent = step.beam
            table = parent.table.fork() if parent in taken else parent.table
            taken.add(parent)
            beam = Beam([*parent.tokens, step.token_id], table, chain)
            beam.node, beam.n_known = parent.node, parent.n_known
            beam.generated, beam.score = [*parent.generated, step.token_id], step.score
            beams.append(beam)
        for beam in self.beams:
            if beam not in taken:
                beam.release()
        self.beams = beams

    def _answer(self) -> None:
        """Tell the `n` best complete answers."""
        self._drop_beams()
        best = sorted(self.complete, key=lambda each: -each[0])[: self.request.n]
        primary = self.sequences[0]
        self.sequences = [primary] + [self._copy(primary, i) for i in range(1, self.request.n)]
        for sequence in self.sequences[1:]:
            sequence.begin(self.now())
        self._untold = self._replay(best)
        self.tell()

    def tell(self) -> None:
        """Tell the next tokens of the best answers."""
        for _ in islice(self._untold, TOLD_AT_ONCE):
            pass

    def _replay(self, best: list[tuple[float, list[int], float]]) -> Iterator[None]:
        for sequence, (_, generated, score) in zip(self.sequences, best, strict=False):
            sequence.score = score
            for token_id in generated:
                if sequence.result is None:  # else it was cancelled meanwhile
                    sequence.accept(token_id)
                    yield
            if sequence.result is None:  # the context ended it, or a grammar
                sequence.finish(self._why_short)
        for sequence in self.sequences[len(best) :]:  # there are no more answers
            sequence.finish(FinishReason.GRAMMAR)

    def _drop_beams(self) -> None:
        for beam in self.beams:
            beam.release()
        self.beams = []


def _advanced(step: Step) -> SamplerChain:
    """The samplers of a step's beam, after it."""
    chain = step.beam.chain.clone()
    chain.accept(step.token_id)
    return chain


def _changed(chain: SamplerChain, row: npt.NDArray[np.float32]) -> NativeCandidates:
    """A row after the samplers that change logits."""
    candidates = NativeCandidates(row)
    for sampler in chain.samplers:
        if sampler.stage is Stage.LOGITS:
            apply(sampler, candidates)
    return candidates
