"""Speculation: guess how an answer goes on, and evaluate the guessed tokens in the same step.

A guess is kept as long as the sampler chain chooses just the guessed tokens at their positions, so that the answer is
the same as without, whatever the samplers (Leviathan et al., "Fast inference from transformers via speculative
decoding", arXiv:2211.17192, with equality in place of their acceptance rule). `NGramDrafter` looks up what
followed the last tokens when they occurred before (Saxena, "Prompt lookup decoding", 2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Sequence as Sequence_

    from llamakit.engine.group import Group
    from llamakit.engine.pace import Pace
    from llamakit.engine.sequence import Sequence
    from llamakit.engine.step_cost import StepCost

MOST_DRAFTED = 16
NGRAM = 3  # tokens that must have occurred before
MOST_INDEXED = 1 << 16  # runs of tokens that are noted in one step, about 20 ms
ID_BITS = 24  # of a token's id
PROBE_EVERY = 32  # tokens after which one guess is tried although guesses did not pay


class Drafter(Protocol):
    """Guesses. `seconds_per_token`: what one guessed token costs beside its row in the step."""

    most: int
    seconds_per_token: float

    def propose(self, wanted: Sequence_[tuple[Sequence, int]]) -> None:
        """Set `draft` of each sequence to at most so many tokens."""

    def forget(self, sequence: Sequence) -> None:
        """A sequence ended, or its tokens changed."""

    def reset(self) -> None:
        """Forget everything."""


def force(groups: Sequence_[Group], n_ctx: int, pace: Pace) -> None:
    """Where the samplers leave no choice for some tokens, draft these: a fixed text costs one step."""
    for sequence in sorted(_ready(groups), key=pace.turn_of):
        limit = _limit(sequence, MOST_DRAFTED, n_ctx)
        try:
            sequence.draft = sequence.chain.forced(limit) if limit > 0 and not pace.is_over else []
        except BaseException as error:
            sequence.fail(error, "a sampler")
            continue
        sequence.forced = bool(sequence.draft)


def _ready(groups: Sequence_[Group]) -> list[Sequence]:
    """The sequences that choose a token in the next step, each on its own."""
    return [
        sequence
        for group in groups
        if group.forked and not group.lockstep
        for sequence in group.sequences
        if sequence.result is None and sequence.n_pending == 1
    ]


def _limit(sequence: Sequence, most: int, n_ctx: int) -> int:
    """How many tokens may be drafted for a sequence."""
    asked, group = sequence.group.request.draft, sequence.group
    limit = most if asked is None else min(asked, MOST_DRAFTED)
    return min(limit, n_ctx - len(sequence.tokens), group.max_tokens - len(sequence.generated) - 1)


def draft_lengths(groups: Sequence_[Group], cost: StepCost, drafter: Drafter, n_ctx: int) -> list[tuple[Sequence, int]]:
    """How many tokens to guess for each sequence that generates: as many as raise the tokens per second.

    Guess number j is right with about rate**j, and costs one row; it pays while rate**j / (cost of a row) is above the
    tokens per second of the step without it.
    """
    ready = _ready(groups)
    n = len(ready)
    if not n:
        return []
    bar = n * (cost.per_row + drafter.seconds_per_token) / cost.seconds(n)
    lengths = []
    for sequence in ready:
        if sequence.draft:
            continue
        limit = _limit(sequence, drafter.most, n_ctx)
        length, share = 0, sequence.accept_rate
        while length < limit and share >= bar:
            length, share = length + 1, share * sequence.accept_rate
        if not length and limit > 0 and len(sequence.generated) % PROBE_EVERY == 0:
            length = 1
        if length:
            lengths.append((sequence, length))
    return lengths


class NGramDrafter:
    """Guesses what followed the same last tokens when they last occurred in this sequence."""

    seconds_per_token = 0.0

    def __init__(self, most: int = MOST_DRAFTED) -> None:
        self.most = most
        self._indexes: WeakKeyDictionary[Sequence, _Index] = WeakKeyDictionary()
        self._prompts: WeakKeyDictionary[Group, _Index] = WeakKeyDictionary()  # which answers share

    def propose(self, wanted: Sequence_[tuple[Sequence, int]]) -> None:
        """Look each one up; nothing is guessed for those of which too much is new for one step."""
        left = MOST_INDEXED
        for sequence, n in wanted:
            index = self._indexes.get(sequence)
            if index is None:
                # After a shift the prompt is not what it begins with any more.
                begin = [] if sequence.shifted else sequence.group.prepared.tokens
                prompt = self._prompts.setdefault(sequence.group, _Index())
                left -= prompt.take_in(begin, left)
                if not prompt.is_whole(begin):
                    continue
                index = self._indexes[sequence] = _Index(prompt if begin else None)
            left -= index.take_in(sequence.tokens, left)
            sequence.draft = index.look_up(sequence.tokens, n) if index.is_whole(sequence.tokens) else []

    def forget(self, sequence: Sequence) -> None:
        """Drop its index."""
        self._indexes.pop(sequence, None)

    def reset(self) -> None:
        """Drop all."""
        self._indexes.clear()
        self._prompts.clear()


class _Index:
    """Where each run of `NGRAM` tokens last ended in one sequence, which may go on from where `before` ends."""

    def __init__(self, before: _Index | None = None) -> None:
        self._end: dict[int, int] = {}
        self._before = {} if before is None else before._end
        self._done: int = NGRAM - 1 if before is None else before._done  # runs that end before this position are in

    def take_in(self, tokens: list[int], most: int) -> int:
        """Note at most so many runs more, but for the one at the very end, which is looked up; how many it were."""
        end, start = self._end, self._done
        self._done = max(start, min(len(tokens) - 1, start + most))
        for i in range(start, self._done):
            end[_run(tokens, i)] = i + 1
        return self._done - start

    def is_whole(self, tokens: list[int]) -> bool:
        """Whether all runs are noted."""
        return self._done >= len(tokens) - 1

    def look_up(self, tokens: list[int], n: int) -> list[int]:
        """What followed the last tokens, at most `n`; nothing if they are new."""
        if len(tokens) <= NGRAM:
            return []
        run = _run(tokens, len(tokens) - 1)
        found = self._end.get(run) or self._before.get(run)
        return [] if found is None else tokens[found : found + n]


def _run(tokens: list[int], end: int) -> int:
    """The `NGRAM` tokens that end at a position, as one number: half of what a tuple takes."""
    return tokens[end - 2] << 2 * ID_BITS | tokens[end - 1] << ID_BITS | tokens[end]
