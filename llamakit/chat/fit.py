"""Messages made fit for a chat template that knows no developers, no tools or no calls: what it lacks is told in words.

Serving and training both go through here, so that a model is trained on the prompts that it will be given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.chat.tools import find_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.chat.tools import ToolFormat

Message = dict[str, Any]


def fit_messages(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]], source: str
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """The messages and tools to render with the template of this source; None for no tools."""
    made = _known_roles(messages, source)
    format = find_format(source)
    if "tool_calls" not in source:
        made = [_with_calls_written(message, format) for message in made]
    if tools and "tools" not in source:
        return _with_tools_described(made, tools, format), None
    return made, list(tools) or None


def _known_roles(messages: Sequence[Message], source: str) -> list[Message]:
    """The messages with the developer's as the system's, for templates that know no developer."""
    if "developer" in source:
        return list(messages)
    return [{**message, "role": "system"} if message["role"] == "developer" else message for message in messages]


def _with_calls_written(message: Message, format: ToolFormat) -> Message:
    """A message with its calls as text, in the form that the model's answers have them."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    functions = [call["function"] for call in calls]
    written = format.text([(function["name"], function.get("arguments", {})) for function in functions])
    text = (message.get("content") or "") + written
    return {name: value for name, value in message.items() if name != "tool_calls"} | {"content": text}


def _with_tools_described(
    messages: list[Message], tools: Sequence[dict[str, Any]], format: ToolFormat
) -> list[Message]:
    """The messages with the tools told to the system, for templates that have no place for tools."""
    lines = [msgspec.json.encode(tool["function"]).decode() for tool in tools]
    text = "\n".join(["These tools can be called:", *lines, f"To call one, answer with nothing but {format.example()}"])
    first = messages[0]
    if first["role"] == "system":
        return [{**first, "content": f"{first.get('content') or ''}\n\n{text}".strip()}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
