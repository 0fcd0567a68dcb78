"""The fields of `POST /completion`, those of 2023 and today's, and the engine's request that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
from llamakit.plugins.frontends.rest.body import fill, sampler_options
from llamakit.plugins.frontends.rest.constrain import CONSTRAINTS
from llamakit.plugins.frontends.rest.fields import (
    LARGEST,
    LONGEST_STOP,
    RANDOM_SEED,
    Bias,
    LoraChoice,
    Name,
    SlotId,
    adapters,
    bias_of,
    sampler_names,
    skip_samplers,
    stop_texts,
)
from llamakit.plugins.frontends.rest.prompts import Prompt, Prompts, prompt_tokens, prompts_in
from msgspec import Meta

from llamakit.engine.request import Guidance
from llamakit.errors import UsageError
from llamakit.typed import convert

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.plugins.frontends.rest.body import Body
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.request import Request
    from llamakit.session import Session
    from llamakit.tokenizer import Tokenizer

SHIFT = "Drop old context when it is full, and go on; false where newer fields are given."
DEFAULTS = {"repeat_penalty": 1.1}  # where the request defaults of 2023 differ from the samplers' own


class CompletionBody(msgspec.Struct, frozen=True, kw_only=True, rename={"draft": "speculative.n_max"}):
    """What `POST /completion` takes, beside the options of every sampler."""

    prompt: Annotated[
        Prompts, Meta(description="A text, or an array of texts and token ids; several with arrays in an array.")
    ] = ""
    model: Annotated[Name, Meta(description="Which model, where there are several.")] = ""
    stream: Annotated[bool, Meta(description="Answer with server-sent events.")] = False
    n_predict: Annotated[
        int, Meta(ge=-2, le=LARGEST, description="Most tokens; -1 = until the end, -2 = until the context is full.")
    ] = -1
    n_keep: Annotated[
        int, Meta(ge=-1, le=LARGEST, description="Tokens of the prompt that stay when the context is full; -1 = all.")
    ] = 0
    seed: Annotated[int, Meta(ge=-1, le=(1 << 63) - 1, description="Seed of random numbers; -1 = a new one.")] = -1
    stop: Annotated[
        list[Annotated[str, Meta(max_length=LONGEST_STOP)] | None] | Annotated[str, Meta(max_length=LONGEST_STOP)],
        Meta(description="Texts that end the answer."),
    ] = []
    ignore_eos: Annotated[bool, Meta(description="Ban the tokens that end a generation.")] = False
    logit_bias: Annotated[
        Bias, Meta(description="Pairs of a token (id or text) and what to add to its logit; false bans it.")
    ] = []
    n_probs: Annotated[int, Meta(ge=0, le=1000, description="So many likeliest tokens with each token.")] = 0
    post_sampling_probs: Annotated[
        bool, Meta(description="Probabilities after the samplers (as in 2023), or logarithms of those before.")
    ] = True
    samplers: Annotated[list[Name] | Name, Meta(description='Names of samplers in order, or "a;b".')] | None = None
    context_shift: Annotated[bool, Meta(description=SHIFT)] = True
    parse_special: Annotated[bool, Meta(description="Recognise the texts of control tokens in the prompt.")] = True
    cache_prompt: Annotated[bool, Meta(description="Use and keep evaluated beginnings of prompts.")] = True
    cache_salt: Annotated[str, Meta(max_length=256, description="Only requests with the same share them.")] = ""
    return_tokens: Annotated[bool, Meta(description="Give the ids of the tokens too.")] = False
    timings_per_token: Annotated[bool, Meta(description="Give times with every event of a stream.")] = False
    t_max_predict_ms: Annotated[
        int, Meta(ge=0, le=86_400_000, description="Milliseconds until the answer is cut; 0 = none.")
    ] = 0
    return_progress: Annotated[bool, Meta(description="Tell of queue, loading and prompt while streaming.")] = False
    response_fields: (
        Annotated[list[Name], Meta(max_length=64, description="Only these fields of the last answer, such as a/b.")]
        | None
    ) = None
    n: Annotated[int, Meta(ge=1, le=128, description="Answers to give.")] = 1
    best_of: Annotated[int, Meta(ge=1, le=128, description="Answers to make, of which the likeliest are given.")] = 1
    n_beams: Annotated[int, Meta(ge=1, le=128, description="Search with so many beams instead of sampling.")] = 1
    negative_prompt: Annotated[Prompt, Meta(description="What the answer is moved away from.")] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=100, description="How far it is moved; 1 = not at all.")] | None = (
        None
    )
    lora: (
        Annotated[list[LoraChoice], Meta(max_length=32, description="Adapters for this request; others are off.")]
        | None
    ) = None
    priority: Annotated[int, Meta(ge=-1000, le=1000, description="Larger goes first.")] = 0
    deadline: Annotated[float, Meta(gt=0, le=86400, description="Seconds until the answer is cut.")] | None = None
    draft: Annotated[int, Meta(ge=0, le=64, description="Most tokens of speculative decoding in a step.")] | None = None
    id_slot: SlotId = -1


def spellings_of_2023(state: ServerState) -> Callable[[dict[str, Any]], list[str]]:
    """What makes values that only the 2023 server knew into today's: out-of-range numbers that mean "off"."""

    def rewrite(values: dict[str, Any]) -> list[str]:
        for name, least in (("top_k", 0), ("temperature", 0), ("repeat_last_n", -1)):
            value = values.get(name)
            if type(value) in (int, float) and value < least:
                values[name] = least
        options = sampler_options(state)
        skipped = skip_samplers(state, values)
        for name in CONSTRAINTS:
            if values.get(name) in (None, "") or (name == "choices" and values[name] == []):
                values.pop(name, None)
            elif name not in options:
                raise UsageError(
                    f"{name} needs a sampler that is not installed", hint="llamakit plugins --kind sampler", param=name
                )
        return skipped

    return rewrite


