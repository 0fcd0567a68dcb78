"""The fields of OpenAI's APIs, and those of ours that each of them takes too; from them the engine's request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.apis.native_fields import (
    CONSTRAINTS,
    LARGEST,
    LONGEST_STOP,
    Bias,
    LoraChoice,
    Name,
    adapters,
    bias_pairs,
    sampler_names,
    stop_texts,
)
from llamakit.plugins.frontends.rest.body import wrong
from llamakit.plugins.frontends.rest.constrain import constraint_key
from msgspec import Meta

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.request import Request
    from llamakit.session import Session

MOST_ANSWERS = 128
ANY_OBJECT = {"type": "object"}
VLLM_NAMES = {
    "json": "json_schema", "regex": "regex", "choice": "choices", "grammar": "grammar",
    "structural_tag": "structural_tag",
}  # fmt: skip
RANDOM_SEED = (1 << 32) - 1  # -1 as 2023 kept it, in 32 bits

Count = Annotated[int, Meta(ge=1, le=MOST_ANSWERS)]
Limit = Annotated[int, Meta(ge=-1, le=LARGEST, description="Most tokens of an answer; -1 = until its end.")]
StopText = Annotated[str, Meta(max_length=LONGEST_STOP)]


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream tells beside the answer."""

    include_usage: bool = False


class Extensions(msgspec.Struct, frozen=True, kw_only=True):
    """What every API that generates takes beyond its own fields."""

    model: Annotated[Name, Meta(description="Which model, where there are several.")] = ""
    ignore_eos: Annotated[bool, Meta(description="Ban the tokens that end a generation.")] = False
    samplers: Annotated[list[Name] | Name, Meta(description='Names of samplers in order, or "a;b".')] | None = None
    lora: (
        Annotated[list[LoraChoice], Meta(max_length=32, description="Adapters for this request; others are off.")]
        | None
    ) = None
    context_shift: Annotated[
        bool, Meta(description="Drop the oldest tokens when the context is full, in place of ending the answer.")
    ] = False
    cache_prompt: Annotated[bool, Meta(description="Use and keep evaluated beginnings of prompts.")] = True
    cache_salt: Annotated[str, Meta(max_length=256, description="Only requests with the same share them.")] = ""
    n_beams: Annotated[Count, Meta(description="Search with so many beams instead of sampling.")] = 1
    priority: Annotated[int, Meta(ge=-1000, le=1000, description="Larger goes first.")] = 0
    deadline: Annotated[float, Meta(gt=0, le=86400, description="Seconds until the answer is cut.")] | None = None
    draft: Annotated[int, Meta(ge=0, le=64, description="Most tokens guessed ahead in a step.")] | None = None


class Generate(Extensions, frozen=True, kw_only=True):
    """What OpenAI's two APIs have in common."""

    stream: Annotated[bool, Meta(description="Answer with server-sent events.")] = False
    stream_options: StreamOptions | None = None
    n: Annotated[Count, Meta(description="Answers to give.")] = 1
    best_of: Annotated[Count, Meta(description="Answers to make, of which the likeliest are given.")] | None = None
    stop: Annotated[list[StopText | None] | StopText, Meta(description="Texts that end the answer.")] = []
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1, description="Of random numbers; -1 = a new one.")] = -1
    logit_bias: Annotated[Bias, Meta(description="Token id (or text) -> what to add to its logit; false bans it.")] = {}
    user: Annotated[str, Meta(description="Without effect.")] = ""
    return_progress: Annotated[bool, Meta(description="Tell of queue, loading and prompt while streaming.")] = False

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with counts."""
        return self.stream_options is not None and self.stream_options.include_usage


def check_constraints(state: ServerState) -> Callable[[dict[str, Any]], None]:
    """What reads vLLM's names of constraints, and refuses any where no sampler keeps to one."""

    def rewrite(values: dict[str, Any]) -> None:
        _rename_constraints(values)
        for name in CONSTRAINTS:
            if values.get(name) in (None, "", []):
                values.pop(name, None)
            elif name in values:
                constraint_key(state, name, name)

    return rewrite


def _rename_constraints(values: dict[str, Any]) -> None:
    """`structured_outputs` and `guided_json` and so on, as vLLM has them, under the sampler's names."""
    given = values.pop("structured_outputs", None) or {}
    if not isinstance(given, dict):
        raise wrong("structured_outputs", given, "an object")
    if given.get("json_object"):
        given = {"json": ANY_OBJECT} | given
    for theirs, ours in VLLM_NAMES.items():
        value = values.pop(f"guided_{theirs}", None) or given.get(theirs)
        if value:
            values[ours] = value


def format_options(state: ServerState, asked: Any, param: str = "response_format") -> dict[str, Any]:
    """Sampler options for a `response_format`; nothing for text."""
    if asked is None:
        return {}
    kind = asked.get("type") if isinstance(asked, dict) else asked
    if kind == "text":
        return {}
    if kind == "json_object":
        return {constraint_key(state, "json_schema", param): ANY_OBJECT}
    if kind == "json_schema" and isinstance(asked, dict):
        part = asked.get("json_schema", asked)
        schema = part.get("schema") if isinstance(part, dict) else None
        if not isinstance(schema, dict):
            raise UsageError(f"{param} has no schema", hint='{"json_schema": {"schema": {...}}}', param=param)
        return {constraint_key(state, "json_schema", param): schema}
    if kind == "structural_tag" and isinstance(asked, dict):
        return {constraint_key(state, "structural_tag", param): asked}
    raise wrong(param, kind, "text, json_object, json_schema or structural_tag")


def make_request(
    session: Session,
    tokens: list[int],
    fields: Generate,
    sampling: Mapping[str, object],
    *,
    max_tokens: int,
    stop: tuple[str, ...] = (),
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    shown: frozenset[int] = frozenset(),
) -> Request:
    """The engine's request for a prompt. UsageError for what only the model can tell: token ids, adapters."""
    options = {name: value for name, value in sampling.items() if name not in ("ignore_eos", "logit_bias")}
    if fields.logit_bias:
        options["logit_bias"] = bias_pairs(session.tokenizer, fields.logit_bias)
    elif "logit_bias" in sampling:
        options["logit_bias"] = sampling["logit_bias"]
    return extended(
        session, tokens, fields, max_tokens=max_tokens, stop=(*stop_texts(fields.stop), *stop), seed=fields.seed,
        n=fields.n, best_of=fields.best_of or 1, logprobs=logprobs, prompt_logprobs=prompt_logprobs,
        progress=fields.return_progress and fields.stream, shown=shown, **options,
    )  # fmt: skip


def extended(session: Session, tokens: list[int], fields: Extensions, *, seed: int, **params: Any) -> Request:
    """The engine's request with the fields of `Extensions`."""
    return session.request(
        tokens, ignore_eos=fields.ignore_eos, samplers=sampler_names(fields.samplers), shift=fields.context_shift,
        adapters=adapters(session, fields.lora), cache=fields.cache_prompt, cache_salt=fields.cache_salt,
        beams=fields.n_beams, priority=fields.priority, deadline=fields.deadline, draft=fields.draft,
        seed=-1 if seed == RANDOM_SEED else seed, **params,
    )  # fmt: skip


def settings_of(state: ServerState, sampling: Mapping[str, object]) -> dict[str, object]:
    """Sampler options in force: the server's settings, then the request's."""
    settings: Mapping[str, object] = getattr(state, "sampling", {})
    return {**settings, **sampling}
