"""What an answer with tools may be, as a structural tag: thoughts, text, and calls that keep to their schemas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamakit.chat.reasoning import Markers
    from llamakit.chat.tools.format import ToolFormat

Part = dict[str, Any]  # a format of a structural tag
BLANK = {"type": "regex", "pattern": "[ \\n]{0,4}"}


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
        calls = self._calls(format, functions, several=several and format.several)
        if required:
            return calls
        if content is not None:
            return _either(content, calls)
        if not format.bare:
            return _sequence({"type": "any_text", "excludes": [format.begin.strip()]}, _optional(calls))
        return _either({"type": "any_text", "not_begin": _beginnings(functions)}, calls)

    def _calls(self, format: ToolFormat, functions: Sequence[Function], *, several: bool) -> Part:
        call = _either(*(self._call(format, function) for function in functions))
        begin, end = self._literal(format.begin), self._literal(format.end)
        if format.bare:
            begin = [_optional(_sequence(*begin))] if begin and self._is_control(format.begin.strip()) else []
        if not format.listed:
            return _row(_sequence(*begin, call, *end), format.separator, several=several)
        row = _sequence(_text("["), _row(call, format.separator, several=several), _text("]"))
        if format.begin:
            return _sequence(*begin, row, *end)
        return _either(call, row) if several else call

    def _call(self, format: ToolFormat, function: Function) -> Part:
        schema = function.parameters if isinstance(function.parameters, dict) else {"type": "object"}
        arguments = {
            "type": "json_schema", "json_schema": {"type": "object", **schema}, "lenient": not function.strict,
            "about": f"the parameters of {function.name}",
        }  # fmt: skip
        return _sequence(
            *self._literal(format.written(function.name)), arguments, *self._literal(format.after_arguments)
        )

    def _literal(self, text: str) -> list[Part]:
        """A text in which control tokens may stand, at its ends or between brackets."""
        bare = text.strip()
        if self._is_control(bare):
            before, _, after = text.partition(bare)
            return [*_texts(before), {"type": "token", "token": bare}, *_texts(after)]
        head, bracket, tail = text.rpartition("[")
        if bracket and head and self._is_control(bracket + tail):
            return [*_texts(head), {"type": "token", "token": bracket + tail}]
        return _texts(text)


def _beginnings(functions: Sequence[Function]) -> str:
    """An expression for how a call without markers begins."""
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
    return _sequence(item, {"type": "star", "content": _sequence(*_texts(separator), item)})
