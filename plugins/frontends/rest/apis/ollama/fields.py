"""The fields of Ollama's API, and what its `options` mean here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.body import check, fill, sampler_options
from llamakit.plugins.frontends.rest.chat import TOOL, Conversation, Prompt, checked_tools
from llamakit.plugins.frontends.rest.constrain import constrained, schema_options
from llamakit.plugins.frontends.rest.fields import (
    LARGEST,
    Extensions,
    Name,
    StopText,
    extended,
    settings_of,
    skip_samplers,
    stop_texts,
)
from llamakit.plugins.frontends.rest.nested import known
from msgspec import Meta

from llamakit.bounded_json import NestedJson, kind_of, quoted
from llamakit.chat.fit import arguments_of
from llamakit.errors import UsageError

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.body import Body
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.request import Request
    from llamakit.session import Session

DEFAULTS = {"top_p": 0.9}  # where Ollama's differ from the samplers' own
ROLES = ("system", "user", "assistant", "tool")
MESSAGE = known("role", "content", "images", "thinking", "tool_name", "tool_calls")
Format = str | dict[str, Any]
Think = bool | str


class OllamaOptions(Extensions, frozen=True, kw_only=True):
    """What `options` holds beside the options of every sampler."""

    num_predict: Annotated[
        int, Meta(ge=-2, le=LARGEST, description="Most tokens; -1 = until the end, -2 = until the context is full.")
    ] = -1
    num_ctx: Annotated[
        int, Meta(ge=0, le=LARGEST, description="The context that is wanted; the server's own counts.")
    ] = 0
    num_keep: Annotated[
        int, Meta(ge=-1, le=LARGEST, description="Tokens of the prompt that stay when the context is full; -1 = all.")
    ] = 0
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1, description="Of random numbers; -1 = a new one.")] = -1
    stop: Annotated[list[StopText | None] | StopText, Meta(description="Texts that end the answer.")] = []


NO_TIME = re.compile(r"[+-]?(0+(\.0*)?(ns|us|µs|ms|s|m|h))+|[+-]?0+(\.0*)?")


def unloads(keep_alive: float | str | None) -> bool:
    """Whether a model is to be unloaded at once: kept for no time, in seconds or as Go writes it, such as "0s"."""
    return keep_alive == 0 or (isinstance(keep_alive, str) and NO_TIME.fullmatch(keep_alive.strip()) is not None)


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What both ways to generate take."""

    model: Name = ""
    stream: Annotated[bool, Meta(description="Answer with lines of JSON.")] = True
    format: Annotated[Format, Meta(description="json, or a JSON schema.")] = ""
    options: Annotated[dict[str, Any], Meta(description="Sampling and limits.")] = {}
    keep_alive: Annotated[
        int | float | str | None, Meta(description="0 unloads the model; else models stay as --idle-unload says.")
    ] = None
    think: Annotated[Think | None, Meta(description="Whether the model reasons before it answers.")] = None
    shift: Annotated[bool, Meta(description="Drop the oldest tokens when the context is full.")] = False
    truncate: Annotated[bool, Meta(description="Cut the middle of a prompt that is too long.")] = False
    logprobs: Annotated[bool, Meta(description="Give the logarithm of each token's probability.")] = False
    top_logprobs: Annotated[int, Meta(ge=0, le=100, description="So many of the likeliest with each token.")] = 0


class GenerateBody(Common, frozen=True, kw_only=True):
    """What `POST /api/generate` takes."""

    prompt: str = ""
    suffix: Annotated[str, Meta(description="The text after the answer, for models that fill gaps.")] = ""
    system: Annotated[str, Meta(description="The system's words.")] = ""
    raw: Annotated[bool, Meta(description="The prompt is complete: no template.")] = False
    context: Annotated[list[int], Meta(max_length=1 << 22, description="Tokens of an earlier answer.")] = []
    images: Annotated[list[str], Meta(max_length=100)] = []


