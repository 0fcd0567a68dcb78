"""Messages made fit for a chat template: what it cannot show, such as tools or calls, is told in words that it can.

Serving and training both go through here, so that a model is trained on the prompts that it will be given. Messages are
in OpenAI's form, with texts as contents; arguments are objects, or JSON.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from llamakit.bounded_json import NestedJson
from llamakit.chat.profile import as_parts, named_id, profile_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamakit.chat.profile import Profile
    from llamakit.chat.tools import ToolFormat

T = TypeVar("T")
Message = dict[str, Any]
ARGUMENTS = "what calls were given"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def fit_messages(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]], source: str
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """The messages and tools to render with the template of this source; None for no tools."""
    return fitted(messages, tools, profile_of(source))


def fitted(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None, profile: Profile
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Messages and tools as the template wants them."""
    found = [_known_role(message, profile) for message in with_ids(messages)]
    described = list(tools) if tools else None
    nested = NestedJson()
    if described and profile.descriptions:
        described = [_described(tool) for tool in described]
    if described and not profile.tools:
        found, described = [_description(described, profile.format), *found], None
    if profile.named_ids:
        found = _with_named_ids(found)
    if profile.thought:
        found = [_with_thought(message, profile.thought) for message in found]
    if not profile.calls or not profile.results:
        found = _as_text(found, profile, nested)
    if profile.one_call:
        found = _one_by_one(found)
    found = [_with_calls(message, profile, nested) if message.get("tool_calls") else message for message in found]
    if not profile.systems:
        found = _one_system(found, shown=profile.system)
    elif described is None and tools and len(found) > 1 and found[1]["role"] == "system":
        found = [_joined(found[1], found[0]), *found[2:]]  # the description follows what the system says
    if not profile.repeats:
        found = _alternating(found)
    return ([as_parts(message) for message in found] if profile.parts else found), described


def with_ids(messages: Sequence[Message]) -> list[Message]:
    """The messages with an id for each call, and for each result that of its call, where they have none."""
    found, waiting = [], _Waiting[tuple[str, str]]()
    for place, message in enumerate(messages):
        if message.get("tool_calls"):
            calls = [
                call if call.get("id") else {"id": f"call_{place}_{number}", **call}
                for number, call in enumerate(message["tool_calls"])
            ]
            called = [(call["id"], call["function"]["name"]) for call in calls]
            waiting = _Waiting((*each, each) for each in called)
            found.append({**message, "tool_calls": calls})
        elif message.get("role") == "tool":
            id, name = message.get("tool_call_id"), message.get("name")
            mine = waiting.take(id) or (None if id else waiting.take_named(name))
            more = {} if mine is None else {"tool_call_id": mine[0], "name": mine[1]}
            found.append(
                {**more, **{key: value for key, value in message.items() if value}, "content": message.get("content")}
            )
        else:
            found.append(dict(message))
    return found


def arguments_of(given: Any, nested: NestedJson | None = None) -> Any:
    """Arguments of a call as an object, also where they come as JSON; "" means none. `nested`: of the whole request."""
    if not isinstance(given, str):
        return {} if given is None else given
    if not given.strip():
        return {}
    try:
        return (nested or NestedJson()).decode(given, ARGUMENTS, "messages")
    except msgspec.DecodeError:
        return given


