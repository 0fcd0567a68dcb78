"""Messages as OpenAI's chats spell them, in the form that chat templates expect."""

from __future__ import annotations

from typing import Any

from llamakit.plugins.frontends.rest.chat import ANY_TOOL, Conversation, checked_tools, text_of
from llamakit.plugins.frontends.rest.nested import known

from llamakit.bounded_json import NestedJson, quoted, short
from llamakit.chat.fit import arguments_of
from llamakit.errors import UsageError

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
KEPT = ("name", "tool_call_id", "reasoning_content")
REASONING = "reasoning"  # what OpenRouter and vLLM call reasoning_content
MESSAGE = known("role", "content", *KEPT, REASONING, "tool_calls", "function_call")


def from_openai(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with texts as contents and objects as arguments; UsageError names the one at fault."""
    nested = NestedJson()
    return [_message(message, f"message {number + 1}", nested) for number, message in enumerate(messages)]


def _message(message: dict[str, Any], where: str, nested: NestedJson) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise UsageError(f"the role of {where} is {quoted(role, 40)}", hint=", ".join(ROLES), param="messages")
    found: dict[str, Any] = {"role": role, "content": text_of(message.get("content"), where, TEXTS)}
    found |= {name: message[name] for name in KEPT if isinstance(message.get(name), str)}
    if isinstance(message.get(REASONING), str) and role == "assistant":
        found.setdefault("reasoning_content", message[REASONING])
    calls = message.get("tool_calls")
    if not calls and isinstance(message.get("function_call"), dict):
        calls = [{"type": "function", "function": message["function_call"]}]
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise UsageError(f"{where} cannot have tool_calls", param="messages")
        found["tool_calls"] = [_call(call, where, nested) for call in calls]
    return found


def _call(call: Any, where: str, nested: NestedJson) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UsageError(f"a call in {where} has no function with a name", param="messages")
    arguments = arguments_of(function.get("arguments", {}), nested)
    id = call.get("id")
    found: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": id, **found} if isinstance(id, str) else found


def conversation(
    messages: list[dict[str, Any]],
    *,
    tools: list[dict[str, Any]] | None = None,
    tool_choice: Any = None,
    parallel: bool = True,
    variables: dict[str, Any] | None = None,
    continue_last: bool | None = None,
) -> Conversation:
    """A conversation from OpenAI's fields. A last message of the assistant is continued, unless it calls tools."""
    converted, usable = from_openai(messages), checked_tools(tools)
    last = converted[-1] if converted else {}
    can_continue = last.get("role") == "assistant" and not last.get("tool_calls")
    if continue_last and not can_continue:
        raise UsageError("the last message is not one of the assistant, so it cannot be continued", param="messages")
    allowed, tool_choice = _allowed(tool_choice)
    choice = _tool_choice(tool_choice, usable)
    return Conversation(
        messages=converted, tools=[] if choice == "none" else usable,
        must_call=None if choice in ("auto", "none") else choice.removeprefix("="), allowed=allowed, parallel=parallel,
        continue_last=can_continue if continue_last is None else continue_last, variables=variables or {},
    )  # fmt: skip


def _allowed(asked: Any) -> tuple[frozenset[str] | None, Any]:
    """The names in a choice of `allowed_tools`, and whether one must be called; None and the choice for all others."""
    if not isinstance(asked, dict) or asked.get("type") != "allowed_tools":
        return None, asked
    value = asked.get("allowed_tools", asked)
    tools = value.get("tools") if isinstance(value, dict) else None
    tools = tools if isinstance(tools, list) else []
    functions = [tool.get("function", tool) if isinstance(tool, dict) else {} for tool in tools]
    names = [function.get("name") if isinstance(function, dict) else None for function in functions]
    if not names or not all(isinstance(name, str) for name in names):
        raise UsageError("the tools of allowed_tools have no names", param="tool_choice")
    return frozenset(names), value.get("mode", "auto")


def _tool_choice(asked: Any, tools: list[dict[str, Any]]) -> str:
    """ "auto", "none", "=" for any tool that must be called, or "=" and the name of one."""
    if asked is None or asked in ("auto", "none"):
        return asked or "auto"
    if asked == "required":
        name: Any = ANY_TOOL
    else:
        function = asked.get("function", asked) if isinstance(asked, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not tools or (name and name not in {t["function"]["name"] for t in tools}):
        raise UsageError(
            f"tool_choice names no tool of the request: {short(asked, 80)}",
            hint='"auto", "none", "required", or {"type": "function", "function": {"name": ...}}', param="tool_choice",
        )  # fmt: skip
    return f"={name}"
