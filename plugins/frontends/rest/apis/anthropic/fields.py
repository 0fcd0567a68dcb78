"""Anthropic's messages: their fields, and the conversation that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.chat import ANY_TOOL, Conversation, text_of
from llamakit.plugins.frontends.rest.constrain import RESPONSE_FORMAT, format_options
from llamakit.plugins.frontends.rest.fields import Extensions, StopText
from llamakit.plugins.frontends.rest.nested import known
from msgspec import Meta

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.state import ServerState

TEXTS = {"text": "text"}
LARGEST = (1 << 31) - 1
SERVER_BLOCKS = ("server_tool_use", "tool_reference", "search_result", "container_upload", "mcp_tool_use")
THOUGHTS = ("thinking", "redacted_thinking")

Content = str | list[dict[str, Any]]


class Message(msgspec.Struct, frozen=True):
    """One message."""

    role: str
    content: Content


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the answer may call."""

    name: Annotated[str, Meta(min_length=1, max_length=256)] = ""
    type: Annotated[str, Meta(max_length=64, description="Those other than custom are run by Anthropic; left out.")] = (
        "custom"
    )
    input_schema: dict[str, Any] = {}
    description: str = ""
    strict: Annotated[bool, Meta(description="Refuse a schema that cannot be enforced.")] = False


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a tool must be called: auto, any, none, or the one named."""

    type: str
    name: str = ""
    disable_parallel_tool_use: Annotated[bool, Meta(description="Call one tool at most.")] = False


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model reasons before it answers: enabled, adaptive or disabled."""

    type: str
    budget_tokens: int | None = None


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The form of the answer: {"type": "json_schema", "schema": {...}}."""

    format: Annotated[dict[str, Any], Meta(extra=RESPONSE_FORMAT)] | None = None


class CountBody(Extensions, frozen=True, kw_only=True):
    """What `POST /v1/messages/count_tokens` takes."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=10_000, description="The conversation.")]
    system: Annotated[Content, Meta(description="The system's words.")] = ""
    tools: Annotated[
        list[Tool], Meta(max_length=1000, extra=known(*Tool.__struct_fields__, types=("custom", None)))
    ] = []
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesBody(CountBody, frozen=True, kw_only=True):
    """What `POST /v1/messages` takes, beside the options of every sampler."""

    max_tokens: Annotated[int, Meta(ge=0, le=LARGEST, description="Most tokens of the answer.")]
    stop_sequences: Annotated[list[StopText], Meta(description="Texts that end the answer.")] = []
    stream: Annotated[bool, Meta(description="Answer with server-sent events.")] = False
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1, description="Of random numbers; -1 = a new one.")] = -1
    output_config: OutputConfig | None = None
    output_format: Annotated[dict[str, Any], Meta(description="As `format` of `output_config`.")] | None = None
    metadata: Annotated[dict[str, Any], Meta(description="Without effect.")] = {}


def output_options(state: ServerState, fields: MessagesBody) -> dict[str, Any]:
    """Sampler options for the form that is asked for."""
    if fields.output_config is not None and fields.output_config.format is not None:
        return format_options(state, fields.output_config.format, "output_config")
    return format_options(state, fields.output_format, "output_format")


def conversation(fields: CountBody) -> Conversation:
    """The conversation that is asked for. A last message of the assistant is continued, unless it calls tools."""
    messages: list[dict[str, Any]] = []
    system = text_of(fields.system, "system", TEXTS)
    if system:
        messages.append({"role": "system", "content": system})
    for number, message in enumerate(fields.messages):
        messages += _messages(message, f"message {number + 1}")
    tools = [_tool(tool) for tool in fields.tools if tool.type == "custom"]
    choice = fields.tool_choice
    kind = "auto" if choice is None else choice.type
    return Conversation(
        messages=messages, tools=[] if kind == "none" else tools, must_call=_must_call(fields),
        parallel=choice is None or not choice.disable_parallel_tool_use,
        continue_last=messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"),
        variables={} if fields.thinking is None else {"enable_thinking": fields.thinking.type != "disabled"},
    )  # fmt: skip


