"""How much grammars and samplers may do for all answers within one step, so that together they never hold up others.

Each answer has bounds of its own (`cpp/grammar/matcher.cpp`, the size of the vocabulary); many that meet theirs in one
step would still add up to seconds. Once enough is done in a step, answers with a grammar, or whose samplers are about
to work on a whole row, wait for the next one, in which those that have waited longest come first. Nobody's tokens
change: the last one is evaluated again, and the choice is made then.

Grammars and rows are counted apart: an answer with a small grammar does not wait for others' rows, nor the other way
round.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from llamakit.engine.sampling import SamplerChain
    from llamakit.engine.sequence import Track

# States and edges that are looked at, about 20 ms, in each of the three parts of a step: looking for what must follow,
# choosing, and going on by what was chosen. What is begun by then is finished, which may take one answer's two million
# and the 200,000 of a token more in each: at the very worst 9.6 million in a step, about 200 ms.
MOST_WORK = 1_000_000

# Work over rows, in units of about 20 nanoseconds: 50 ms, in choosing, and again in telling how likely tokens were. Of
# 152,000 tokens that is about ten rows that are sorted, or 64 that are summed up. With less, answers that cost little
# would be evaluated again and again. Whether a few tokens do for `top_p` is looked at even when it is spent: those rows
# never wait.
MOST_ROW_WORK = 2_500_000
UNIT_NANOSECONDS = 20


class Pace:
    """What was done in a part of a step. Used by the engine's thread alone."""

    def __init__(self) -> None:
        self.step = 0
        self.accepting = 0  # work of grammars in going on by what was chosen, in this step
        self.telling = 0  # work over rows in telling how likely tokens were, in this step
        self._began = self._rows_began = 0

    def begin_step(self) -> None:
        """A new step, and its first part."""
        self.step += 1
        self.accepting = self.telling = 0
        self.begin()

    def begin(self) -> None:
        """A new part of the step."""
        self._began, self._rows_began = work(), row_work()

    @property
    def until(self) -> int:
        """What `work` may come to in this part."""
        return self._began + MOST_WORK

    @property
    def rows_until(self) -> int:
        """What `row_work` may come to in this part."""
        return self._rows_began + MOST_ROW_WORK

    @property
    def is_over(self) -> bool:
        """Whether the grammars have done enough in this part."""
        return work() >= self.until

    @property
    def rows_are_over(self) -> bool:
        """Whether enough was done over rows in this part."""
        return row_work() >= self.rows_until

    @property
    def may_accept(self) -> bool:
        """Whether more of what was chosen may be told to grammars in this step."""
        return self.accepting < MOST_WORK

    @property
    def may_tell(self) -> bool:
        """Whether it may be found out how likely more tokens were in this step."""
        return self.telling < MOST_ROW_WORK

    def accept(self, chain: SamplerChain, token_id: int) -> None:
        """Tell a chain the token that was chosen."""
        before = work()
        try:
            chain.accept(token_id)
        finally:
            self.accepting += work() - before

    @contextmanager
    def tell(self) -> Iterator[None]:
        """While it is found out how likely tokens were, which takes nothing from what choosing may do."""
        before = row_work()
        try:
            with by_time():
                yield
        finally:
            spent = row_work() - before
            self.telling += spent
            self._rows_began += spent

    def together(self, chains: Iterable[SamplerChain | None]) -> bool:
        """Whether answers that choose together, over whole rows, may do so in this part."""
        return not self.rows_are_over and not (self.is_over and any(has_grammar(chain) for chain in chains))

    def turn_of(self, track: Track) -> int:
        """By which tracks are ordered: who has waited longest comes first."""
        return track.waits or self.step

    def hold(self, track: Track) -> None:
        """Have a track wait for the next step."""
        track.waits = self.turn_of(track)
        track.step_back()


def work() -> int:
    """What the grammars that this thread asked have done so far."""
    from llamakit import _sampling

    return int(_sampling.grammar_work())


def row_work() -> int:
    """What this thread has done over rows so far."""
    from llamakit import _sampling

    return int(_sampling.row_work())


@contextmanager
def by_time() -> Iterator[None]:
    """Count what is done within by the time of the processor, where it is more than was counted otherwise.

    For what is written in Python: nobody knows what it does.
    """
    from llamakit import _sampling

    began, before = time.thread_time_ns(), work() + row_work()
    try:
        yield
    finally:
        spent = (time.thread_time_ns() - began) // UNIT_NANOSECONDS
        _sampling.count_row_work(max(0, spent - (work() + row_work() - before)))


def has_grammar(chain: SamplerChain | None) -> bool:
    """Whether a chain is one of those that wait."""
    return chain is not None and any(sampler.masks() for sampler in chain.samplers)
