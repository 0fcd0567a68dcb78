"""How much grammars and samplers may do for all answers within one step, so that together they never hold up others.

Each answer has bounds of its own (`cpp/grammar/matcher.cpp`, the size of the vocabulary); many that meet theirs in one
step would still add up to seconds. Once enough is done in a step, answers with a grammar, or whose samplers are about
to work on a whole row, wait for the next one, in which those that have waited longest come first. Nobody's tokens
change: the last one is evaluated again, and the choice is made then.

Grammars and rows are counted apart: an answer with a small grammar does not wait for others' rows, nor the other way
round. Where logits stay on a device, an answer without a grammar that needs its whole row waits for others' rows, be
it ever so cheap: to fetch it is work too.
"""

from __future__ import annotations

import gc
import threading
import time
from contextlib import contextmanager
from ctypes import Structure, c_int64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from llamakit.engine.sampling import SamplerChain
    from llamakit.engine.sequence import Track

# States and edges that are looked at, about 20 ms, in each of the three parts of a step: looking for what must follow,
# choosing, and going on by what was chosen. What is begun by then is finished, which may take one answer's two million
# and the 200,000 of a token more in each: at the very worst 9.6 million in a step, about 200 ms.
MOST_WORK = 1_000_000

# Work over rows, in units of about 20 nanoseconds: 50 ms, in choosing, and again in finding out how likely tokens were.
# Of 152,000 tokens that is about ten rows that are sorted, or 64 that are summed up. With less, answers that cost
# little would be evaluated again and again. Whether a few tokens do for `top_p` is looked at even when it is spent:
# those rows never wait.
MOST_ROW_WORK = 2_500_000
UNIT_NANOSECONDS = 20


class Pace(Structure):
    """What was done in a part of a step. Used by the engine's thread alone.

    `accepting`: work of grammars in going on by what was chosen, in this step; `scoring`: work over rows in finding out
    how likely tokens were. The numbers lie in the structure, as those of `stats.Counters` do, and for the same reason.
    """

    step: int
    accepting: int
    scoring: int
    _began: int
    _rows_began: int
    _fields_ = [(name, c_int64) for name in ("step", "accepting", "scoring", "_began", "_rows_began")]

    def begin_step(self) -> None:
        """A new step, and its first part."""
        self.step += 1
        self.accepting = self.scoring = 0
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
    def may_score(self) -> bool:
        """Whether it may be found out how likely more tokens were in this step."""
        return self.scoring < MOST_ROW_WORK

    def accept(self, chain: SamplerChain, token_id: int) -> None:
        """Tell a chain the token that was chosen."""
        before = work()
        try:
            chain.accept(token_id)
        finally:
            self.accepting += work() - before

    @contextmanager
    def score(self) -> Iterator[None]:
        """While it is found out how likely tokens were, which takes nothing from what choosing may do."""
        before = row_work()
        try:
            with by_time():
                yield
        finally:
            spent = row_work() - before
            self.scoring += spent
            self._rows_began += spent

    @contextmanager
    def score_prompt(self) -> Iterator[None]:
        """The same for a prompt, which cannot wait.

        Prompts take half of what a step may do at most, or answers would wait for as long as prompts come.
        """
        before = self.scoring
        try:
            with self.score():
                yield
        finally:
            self.scoring = max(before, min(self.scoring, MOST_ROW_WORK // 2))

    def may_choose_together(self, chains: Iterable[SamplerChain | None]) -> bool:
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
    """Count the processor time that is spent within, where it exceeds the work that was counted.

    For what is written in Python, whose work nobody counts.
    """
    from llamakit import _sampling

    thread, collected = threading.get_ident(), [0, 0]
    outer = _collected.get(thread)
    _collected[thread] = collected
    began, before = time.thread_time_ns(), work() + row_work()
    try:
        yield
    finally:
        spent = (time.thread_time_ns() - began - collected[1]) // UNIT_NANOSECONDS
        _sampling.count_row_work(max(0, spent - (work() + row_work() - before)))
        if outer is not None:
            outer[1] += collected[1]
        _collected[thread] = outer  # the place stays: a table that grows and shrinks is made anew


def has_grammar(chain: SamplerChain | None) -> bool:
    """Whether a chain has a sampler that masks, as grammars do."""
    return chain is not None and any(sampler.masks() for sampler in chain.samplers)


def must_wait(chain: SamplerChain, pace: Pace | None, *, python: bool) -> bool:
    """Whether a chain waits for the next step, whatever it needs of its row; `python`: samplers are written in that."""
    if pace is None:
        return False
    return (python and pace.rows_are_over) or (pace.is_over and has_grammar(chain))


# Of threads within `by_time`: when Python's garbage collector last began in them, and the processor time that it took
# there, which is nobody's work. Nothing is kept for other threads: what lives long and is made when memory is full of
# answers keeps a megabyte of theirs.
_collected: dict[int, list[int] | None] = {}


def _note_collection(phase: str, info: dict[str, int]) -> None:
    """What the collector calls as it starts and stops."""
    noted = _collected.get(threading.get_ident())
    if noted is None:
        return
    if phase == "start":
        noted[0] = time.thread_time_ns()
    else:
        noted[1] += time.thread_time_ns() - noted[0]


gc.callbacks.append(_note_collection)
