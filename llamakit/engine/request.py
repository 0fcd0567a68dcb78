"""What is asked of the engine and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

UNTIL_END = -1
UNTIL_CONTEXT_FULL = -2


class FinishReason(StrEnum):
    """Why a generation ended."""

    END = "end of text"  # the model chose an end-of-generation token
    STOP = "stop string"
    LENGTH = "length"  # max_tokens reached
    CONTEXT = "context full"
    CANCELLED = "cancelled"
    ERROR = "error"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One generation.

    `max_tokens`: how many tokens at most; -1: until the end of text, at most 8 contexts; -2: until the context is
    full. `options`: sampler options by flat name; `samplers`: names in order, None for the default chain.
    `keep`: tokens of the prompt that a context shift never drops (-1: all of it); `shift`: whether to shift at all.
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
    logprobs: int | None = None  # that many likeliest tokens with each token; 0: only the token's own


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural logarithm of the probability of a token, before any sampler."""

    token_id: int
    logprob: float


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One generated token. `text` may be empty while a character or a possible stop string is held back."""

    token_id: int
    text: str
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()


class Timings(msgspec.Struct, kw_only=True):
    """Counts, and seconds of the clock. `first` is from submission to the first token."""

    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    n_shifted: int = 0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0
    first_seconds: float = 0.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A finished generation. `tail` is text that was held back until the end; `error` ended it, if any."""

    tokens: list[int]
    text: str
    tail: str
    reason: FinishReason
    timings: Timings
    stopped_by: str | None = None
    error: BaseException | None = None
