"""Messages as people write them in data files, in the form that chat templates expect."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import msgspec

from llamakit.bounded_json import short
from llamakit.errors import LONGEST_NAME, DataError

ROLES = {  # other names of the same
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "function_response": "tool", "observation": "tool", "user": "user", "assistant": "assistant", "system": "system",
    "tool": "tool", "developer": "developer",
}  # fmt: skip
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
KEPT = ("name", "tool_call_id", "reasoning_content")


def read_messages(values: Any, where: str) -> list[dict[str, Any]]:
    """Messages with texts as contents and objects as arguments. `weight` of an answer stays: 0 means no loss on it.

    Both {"role", "content"} and {"from", "value"} are read.
    """
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: messages are a list of at least one", found=shown(values), param="data")
    return [_message(value, f"{where}, message {number}") for number, value in enumerate(values, 1)]


def read_tools(values: Any, where: str) -> list[dict[str, Any]]:
    """Tools as {"type": "function", "function": {...}}; also as bare functions, or as JSON in a string."""
    if isinstance(values, str):
        values = _json(values, f"{where}, tools") if values.strip() else None
    if values and not isinstance(values, list):
        raise DataError(f"{where}: tools are a list", found=shown(values), param="data")
    found = []
    for number, value in enumerate(values or (), 1):
        function = value.get("function", value) if isinstance(value, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError(f"{where}: tool {number} has no function with a name", found=shown(value), param="data")
        found.append({"type": "function", "function": function})
    return found


def _message(value: Any, where: str) -> dict[str, Any]:
    role = value.get("role", value.get("from")) if isinstance(value, dict) else None
    if not isinstance(role, str):
        raise DataError(f"{where}: there is no role", found=shown(value), hint="role and content", param="data")
    role = ROLES.get(role.strip().lower(), role)
    if role not in ROLES.values() and (meant := get_close_matches(role.lower(), [*ROLES, *ROLES.values()], 1, 0.75)):
        raise DataError(f"{where}: the role {role!r} is not known", hint=ROLES.get(meant[0], meant[0]), param="data")
    message: dict[str, Any] = {"role": role, "content": _text(value.get("content", value.get("value")), where)}
    message |= {name: value[name] for name in KEPT if isinstance(value.get(name), str)}
    weight = value.get("weight")
    if weight is not None:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1000:
            raise DataError(f"{where}: the weight is {shown(weight)}", hint="0, 1 or a number between", param="data")
        message["weight"] = float(weight)
    calls = value.get("tool_calls") or ([{"function": value["function_call"]}] if value.get("function_call") else None)
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise DataError(f"{where}: calls of tools are a list in a message of the assistant", param="data")
        message["tool_calls"] = [_call(call, where) for call in calls]
    return message


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(f"{where}: the content is not text", found=shown(content), param="data")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(TEXT_PARTS.get(kind)) if isinstance(kind, str) else part if isinstance(part, str) else None
        if not isinstance(text, str):
            raise DataError(f"{where}: only texts can be learned from", found=shown(part), param="data")
        texts.append(text)
    return "\n".join(texts)


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: a call has no function with a name", found=shown(call), param="data")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        name = short(function["name"], LONGEST_NAME)
        arguments = _json(arguments, f"{where}, arguments of {name}") if arguments.strip() else {}
    found: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    id = call.get("id")
    return {"id": id, **found} if isinstance(id, str) else found


def _json(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{where}: this is not JSON: {error}", found=shown(text), param="data") from None


def shown(value: Any) -> str:
    """A value for people, cut."""
    try:
        text = msgspec.json.encode(value).decode("utf-8", "replace")
    except RecursionError:
        return "lists or objects within one another, too deep"
    return text if len(text) <= 60 else text[:60] + "..."
