"""What an answer with tools may be, as a structural tag: thoughts, text, and calls that keep to their schemas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.chat.tools.format import NUMBER
from llamakit.chat.tools.keys import keys_part
from llamakit.chat.tools.python import python_part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamakit.chat.reasoning import Markers
    from llamakit.chat.tools.format import ToolFormat

Part = dict[str, Any]  # a format of a structural tag
BLANK = {"type": "regex", "pattern": "[ \\n]{0,4}"}
SPACES = {"type": "regex", "pattern": "[ \\n]{0,8}"}  # templates break the lines of a list as they like
AN_ID = {"type": "regex", "pattern": "[a-zA-Z0-9]{1,32}"}
A_NUMBER = {"type": "regex", "pattern": "[0-9]{1,2}"}
MARKER = re.compile(rf"{NUMBER}|<[^<>\s]+>|\[/?[A-Z_]+\]|｜[^｜<>\s]+｜")


class Function(msgspec.Struct, frozen=True):
    """A function that can be called. With `strict` a schema that cannot be enforced is an error."""

    name: str
    parameters: Any = None
    strict: bool = False


class Structure:
    """Puts an answer together. `is_control` says whether a text is a control token of the vocabulary."""

    def __init__(self, is_control: Callable[[str], bool]) -> None:
        self._is_control = is_control

    def thought(self, markers: Markers, answer: Part, *, inside: bool) -> Part:
        """An answer that may begin with a thought, or with `inside` begins within one."""
        end = markers.end
        rest = [{"type": "any_text", "excludes": [end]}, *self._literal(end), BLANK]
        if inside:
            return _sequence(*rest, answer)
        return _sequence(_optional(_sequence(*self._literal(markers.begin), *rest)), answer)

    def answer(
        self, format: ToolFormat, functions: Sequence[Function], *, required: bool, several: bool, content: Part | None
    ) -> Part:
        """Calls if `required`; else `content`, any text where that is None, or calls, maybe after a text."""
        if format.channels:
            return self._channels(format, functions, required=required, content=content)
        if format.to_user:
            return self._recipients(format, functions, required=required, several=several, content=content)
        calls = self._calls(format, functions, several=several and format.several)
        if required:
            return calls
        if content is not None:
            return _either(content, calls)
        if not format.bare:
            return _sequence({"type": "any_text", "excludes": [format.opening.strip()]}, _optional(calls))
        return _either({"type": "any_text", "not_begin": _beginnings(format, functions)}, calls)

    def _recipients(
        self, format: ToolFormat, functions: Sequence[Function], *, required: bool, several: bool, content: Part | None
    ) -> Part:
        """Parts that begin with whom they are for; the marker of the first is in the prompt as a rule."""
        marker = self._literal(format.begin)
        first = _optional(_sequence(*marker))
        call = _either(*(self._call(format, function) for function in functions)) if functions else None
        more = [{"type": "star", "content": _sequence(*marker, call)}] if call is not None and several else []
        calls = [] if call is None else [_sequence(call, *more)]
        if required:
            return _sequence(first, calls[0])
        after = [_optional(_sequence(*marker, *calls))] if calls and content is None else []
        said = {"type": "any_text", "excludes": [format.begin]} if content is None else content
        words = _sequence(*self._literal(format.to_user + format.after_name), said, *after)
        return _sequence(first, _either(words, *calls))

    def _channels(
        self, format: ToolFormat, functions: Sequence[Function], *, required: bool, content: Part | None
    ) -> Part:
        """Messages in channels: thoughts, maybe words to the user, then the answer proper or a call."""
        text = {"type": "any_text", "excludes": ["<|end|>"]}
        again = self._literal("<|end|><|start|>assistant")
        thought = _sequence(*self._literal("<|channel|>analysis<|message|>"), text, *again)
        words = _sequence(*self._literal("<|channel|>commentary<|message|>"), text, *again)
        final = _sequence(
            *self._literal("<|channel|>final<|message|>"), content or {"type": "any_text", "excludes": []}
        )
        calls = [_sequence(*self._literal(format.begin), self._call(format, each)) for each in functions]
        early = format.begin.removeprefix("<|channel|>commentary")  # who it is for may come before the channel
        late = msgspec.structs.replace(format, after_name="<|channel|>commentary json<|message|>")
        calls += [_sequence(*self._literal(early), self._call(late, each)) for each in functions]
        ends = calls if required else [final, *calls]
        return _sequence(_optional(thought), *([_optional(words)] if functions else []), _either(*ends))

    def _calls(self, format: ToolFormat, functions: Sequence[Function], *, several: bool) -> Part:
        call = _either(*(self._call(format, function) for function in functions))
        begin, end = self._literal(format.begin), self._literal(format.end)
        opening, closing = self._literal(format.opening), self._literal(format.end_of_all)
        if format.bare:
            opening = [_optional(_sequence(*opening))] if opening and self._is_control(format.opening.strip()) else []
            begin = [] if format.section_begin else opening
            closing = []
        if not format.listed:
            row = _row(_sequence(*begin, call, *end), format.separator, several=several)
            return _sequence(*opening, row, *closing) if format.section_begin else row
        row = _sequence(_text("["), SPACES, _row(call, format.separator, several=several), SPACES, _text("]"))
        if format.opening and not format.bare:
            return _sequence(*opening, row, *closing)
        if format.arguments == "python":
            return _sequence(*opening, row, *closing)
        return _either(call, row) if several else call

    def _call(self, format: ToolFormat, function: Function) -> Part:
        schema = function.parameters if isinstance(function.parameters, dict) else {"type": "object"}
        about, lenient = f"the parameters of {function.name}", not function.strict
        if format.arguments == "keys":
            inner = keys_part(format, schema, self._literal, lenient=lenient, about=about)
        elif format.arguments == "python":
            inner = python_part(schema, lenient=lenient, about=about)
        else:
            whole = {"type": "object", **schema}
            inner = [{"type": "json_schema", "json_schema": whole, "lenient": lenient, "about": about}]
        shown = function.name if format.plain_name else msgspec.json.encode(function.name).decode()
        head = self._literal(format.before_name + shown)
        if format.id_mark and self._is_control(format.id_mark):
            head.append(_optional(_sequence(*self._literal(format.id_mark), AN_ID)))
        return _sequence(*head, *self._literal(format.after_name), *inner, *self._literal(format.after_arguments))

    def _literal(self, text: str) -> list[Part]:
        """A text in which control tokens may stand, and the number of a call."""
        parts: list[Part] = []
        before = at = 0
        while (match := MARKER.search(text, at)) is not None:
            if match[0] != NUMBER and not self._is_control(match[0]):
                at = match.start() + 1  # there may be one within it
                continue
            parts += _texts(text[before : match.start()])
            before = at = match.end()
            parts.append(A_NUMBER if match[0] == NUMBER else {"type": "token", "token": match[0]})
        return parts + _texts(text[before:])


def _beginnings(format: ToolFormat, functions: Sequence[Function]) -> str:
    """An expression for how a call without markers begins."""
    if format.arguments == "python":
        names = "|".join(re.escape(function.name) for function in functions)
        return rf"\s*\[\s*(?:{names})\s*\("
    names = "|".join(re.escape(msgspec.json.encode(function.name).decode()) for function in functions)
    return rf'\s*\[?\s*\{{\s*"name"\s*:\s*(?:{names})'


def _text(value: str) -> Part:
    return {"type": "const_string", "value": value}


def _texts(value: str) -> list[Part]:
    return [_text(value)] if value else []


def _sequence(*elements: Part) -> Part:
    return elements[0] if len(elements) == 1 else {"type": "sequence", "elements": list(elements)}


def _either(*elements: Part) -> Part:
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": list(elements)}


def _optional(content: Part) -> Part:
    return {"type": "optional", "content": content}


def _row(item: Part, separator: str, *, several: bool) -> Part:
    """One item, or `several` with a separator between them."""
    if not several:
        return item
    between = [_text(separator.strip()), SPACES] if separator.strip() else [BLANK]
    return _sequence(item, {"type": "star", "content": _sequence(*between, item)})
