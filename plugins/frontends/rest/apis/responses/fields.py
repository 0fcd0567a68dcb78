"""OpenAI's responses: their fields, and the conversation that their items are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.chat import FUNCTION_TYPES, skipped_tools, variables
from llamakit.plugins.frontends.rest.constrain import RESPONSE_FORMAT
from llamakit.plugins.frontends.rest.fields import Extensions
from llamakit.plugins.frontends.rest.messages import conversation as from_chat
from llamakit.plugins.frontends.rest.nested import known
from msgspec import Meta

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.chat import Conversation

LARGEST = (1 << 31) - 1
FUNCTION = ("name", "description", "parameters", "strict")
TOOL = known("type", *FUNCTION, types=FUNCTION_TYPES)


class Reasoning(msgspec.Struct, frozen=True):
    """How much the model reasons, for its template; none = off."""

    effort: str | None = None


class TextFormat(msgspec.Struct, frozen=True):
    """The form of the answer."""

    format: Annotated[dict[str, Any], Meta(extra=RESPONSE_FORMAT)] | None = None


class ResponsesBody(Extensions, frozen=True, kw_only=True):
    """What `POST /v1/responses` takes, beside the options of every sampler."""

    input: Annotated[str | list[dict[str, Any]], Meta(description="A text, or the items of a conversation.")]
    instructions: Annotated[str, Meta(description="The system's words.")] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=LARGEST, description="Most tokens of the answer.")] | None = None
    stream: Annotated[bool, Meta(description="Answer with server-sent events.")] = False
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1000, description="Functions to call.", extra=TOOL)] = []
    tool_choice: Annotated[str | dict[str, Any], Meta(description="auto, none, required, or which function.")] = "auto"
    parallel_tool_calls: Annotated[bool, Meta(description="Whether an answer may call several tools.")] = True
    reasoning: Reasoning | None = None
    text: TextFormat | None = None
    metadata: Annotated[dict[str, Any], Meta(description="Given back.")] = {}
    user: Annotated[str, Meta(description="Without effect.")] | None = None
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1, description="Of random numbers; -1 = a new one.")] = -1
    store: Annotated[bool, Meta(description="Without effect: nothing is stored.")] = False
    background: Annotated[bool, Meta(description="Must be false.")] = False
    previous_response_id: Annotated[str, Meta(description="Must be unset: nothing is stored.")] | None = None


THOUGHT = "reasoning_content"  # of a message; the role of one that waits for its message, too
READ = ("message", "function_call", "function_call_output", "reasoning")


def conversation(fields: ResponsesBody) -> Conversation:
    """The conversation that is asked for; UsageError for what needs stored answers."""
    if fields.previous_response_id is not None:
        raise UsageError(
            "previous_response_id names a stored answer, and none are stored here",
            hint="send the whole conversation as input", param="previous_response_id",
        )  # fmt: skip
    if fields.background:
        raise UsageError("background needs stored answers, and none are stored here", param="background")
    messages: list[dict[str, Any]] = []
    if fields.instructions:
        messages.append({"role": "system", "content": fields.instructions})
    if isinstance(fields.input, str):
        messages.append({"role": "user", "content": fields.input})
    else:
        for item in fields.input:
            _add(messages, item)
    effort = None if fields.reasoning is None else fields.reasoning.effort
    return from_chat(
        [{k: v for k, v in message.items() if k != THOUGHT or v} for message in messages if message["role"] != THOUGHT],
        tools=[_tool(tool) for tool in fields.tools if tool.get("type", "function") == "function"],
        tool_choice=_choice(fields),
        parallel=fields.parallel_tool_calls, variables=variables(effort),
    )  # fmt: skip


def skipped(fields: ResponsesBody) -> tuple[str, ...]:
    """Tools and items that mean nothing here, for the header."""
    items = fields.input if isinstance(fields.input, list) else []
    kinds = dict.fromkeys(f"input.{kind}" for item in items if (kind := _kind(item)) not in READ)
    return (*skipped_tools(fields.tools), *kinds)


def _kind(item: dict[str, Any]) -> str:
    return str(item.get("type") or "message")[:64]


def _choice(fields: ResponsesBody) -> Any:
    """The choice among the tools; one of another kind is none."""
    choice = fields.tool_choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    return "auto" if kind not in (None, "function", "allowed_tools") else choice


def _add(messages: list[dict[str, Any]], item: dict[str, Any]) -> None:
    """One item, as messages of a chat; calls and thoughts join the message beside them, unknown items are left out."""
    kind = _kind(item)
    thought = messages.pop()["content"] if messages and messages[-1]["role"] == THOUGHT else ""
    if kind == "message":
        own = {THOUGHT: thought} if item.get("role") == "assistant" else {}
        messages.append({"role": item.get("role"), "content": item.get("content"), **own})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments", "{}")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": "", THOUGHT: thought})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        messages.append({"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")})
    elif kind == "reasoning":
        parts = item.get("content") or item.get("summary") or []
        texts = (
            [str(part.get("text", "")) for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        )
        messages.append({"role": THOUGHT, "content": "\n".join(filter(None, [thought, *texts]))})


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as chats have it: there its function is one level deeper."""
    function = {name: tool[name] for name in FUNCTION if name in tool}
    return {"type": "function", "function": function}
