"""The fields of OpenAI's APIs, and those of ours that each of them takes too; from them the engine's request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.fields import (
    LARGEST,
    Bias,
    Extensions,
    Several,
    SlotId,
    StopText,
    bias_pairs,
    extended,
    stop_texts,
)
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.engine.request import Request
    from llamakit.session import Session
    from llamakit.tokenizer import Tokenizer


Limit = Annotated[int, Meta(ge=-1, le=LARGEST, description="Most tokens of an answer; -1 = until its end.")]


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream tells beside the answer."""

    include_usage: bool = False


class Generate(Extensions, frozen=True, kw_only=True):
    """What OpenAI's two APIs have in common."""

    stream: Annotated[bool, Meta(description="Answer with server-sent events.")] = False
    stream_options: StreamOptions | None = None
    n: Annotated[Several, Meta(description="Answers to give.")] = 1
    best_of: Annotated[Several, Meta(description="Answers to make, of which the likeliest are given.")] | None = None
    stop: Annotated[list[StopText | None] | StopText, Meta(description="Texts that end the answer.")] = []
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1, description="Of random numbers; -1 = a new one.")] = -1
    logit_bias: Annotated[Bias, Meta(description="Token id (or text) -> what to add to its logit; false bans it.")] = {}
    id_slot: SlotId = -1
    user: Annotated[str, Meta(description="Without effect.")] = ""
    return_progress: Annotated[bool, Meta(description="Tell of queue, loading and prompt while streaming.")] = False

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with counts."""
        return self.stream_options is not None and self.stream_options.include_usage


def options_of(tokenizer: Tokenizer, fields: Generate, sampling: Mapping[str, object]) -> dict[str, Any]:
    """Sampler options with the biases, which may be 65,000 texts: made once for all prompts of a body."""
    options = {name: value for name, value in sampling.items() if name != "ignore_eos"}
    return options | {"logit_bias": bias_pairs(tokenizer, fields.logit_bias)} if fields.logit_bias else options


def make_request(
    session: Session,
    tokens: list[int],
    fields: Generate,
    options: dict[str, Any],
    *,
    max_tokens: int,
    stop: tuple[str, ...] = (),
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    shown: frozenset[int] = frozenset(),
) -> Request:
    """The engine's request for a prompt. UsageError for what only the model can tell: token ids, adapters."""
    return extended(
        session, tokens, fields, max_tokens=max_tokens, stop=(*stop_texts(fields.stop), *stop), seed=fields.seed,
        n=fields.n, best_of=fields.best_of or 1, logprobs=logprobs, prompt_logprobs=prompt_logprobs,
        progress=fields.return_progress and fields.stream, shown=shown, **options,
    )  # fmt: skip
