"""How much the grammars of all answers may do within one step, so that they never hold up the others together.

Each answer has bounds of its own (`cpp/grammar/matcher.cpp`); many that meet theirs in one step would still add up to
seconds. Once enough is done in a step, answers with a grammar wait for the next one, in which those that have waited
longest come first. Nobody's tokens change: the last one is evaluated again, and the choice is made then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamakit.engine.sampling import SamplerChain
    from llamakit.engine.sequence import Track

# States and edges that are looked at, about 20 ms, in each of the three parts of a step: looking for what must follow,
# choosing, and going on by what was chosen. What is begun by then is finished, which may take one answer's two million
# and the 200,000 of a token more in each: at the very worst 9.6 million in a step, about 200 ms.
MOST_WORK = 1_000_000


class Pace:
    """What grammars have done in a part of a step. Used by the engine's thread alone."""

    def __init__(self) -> None:
        self.step = 0
        self.accepting = 0  # work in going on by what was chosen, in this step
        self._began = 0

    def begin_step(self) -> None:
        """A new step, and its first part."""
        self.step += 1
        self.accepting = 0
        self.begin()

    def begin(self) -> None:
        """A new part of the step."""
        self._began = work()

    @property
    def until(self) -> int:
        """What `work` may come to in this part."""
        return self._began + MOST_WORK

    @property
    def is_over(self) -> bool:
        """Whether the grammars have done enough in this part."""
        return work() >= self.until

    @property
    def may_accept(self) -> bool:
        """Whether more of what was chosen may be told to grammars in this step."""
        return self.accepting < MOST_WORK

    def accept(self, chain: SamplerChain, token_id: int) -> None:
        """Tell a chain the token that was chosen."""
        before = work()
        try:
            chain.accept(token_id)
        finally:
            self.accepting += work() - before

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


def has_grammar(chain: SamplerChain | None) -> bool:
    """Whether a chain is one of those that wait."""
    return chain is not None and any(sampler.masks() for sampler in chain.samplers)
