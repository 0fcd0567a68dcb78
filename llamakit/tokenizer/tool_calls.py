"""Calls of tools in an answer, told from its text: between markers, or an answer that is nothing but a call in JSON.

The splitter takes text in pieces of any size; what it gives together is the same wherever the text is cut. What only
looks like a call, such as broken JSON or a tool that nobody named, stays text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

BEGIN, END = "<tool_call>", "</tool_call>"
ARGUMENTS = ("arguments", "parameters")


class ToolCall(msgspec.Struct, frozen=True):
    """A call: the tool's name and its arguments as a JSON object."""

    name: str
    arguments: str


def marked(source: str) -> bool:
    """Whether a chat template has calls between `<tool_call>` and `</tool_call>`."""
    return BEGIN in source


def forced_beginning(source: str, name: str | None) -> str:
    """How an answer that must be a call begins, of the named tool or of any, in the form of a template."""
    head = f"{BEGIN}\n" if marked(source) else ""
    key = ARGUMENTS[0] if marked(source) or '"parameters"' not in source else ARGUMENTS[1]
    return head + '{"name": ' + (f'{msgspec.json.encode(name).decode()}, "{key}": ' if name else '"')


class ToolCallSplitter:
    """Splits one answer into text and calls of tools that are among `names`."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._state = "start"  # then "text", "call" (after BEGIN) or "json" (all of it may be one call)

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Some more text: what is text of it for certain, and the calls that are complete."""
        self._held += text
        shown, calls = "", list[ToolCall]()
        while True:
            piece, found, more = self._step()
            shown += piece
            calls += found
            if not more:
                return shown, calls

    def flush(self) -> tuple[str, list[ToolCall]]:
        """What was held back; there will be no more text."""
        held, self._held = self._held, ""
        if self._state == "json":
            calls = read_calls(held, self._names)
            return ("", calls) if calls else (held, [])
        if self._state == "call":
            calls = read_calls(held, self._names)  # the end marker is missing, as at the limit of tokens
            return ("", calls) if calls else (BEGIN + held, [])
        return held, []

    def _step(self) -> tuple[str, list[ToolCall], bool]:
        """Look at what is held: (text, calls, whether to look again)."""
        if self._state == "start":
            return self._start()
        if self._state == "json":
            return "", [], False
        if self._state == "call":
            return self._call()
        before, begin, rest = self._held.partition(BEGIN)
        if begin:
            self._state, self._held = "call", rest
            return before.rstrip(), [], True
        keep = _tail(self._held)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown, [], False

    def _start(self) -> tuple[str, list[ToolCall], bool]:
        bare = self._held.lstrip()
        if not bare:
            return "", [], False
        if bare[0] in "{[":
            self._state = "json"
            return "", [], False
        self._state = "text"
        return "", [], True

    def _call(self) -> tuple[str, list[ToolCall], bool]:
        inner, end, rest = self._held.partition(END)
        if not end:
            return "", [], False
        calls = read_calls(inner, self._names)
        self._state, self._held = "text", rest.lstrip() if calls else rest
        return ("", calls, True) if calls else (BEGIN + inner + END, [], True)


def _tail(text: str) -> int:
    """Length of the end of a text that may begin a call, with the white space before it."""
    for length in range(min(len(text), len(BEGIN) - 1), 0, -1):
        if BEGIN.startswith(text[-length:]):
            return len(text) - len(text[:-length].rstrip())
    return len(text) - len(text.rstrip())


def read_calls(text: str, names: Collection[str]) -> list[ToolCall]:
    """The calls that a JSON object or array is, all of them of known tools; nothing if it is anything else."""
    try:
        value = msgspec.json.decode(text.strip())
    except (msgspec.DecodeError, RecursionError):
        return []
    found = [_call_of(each, names) for each in (value if isinstance(value, list) else [value])]
    return [] if None in found else [call for call in found if call is not None]


def _call_of(value: Any, names: Collection[str]) -> ToolCall | None:
    if not isinstance(value, dict) or value.get("name") not in names:
        return None
    arguments: Any = next((value[key] for key in ARGUMENTS if key in value), {})
    if isinstance(arguments, str):
        return ToolCall(value["name"], arguments)
    return ToolCall(value["name"], msgspec.json.encode(arguments).decode()) if isinstance(arguments, dict) else None
