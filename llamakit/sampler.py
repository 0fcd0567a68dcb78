"""What a sampler is: the contract between the engine and the plugins under `plugins/samplers`.

A chain is a list of samplers, one list per sequence. Each step the engine hands the chain the `Candidates`
of one row of logits; the samplers reweigh, cut or mask them, and the last one chooses.

    class TopK(Sampler):
        name = "top_k"
        Options = TopKOptions

        def apply(self, candidates):
            candidates.keep_top(self.options.top_k)

Built-in samplers also return a `native()` stage. The chain fuses each run of native stages into one call that
works on the logits where the backend left them; only a sampler that asks for `candidates.array()` pays for a
copy of its row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from llamakit.options import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt


class EndOfAnswer(Exception):  # noqa: N818 - no error
    """Raised in `apply` by a sampler that leaves no token: the answer ends here."""


class Stage(StrEnum):
    """Where in a chain a sampler belongs; the chain refuses a chooser that is not last."""

    LOGITS = "logits"  # changes logits, keeps all candidates (bias, penalties, grammar mask)
    TRUNCATE = "truncate"  # drops candidates (top_k, top_p)
    CHOOSE = "choose"  # chooses the token (dist, greedy, mirostat)


class SequenceContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a sampler may know of the sequence it is made for.

    `choice` is the index among the `n` answers of one request: random numbers are keyed by
    (seed, choice, position), so each answer has its own, whatever else runs.
    """

    n_vocab: int
    n_ctx: int
    seed: int = 0
    choice: int = 0
    newline_id: int | None = None
    tokenizer: Any = None  # of the model, for samplers that look into tokens; None in tests of others
    eog_ids: frozenset[int] = frozenset()
    min_keep: int = 1


class TopResult(msgspec.Struct, frozen=True):
    """Likeliest candidates, in order of falling logit, ties by rising id."""

    ids: Any  # (k,) int32
    logits: Any  # (k,) float32
    max: float  # the largest logit of all candidates
    log_sum_exp: float  # over all candidates: log p_i = logit_i - log_sum_exp


class Candidates(Protocol):
    """A handle on one row of logits and on which tokens of it are still candidates.

    The logits stay where the backend left them until a sampler asks for `array()`.
    """

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary."""

    def __len__(self) -> int:
        """How many tokens are still candidates."""

    def add(self, ids: npt.NDArray[np.int32], values: npt.NDArray[np.float32]) -> None:
        """Add `values` (k,) to the logits of the tokens `ids` (k,)."""

    def scale(self, factor: float) -> None:
        """Multiply all logits by `factor`."""

    def mask(self, bits: npt.NDArray[np.uint32]) -> None:
        """Keep only tokens whose bit is set; `bits` is (ceil(n_vocab / 32),), token i is bit i % 32 of word i // 32."""

    def keep_top(self, k: int) -> None:
        """Keep only the `k` likeliest."""

    def top(self, k: int) -> TopResult:
        """Look at the `k` likeliest, without changing anything."""

    def array(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Ids (n,) and logits (n,) of the candidates, as copies."""

    def replace(self, ids: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> None:
        """Make exactly these the candidates, in this order."""

    def choose(self, token_id: int) -> None:
        """Choose the token. The last sampler of a chain does this."""

    @property
    def chosen(self) -> int | None:
        """The chosen token, if one was chosen."""


class Sampler(ABC):
    """One stage of a chain; its state belongs to one sequence.

    Looking at probabilities never changes what is sampled: `apply` may be called on copies of the candidates any
    number of times between two calls of `accept`. It may note what `accept` will need (the last call counts), but
    the state proper changes in `accept` alone. Random draws are counter-based, keyed by (seed, choice, number of
    tokens accepted so far), so that a sequence that resumes elsewhere replays them.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Options: ClassVar[type[Options]] = Options
    stage: ClassVar[Stage] = Stage.TRUNCATE
    stateless: ClassVar[bool] = False  # one for all answers of a request: their seeds, choices and tokens mean nothing

    def __init__(self, options: Any, context: SequenceContext) -> None:
        self.options: Any = options
        self.context = context

    def active(self) -> bool:
        """Whether these options make the sampler do anything; an inactive one is left out of the chain."""
        return True

    @abstractmethod
    def apply(self, candidates: Candidates) -> None:
        """Reweigh, cut, mask, or choose."""

    def enough(self) -> int:
        """How many of a row's likeliest tokens settle what `apply` does, most of the time at least; 0: it takes all.

        Where logits lie on a device, a chain whose first sampler that cuts or chooses says so is given these tokens
        only, and what the candidates then do is the same, to the bit. A question that they do not settle ends in
        `RowNeeded`, which `apply` lets pass: it is called again, with the row.
        """
        return 0

    def masks(self) -> bool:
        """Whether `apply` does nothing but mask now.

        A chain leaves such samplers out at first and asks them by `permits` about what the others chose; only if one
        of them does not permit it, the whole chain runs, with a random number of its own. So an answer that would have
        been permitted anyhow is the one that the same seed gives without them.
        """
        return False

    def permits(self, token_id: int) -> bool:
        """Of a sampler that masks: whether it lets this token follow."""
        return True

    def accept(self, token_id: int) -> None:
        """Learn that `token_id` now follows in the sequence (prompt tokens too, oldest first)."""

    def start(self) -> None:
        """The prompt is complete: what is accepted from now on was generated."""

    def forced(self, n: int) -> list[int]:
        """Tokens that must follow, since nothing else may: at most `n`. They are evaluated in one step."""
        return []

    def accept_many(self, token_ids: Sequence[int]) -> None:
        """Learn several tokens in order; override where one call can be cheaper."""
        for token_id in token_ids:
            self.accept(token_id)

    def reset(self) -> None:
        """Forget the sequence."""

    @abstractmethod
    def clone(self) -> Sampler:
        """An independent copy with the same state, for a forked sequence."""

    def native(self) -> Any | None:
        """The native stage (an object of `llamakit._sampling`) that does what `apply` does, if there is one."""
        return None


class NativeSampler(Sampler):
    """A sampler whose work is done by a native stage, which holds its state too."""

    def __init__(self, options: Options, context: SequenceContext) -> None:
        super().__init__(options, context)
        self._stage: Any = self.make_native()

    @abstractmethod
    def make_native(self) -> Any:
        """Make the stage (an object of `llamakit._sampling`) for these options."""

    def apply(self, candidates: Candidates) -> None:
        """Let the stage work on native candidates."""
        self._stage.apply(candidates)

    def enough(self) -> int:
        """Ask the stage."""
        return int(self._stage.enough())

    def masks(self) -> bool:
        """Ask the stage."""
        return bool(self._stage.masks())

    def permits(self, token_id: int) -> bool:
        """Ask the stage."""
        return bool(self._stage.permits(token_id))

    def accept(self, token_id: int) -> None:
        """Tell the stage."""
        self._stage.accept(token_id)

    def accept_many(self, token_ids: Sequence[int]) -> None:
        """Tell the stage in one call."""
        self._stage.accept_many(token_ids)

    def reset(self) -> None:
        """Reset the stage."""
        self._stage.reset()

    def clone(self) -> Sampler:
        """A copy with a copy of the stage."""
        other = type(self).__new__(type(self))
        other.options, other.context, other._stage = self.options, self.context, self._stage.clone()
        return other

    def native(self) -> Any | None:
        """The stage."""
        return self._stage