def _must_call(fields: CountBody) -> str | None:
    choice = fields.tool_choice
    if choice is None or choice.type in ("auto", "none"):
        return None
    if choice.type == "any" and fields.tools:
        return ANY_TOOL
    if choice.type == "tool" and choice.name in {tool.name for tool in fields.tools}:
        return choice.name
    raise UsageError(
        f"tool_choice {choice.type[:40]!r} names no tool of the request",
        hint="auto, none, any, or tool with the name of one", param="tool_choice",
    )  # fmt: skip


def _tool(tool: Tool) -> dict[str, Any]:
    """A tool as OpenAI has it."""
    if not tool.name:
        raise UsageError("a tool has no name", param="tools")
    function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    function |= {"strict": True} if tool.strict else {}
    return {"type": "function", "function": function}


def _messages(message: Message, where: str) -> list[dict[str, Any]]:
    """A message as chat templates want it; results of tools are messages of their own."""
    if message.role not in ("user", "assistant", "system"):
        raise UsageError(f"the role of {where} is {message.role[:40]!r}", hint="user or assistant", param="messages")
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results = [block for block in message.content if block.get("type") == "tool_result"]
    calls = [block for block in message.content if block.get("type") == "tool_use"]
    thoughts = [block for block in message.content if block.get("type") in THOUGHTS]
    rest = [
        block for block in message.content
        if block not in [*results, *calls, *thoughts] and not _of_anthropic(block.get("type"))
    ]  # fmt: skip
    found = [_result(block, where) for block in results]
    if rest or calls or thoughts or not results:
        own: dict[str, Any] = {"role": message.role, "content": text_of(_texts(rest), where, TEXTS)}
        thought = "".join(str(block.get("thinking", "")) for block in thoughts)
        own |= {"reasoning_content": thought} if thought else {}
        own |= {"tool_calls": [_call(block, where) for block in calls]} if calls else {}
        found.append(own)
    return found


def _of_anthropic(kind: Any) -> bool:
    """Whether a block is of a tool that Anthropic's own servers run, or refers to one: nothing to be told here."""
    return isinstance(kind, str) and (kind in SERVER_BLOCKS or kind.endswith("_tool_result"))


def skipped(fields: CountBody) -> tuple[str, ...]:
    """Tools and blocks that mean nothing here, for the header."""
    blocks = [block for message in fields.messages if isinstance(message.content, list) for block in message.content]
    kinds = [f"messages.{block['type']}" for block in blocks if _of_anthropic(block.get("type"))]
    return tuple(dict.fromkeys([*(f"tools.{tool.type}" for tool in fields.tools if tool.type != "custom"), *kinds]))


def _document(block: dict[str, Any]) -> str | None:
    """The text of a document; None for one that is not text."""
    source = block.get("source")
    if not isinstance(source, dict):
        return None
    text: Any = source.get("data") if source.get("type") == "text" else None
    if source.get("type") == "content":
        content = source.get("content")
        parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        text = content if isinstance(content, str) else "\n".join(str(part.get("text", "")) for part in parts)
    title = block.get("title")
    return None if text is None else (f"{title}\n\n{text}" if title else str(text))


def _texts(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks with documents as texts."""
    made = [(block, _document(block) if block.get("type") == "document" else None) for block in blocks]
    return [block if text is None else {"type": "text", "text": text} for block, text in made]


def _result(block: dict[str, Any], where: str) -> dict[str, Any]:
    content = block.get("content")
    if isinstance(content, list):
        content = _texts([part for part in content if isinstance(part, dict) and not _of_anthropic(part.get("type"))])
    text = text_of(content, f"a tool_result in {where}", TEXTS)
    return {"role": "tool", "content": text, "tool_call_id": str(block.get("tool_use_id", ""))}


def _call(block: dict[str, Any], where: str) -> dict[str, Any]:
    name, arguments = block.get("name"), block.get("input", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UsageError(f"a tool_use in {where} has no name, or an input that is not an object", param="messages")
    return {
        "id": str(block.get("id", "")), "type": "function", "function": {"name": name, "arguments": arguments}
    }  # fmt: skip
