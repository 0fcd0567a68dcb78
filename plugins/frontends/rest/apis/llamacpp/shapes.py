"""What llama.cpp's API answers, for the description of the API. `response_fields` may leave any of it out."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType


class TimingsAnswer(Struct, frozen=True, kw_only=True):
    """Times in milliseconds; a rate is null where no time passed."""

    predicted_ms: float
    predicted_n: int
    predicted_per_second: float | None
    predicted_per_token_ms: float
    prompt_ms: float
    prompt_n: int
    prompt_per_second: float | None
    prompt_per_token_ms: float
    cache_n: int | UnsetType = UNSET


class SettingsAnswer(Struct, frozen=True, kw_only=True):
    """The settings of a request."""

    frequency_penalty: float
    grammar: str
    ignore_eos: bool
    # Of (token, bias), or {"token", "bias"} in today's form; null bans.
    logit_bias: list[Annotated[list[float | None], Meta(min_length=2, max_length=2)] | dict[str, float | None]]
    mirostat: int
    mirostat_eta: float
    mirostat_tau: float
    model: str
    n_ctx: int
    n_keep: int
    n_predict: int
    n_probs: int
    penalize_nl: bool
    presence_penalty: float
    repeat_last_n: int
    repeat_penalty: float
    seed: int
    stop: list[str]
    stream: bool
    temp: float
    tfs_z: float
    top_k: int
    top_p: float
    typical_p: float


class CompletionAnswer(Struct, frozen=True, kw_only=True):
    """A whole answer, and the last event of a stream."""

    completion_probabilities: list[dict[str, Any]] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    has_new_line: bool | UnsetType = UNSET
    id_slot: int | UnsetType = UNSET
    generation_settings: SettingsAnswer | UnsetType = UNSET
    index: int | UnsetType = UNSET
    model: str | UnsetType = UNSET
    prompt: Any | UnsetType = UNSET
    stop: bool | UnsetType = UNSET
    stop_type: str | UnsetType = UNSET
    stopped_eos: bool | UnsetType = UNSET
    stopped_limit: bool | UnsetType = UNSET
    stopped_word: bool | UnsetType = UNSET
    stopping_word: str | UnsetType = UNSET
    timings: TimingsAnswer | UnsetType = UNSET
    tokens: list[int] | UnsetType = UNSET
    tokens_cached: int | UnsetType = UNSET
    tokens_evaluated: int | UnsetType = UNSET
    tokens_predicted: int | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET


Completions = CompletionAnswer | list[CompletionAnswer]  # a list where `n` asks for several


class TokenPiece(Struct, frozen=True):
    """A token and its text, or its bytes where they are not a whole text."""

    id: int
    piece: str | list[int]


class TokensAnswer(Struct, frozen=True):
    """Tokens of a text."""

    tokens: list[int | TokenPiece]


class TextAnswer(Struct, frozen=True):
    """Text of tokens."""

    content: str


class PromptAnswer(Struct, frozen=True):
    """A prompt made of messages."""

    prompt: str


class EmbeddingAnswer(Struct, frozen=True):
    """A vector of a text, or one for each of its tokens; `index` is the text's place in `input`."""

    embedding: list[float | list[float]]
    index: int | UnsetType = UNSET


Embeddings = EmbeddingAnswer | list[EmbeddingAnswer]


class ModelQuery(Struct, frozen=True):
    """Which model."""

    model: str = ""