def default_fields(state: ServerState) -> CompletionBody:
    """The fields of a request that says nothing, as the server's settings have them."""
    values: dict[str, Any] = {}
    fill(values, CompletionBody, state)
    return convert(values, CompletionBody)


def sampling_of(state: ServerState, body: Body[Any]) -> dict[str, object]:
    """Sampler options in force: of 2023, then the server's settings, then the request's."""
    return {**DEFAULTS, **state.sampling, **body.sampling}


# Fields that 2023 did not know: a request with one of them gets today's form where the two differ.
NEWER = frozenset({
    "return_tokens", "timings_per_token", "t_max_predict_ms", "return_progress", "response_fields", "id_slot",
    "post_sampling_probs", "samplers", "cache_prompt", "context_shift",
})  # fmt: skip


def is_newer(body: Body[CompletionBody]) -> bool:
    """Whether a request is in today's form."""
    return bool(NEWER & body.given)


def shifts(body: Body[CompletionBody]) -> bool:
    """Whether a full context drops its oldest tokens: as in 2023 unless a request says otherwise, or is of today."""
    said = "context_shift" in body.given or "context_shift" in body.filled
    return body.fields.context_shift if said else not is_newer(body)


def make_requests(session: Session, body: Body[CompletionBody], sampling: dict[str, object]) -> list[Request]:
    """The engine's requests, one for each of the body's prompts."""
    fields, tokenizer = body.fields, session.tokenizer
    alike = alike_in(tokenizer, body, sampling)
    return [
        request_for(session, body, prompt_tokens(tokenizer, prompt, parse_special=fields.parse_special), alike)
        for prompt in prompts_in(fields.prompt, several=is_newer(body))
    ]


class Alike(NamedTuple):
    """What the requests for all prompts of a body have in common, and takes long to make: 65,000 texts, say."""

    options: dict[str, Any]
    ignore_eos: bool
    guidance: Guidance | None


def alike_in(tokenizer: Tokenizer, body: Body[CompletionBody], sampling: dict[str, object]) -> Alike:
    """Sampler options with the biases, and what answers are moved away from."""
    fields = body.fields
    options = {name: value for name, value in sampling.items() if name != "ignore_eos"}
    ignore_eos = fields.ignore_eos or bool(sampling.get("ignore_eos"))
    if fields.logit_bias:
        bias = bias_of(tokenizer, fields.logit_bias)
        if ignore_eos and not tokenizer.eog_ids.isdisjoint(bias):  # a bias that is given wins over `ignore_eos`
            ignore_eos, bias = False, dict.fromkeys(sorted(tokenizer.eog_ids), False) | bias
        options["logit_bias"] = list(bias.items())
    return Alike(options, ignore_eos, guidance(tokenizer, fields))


def request_for(session: Session, body: Body[CompletionBody], tokens: list[int], alike: Alike) -> Request:
    """The engine's request for a prompt. UsageError for what only the model can tell: token ids, adapters."""
    fields, shift = body.fields, shifts(body)
    return session.request(
        tokens,
        max_tokens=fields.n_predict,
        seed=-1 if fields.seed == RANDOM_SEED else fields.seed,
        samplers=sampler_names(fields.samplers),
        stop=stop_texts(fields.stop),
        ignore_eos=alike.ignore_eos,
        keep=kept(fields.n_keep, len(tokens), session.n_ctx),
        shift=shift,
        truncate=shift,
        probs_after=fields.n_probs if fields.post_sampling_probs else 0,
        logprobs=None if fields.post_sampling_probs or not fields.n_probs else fields.n_probs,
        n=fields.n,
        best_of=max(fields.best_of, 1),
        beams=fields.n_beams,
        guidance=alike.guidance,
        adapters=adapters(session, fields.lora),
        priority=fields.priority,
        deadline=_deadline(fields),
        cache=fields.cache_prompt,
        cache_salt=fields.cache_salt,
        draft=fields.draft,
        progress=fields.return_progress and fields.stream,
        **alike.options,
    )


def _deadline(fields: CompletionBody) -> float | None:
    limits = [fields.deadline, fields.t_max_predict_ms / 1000 or None]
    return min((limit for limit in limits if limit is not None), default=None)


def kept(n_keep: int, n_prompt: int, n_ctx: int) -> int:
    """Tokens that stay: all of the prompt for -1, and never so many that nothing could be dropped."""
    return max(0, min(n_prompt if n_keep < 0 else n_keep, n_ctx - 4))


def guidance(tokenizer: Tokenizer, fields: CompletionBody) -> Guidance | None:
    """Classifier-free guidance, if a scale that does something is given."""
    scale = 1.0 if fields.guidance_scale is None else fields.guidance_scale
    if fields.negative_prompt is not None and fields.guidance_scale is None:
        raise UsageError("negative_prompt needs guidance_scale", hint="such as 1.5", param="guidance_scale")
    if scale == 1:
        return None
    negative = prompt_tokens(
        tokenizer, fields.negative_prompt or "", param="negative_prompt", parse_special=fields.parse_special
    )
    return Guidance(negative=negative, scale=scale)