class ChatBody(Common, frozen=True, kw_only=True):
    """What `POST /api/chat` takes."""

    messages: Annotated[
        list[dict[str, Any]], Meta(max_length=10_000, description="The conversation.", extra=MESSAGE)
    ] = []
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1000, description="Functions to call.", extra=TOOL)] = []


def read_options(state: ServerState, fields: Common) -> tuple[Body[OllamaOptions], tuple[str, ...]]:
    """`options`, checked; and the names in it that mean nothing here."""
    values = dict(fields.options)
    if "penalize_newline" in values:
        values["penalize_nl"] = values.pop("penalize_newline")
    for name, least in (("top_k", 0), ("repeat_last_n", -1)):
        if type(values.get(name)) is int and values[name] < least:
            values[name] = least
    skipped = skip_samplers(state, values)
    fill(values, OllamaOptions, state)
    body = check(values, OllamaOptions, sampler_options(state))
    return body, tuple(f"options.{name}" for name in (*body.ignored, *skipped))


def make_request(
    state: ServerState, session: Session, prompt: Prompt, fields: Common, body: Body[OllamaOptions]
) -> Request:
    """The engine's request for a prompt."""
    options = body.fields
    sampling = {**DEFAULTS, **settings_of(state, body.sampling), **format_options(state, fields.format)}
    sampling = constrained(state, session, prompt, sampling)
    return extended(
        session, prompt.tokens, options, seed=options.seed, max_tokens=options.num_predict, keep=options.num_keep,
        stop=(*stop_texts(options.stop), *prompt.stop), truncate=fields.truncate, shown=prompt.shown,
        logprobs=fields.top_logprobs if fields.logprobs else None, **sampling,
    )  # fmt: skip


def format_options(state: ServerState, asked: Format) -> dict[str, Any]:
    """Sampler options for a `format`."""
    if not asked:
        return {}
    if isinstance(asked, str) and asked != "json":
        raise UsageError(f"format is {asked[:40]!r}", hint="json, or a JSON schema", param="format")
    return schema_options(state, {"type": "object"} if asked == "json" else asked, "format")


def variables(think: Think | None) -> dict[str, Any]:
    """What a template is told of thinking aloud: whether, or how much."""
    if think is None:
        return {}
    return {"enable_thinking": think} if isinstance(think, bool) else {
        "enable_thinking": think != "none", "reasoning_effort": think
    }  # fmt: skip


def conversation(fields: ChatBody) -> Conversation:
    """The conversation that is asked for. A last message of the assistant is continued, unless it calls tools."""
    nested = NestedJson()
    messages = [_message(message, f"message {number + 1}", nested) for number, message in enumerate(fields.messages)]
    if not messages:  # which only loads a model, where that is asked for
        raise UsageError("messages is empty", hint="at least one message", param="messages")
    last = messages[-1]
    return Conversation(
        messages=messages, tools=checked_tools(fields.tools), variables=variables(fields.think),
        continue_last=last["role"] == "assistant" and "tool_calls" not in last,
    )  # fmt: skip


def _message(message: dict[str, Any], where: str, nested: NestedJson) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content", "")
    if role not in ROLES:
        raise UsageError(f"the role of {where} is {quoted(role, 40)}", hint=", ".join(ROLES), param="messages")
    if message.get("images"):
        raise UsageError(f"the images of {where} cannot be read", hint="text only", param="messages")
    if not isinstance(content, str | None):
        raise UsageError(f"the content of {where} is not text", param="messages")
    found: dict[str, Any] = {"role": role, "content": content or ""}
    if isinstance(message.get("thinking"), str):
        found["reasoning_content"] = message["thinking"]
    if isinstance(message.get("tool_name"), str):
        found["name"] = message["tool_name"]
    calls = message.get("tool_calls")
    if calls:
        if not isinstance(calls, list):
            raise UsageError(f"the tool_calls of {where} are {kind_of(calls)}", hint="an array", param="messages")
        found["tool_calls"] = [_call(call, where, nested) for call in calls]
    return found


def _call(call: Any, where: str, nested: NestedJson) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UsageError(f"a call in {where} has no function with a name", param="messages")
    arguments = arguments_of(function.get("arguments", {}), nested)
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