def short_id(id: str) -> str:
    """Nine letters and digits for an id, the same for the same."""
    if len(id) == 9 and id.isascii() and id.isalnum():
        return id
    number = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")
    return "".join(BASE62[number // 62**i % 62] for i in range(9))


def _known_role(message: Message, profile: Profile) -> Message:
    role = message["role"]
    if role == "developer" and not profile.developer:
        message = {**message, "role": "system"}
    return {**message, "role": "tool"} if role == "function" else message


def _with_named_ids(messages: list[Message]) -> list[Message]:
    """Ids of calls that have the names of their functions in them, and numbers over the whole conversation."""
    found, known, n = [], dict[str, str](), 0
    for message in messages:
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                known[call["id"]] = named_id(call["function"]["name"], n)
                calls.append({**call, "id": known[call["id"]]})
                n += 1
            found.append({**message, "tool_calls": calls})
        elif isinstance(message.get("tool_call_id"), str) and message["tool_call_id"] in known:
            found.append({**message, "tool_call_id": known[message["tool_call_id"]]})
        else:
            found.append(message)
    return found


def _with_thought(message: Message, key: str) -> Message:
    """A message whose thought is under the template's key."""
    if key == "reasoning_content" or "reasoning_content" not in message:
        return message
    return {key: message["reasoning_content"]} | {k: v for k, v in message.items() if k != "reasoning_content"}


def _described(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool with a description, if only an empty one, of itself and of each parameter."""
    function = {"description": "", **tool["function"]}
    schema = function.get("parameters")
    if isinstance(schema, dict) and isinstance(schema.get("properties"), dict):
        properties = {
            name: {"description": "", **each} if isinstance(each, dict) else each
            for name, each in schema["properties"].items()
        }
        function["parameters"] = {**schema, "properties": properties}
    return {**tool, "function": function}


def _description(tools: list[dict[str, Any]], format: ToolFormat) -> Message:
    """The tools told to the system, for templates that have no place for them."""
    lines = [msgspec.json.encode(tool["function"]).decode() for tool in tools]
    call = f"To call one, answer with nothing but {format.example()}"
    return {"role": "system", "content": "\n".join(["These tools can be called:", *lines, call])}


def _with_calls(message: Message, profile: Profile, nested: NestedJson) -> Message:
    """A message with calls, its arguments and ids as the template wants them."""
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        arguments = arguments_of(function.get("arguments"), nested)
        if profile.text_arguments and not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        id = short_id(call["id"]) if profile.short_ids else call["id"]
        calls.append({**call, "id": id, "function": {**function, "arguments": arguments}})
    content = message.get("content")
    if profile.null_content and not content:
        content = None
    return {**message, "content": content, "tool_calls": calls}


def _as_text(messages: list[Message], profile: Profile, nested: NestedJson) -> list[Message]:
    """Calls as the model writes them, and results as turns of the user, for templates that leave them out."""
    found: list[Message | list[str]] = []  # a list: results in a row
    for message in messages:
        if message.get("tool_calls") and not profile.calls:
            calls = [
                (c["function"]["name"], arguments_of(c["function"].get("arguments"), nested))
                for c in message["tool_calls"]
            ]
            words = "\n".join(filter(None, (message.get("content"), profile.format.text(calls))))
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            found.append({**rest, "content": words})
        elif message["role"] == "tool" and not profile.results:
            text = f"The result of {message.get('name') or 'the tool'}:\n{message.get('content') or ''}"
            if found and isinstance(found[-1], list):
                found[-1].append(text)
            else:
                found.append([text])
        else:
            found.append(message)
    return [{"role": "user", "content": "\n\n".join(each)} if isinstance(each, list) else each for each in found]


def _one_by_one(messages: list[Message]) -> list[Message]:
    """A message for each call, each followed by its result."""
    found: list[Message] = []
    waiting = _Waiting[Message]()  # calls whose turn is still to come
    for message in messages:
        if message["role"] == "tool":
            mine = waiting.take(message.get("tool_call_id"))
            if mine is not None:
                found.append(mine)
        else:
            found += waiting.rest()
            waiting = _Waiting()
        calls = message.get("tool_calls") or []
        if len(calls) > 1:
            found.append({**message, "tool_calls": calls[:1]})
            alone = [{**message, "content": "", "tool_calls": [call]} for call in calls[1:]]
            waiting = _Waiting((each["tool_calls"][0]["id"], None, each) for each in alone)
        else:
            found.append(message)
    return found + waiting.rest()


def _one_system(messages: list[Message], *, shown: bool) -> list[Message]:
    """All words of the system as one message at the beginning, or in the first of the user where it knows no system."""
    words = [str(message["content"]) for message in messages if message["role"] == "system" and message.get("content")]
    rest = [message for message in messages if message["role"] != "system"]
    if not words:
        return rest or messages
    text = "\n\n".join(words)
    if shown:
        return [{"role": "system", "content": text}, *rest]
    if rest and rest[0]["role"] == "user":
        return [_joined({"role": "user", "content": text}, rest[0]), *rest[1:]]
    return [{"role": "user", "content": text}, *rest]


def _alternating(messages: list[Message]) -> list[Message]:
    """Messages of one role in a row as one."""
    rows: list[list[Message]] = []
    for message in messages:
        plain = message["role"] in ("user", "system") or (
            message["role"] == "assistant" and not message.get("tool_calls")
        )
        if rows and plain and rows[-1][-1]["role"] == message["role"] and not rows[-1][-1].get("tool_calls"):
            rows[-1].append(message)
        else:
            rows.append([message])
    return [_joined(*row) if len(row) > 1 else row[0] for row in rows]


def _joined(*messages: Message) -> Message:
    """Messages as one of the first one's role."""
    texts = [each.get("content") for each in messages]
    content = "\n\n".join(str(text) for text in texts if text)
    return {**messages[-1], "role": messages[0]["role"], "content": content}


class _Waiting(Generic[T]):
    """Calls whose results are still to come, in order: each with its id, its name and a value."""

    def __init__(self, calls: Iterable[tuple[Any, Any, T]] = ()) -> None:
        self._values: dict[int, T] = {}
        self._numbers: deque[int] = deque()
        self._ids: dict[str, deque[int]] = {}
        self._names: dict[str, deque[int]] = {}
        for number, (id, name, value) in enumerate(calls):
            self._values[number] = value
            self._numbers.append(number)
            if isinstance(id, str):
                self._ids.setdefault(id, deque()).append(number)
            if isinstance(name, str):
                self._names.setdefault(name, deque()).append(number)

    def take(self, id: Any) -> T | None:
        """The first one with this id, which waits no more."""
        return self._take(self._ids.get(id) if isinstance(id, str) else None)

    def take_named(self, name: Any) -> T | None:
        """The first one of this name; of any name for None."""
        if name is None:
            return self._take(self._numbers)
        return self._take(self._names.get(name) if isinstance(name, str) else None)

    def rest(self) -> list[T]:
        """The values of all that wait."""
        return list(self._values.values())

    def _take(self, numbers: deque[int] | None) -> T | None:
        while numbers:
            number = numbers.popleft()
            if number in self._values:
                return self._values.pop(number)
        return None
