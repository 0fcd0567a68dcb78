"""What is asked of the engine and what it answers."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec

UNTIL_END = -1
UNTIL_CONTEXT_FULL = -2


class FinishReason(StrEnum):
    """Why a generation ended."""

    END = "end of text"  # the model chose an end-of-generation token
    STOP = "stop string"
    LENGTH = "length"  # max_tokens, or the limit of every request, reached
    CONTEXT = "context full"
    GRAMMAR = "grammar"  # a sampler, such as a grammar, leaves no token
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    ERROR = "error"


class Guidance(msgspec.Struct, frozen=True):
    """Classifier-free guidance: the logits are moved away from those that follow `negative` (arXiv:2306.17806).

    `scale` 1 changes nothing, above 1 moves away. Log-probabilities are mixed: n + scale * (p - n).
    """

    negative: list[int]
    scale: float = 1.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request: a prompt, and one or several answers to it.

    `max_tokens`: how many tokens at most; -1: until the end of text, at most `max_predict` of the engine; -2: until
    the context is full; 0: evaluate the prompt only. `options`: sampler options by flat name; `samplers`: names in
    order, None for the default chain. `keep`: tokens of the prompt that a context shift never drops (-1: all of it);
    `shift`: whether to shift at all; `truncate`: whether a prompt that is too long loses its middle, as in 2023,
    instead of being an error.

    `logprobs`: that many likeliest tokens with each token, before any sampler (0: only the token's own);
    `probs_after`: that many with their probabilities after the chain has cut; `prompt_logprobs`: as `logprobs`, for the
    tokens of the prompt. `n` answers are given; `best_of` are made, of which the `n` likeliest are given; `beams` > 1
    searches with so many beams instead of sampling. `adapters`: (name, scale) of each LoRA adapter, None for the
    default ones. `priority`: larger goes first. `deadline`: seconds from submission. `cache`: whether evaluated
    prefixes are looked up and kept; only requests with the same `cache_salt` share them. `draft`: most tokens guessed
    ahead in a step; None: as the engine is set, 0: none. `progress`: whether to report queue and prompt progress.
    `shown`: control tokens whose text belongs to the answer's, such as those around a call of a tool.
    """

    prompt: list[int]
    max_tokens: int = UNTIL_END
    options: Mapping[str, object] = {}
    samplers: tuple[str, ...] | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    keep: int = 0
    shift: bool = False
    truncate: bool = False
    logprobs: int | None = None
    probs_after: int = 0
    prompt_logprobs: int | None = None
    n: int = 1
    best_of: int = 1
    beams: int = 1
    guidance: Guidance | None = None
    adapters: tuple[tuple[str, float], ...] | None = None
    priority: int = 0
    deadline: float | None = None
    cache: bool = True
    cache_salt: str = ""
    draft: int | None = None
    progress: bool = False
    shown: frozenset[int] = frozenset()


class Likely(msgspec.Struct, frozen=True, gc=False):
    """The likeliest tokens with a number each, likeliest first: iterates over pairs of token id and number.

    Packed, `ids` as int32 and `numbers` as float64: a slow reader may leave many unread, and pairs of objects take ten
    times as much.
    """

    ids: bytes = b""
    numbers: bytes = b""

    @staticmethod
    def of(ids: Iterable[int], numbers: Iterable[float]) -> Likely:
        """As many of the one as of the other."""
        return Likely(array("i", ids).tobytes(), array("d", numbers).tobytes())

    def __len__(self) -> int:
        return len(self.numbers) // array("d").itemsize

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return zip(memoryview(self.ids).cast("i"), memoryview(self.numbers).cast("d"), strict=True)

    def number_of(self, token: int) -> float | None:
        """The number of a token, None where it is not one of the likeliest."""
        try:
            i = array("i", self.ids).index(token)
        except ValueError:
            return None
        return array("d", self.numbers)[i]

    @property
    def positive(self) -> Likely:
        """Those with a number above zero, which come first."""
        numbers = array("d", self.numbers)
        if not numbers or numbers[-1] > 0:
            return self
        n = bisect_left(numbers, True, key=lambda number: number <= 0)
        return Likely(self.ids[: n * 4], self.numbers[: n * 8])


NONE_LIKELY = Likely()


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One generated token. `text` may be empty while a character or a possible stop string is held back.

    `logprob`: the natural logarithm of its probability before any sampler; `top`: the likeliest tokens with theirs.
    `prob`: its probability among the tokens that the chain left, `after`: the likeliest of these with theirs, where
    `probs_after` asked for them.
    """

    token_id: int
    text: str
    logprob: float | None = None
    top: Likely = NONE_LIKELY
    prob: float = 0.0
    after: Likely = NONE_LIKELY


class PromptToken(msgspec.Struct, frozen=True):
    """A token of the prompt with its log-probability given what is before it; None for the first."""

    token_id: int
    logprob: float | None
    top: Likely = NONE_LIKELY


class Timings(msgspec.Struct, kw_only=True):
    """Counts, and seconds of the clock.

    `queue_seconds`: from submission until the first of the prompt was evaluated; `prompt_seconds`: from then to the
    first token; `first_seconds`: from submission to the first token; `generate_seconds`: from there to the end.
    `n_cached`: tokens of the prompt that were found evaluated; `n_drafted`, `n_accepted`: tokens guessed, and right.
    """

    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    n_shifted: int = 0
    n_truncated: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    queue_seconds: float = 0.0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0
    first_seconds: float = 0.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A finished answer. `tail` is text that was held back until the end; `error` ended it, if any.

    `score`: mean log-probability of its tokens, where answers were ranked. `prompt`: log-probabilities of the prompt's
    tokens, where they were asked for. `n_context`: tokens in the context at the end (2023's `tokens_cached`).
    """

    tokens: list[int]
    text: str
    tail: str
    reason: FinishReason
    timings: Timings
    choice: int = 0
    stopped_by: str | None = None
    error: BaseException | None = None
    score: float | None = None
    prompt: tuple[PromptToken, ...] = ()
    samplers: tuple[str, ...] = ()
    adapters: tuple[tuple[str, float], ...] = ()
    n_context: int = 0
    pieces: tuple[Piece, ...] = ()  # of answers that could not be streamed (best_of, beams): all of them


class Embed(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors for several texts, given as tokens.

    `pooling`: "mean", "last", "cls" (first token) or "none" (a vector for every token); `normalize`: to length 1.
    """

    prompts: list[list[int]]
    pooling: str = "mean"
    normalize: bool = True
    adapters: tuple[tuple[str, float], ...] | None = None


class Vectors(msgspec.Struct, frozen=True):
    """What `Embed` gives: one array (n_embd,) for each text, or (n_tokens, n_embd) without pooling, float32."""

    values: list[Any]
    n_tokens: int
