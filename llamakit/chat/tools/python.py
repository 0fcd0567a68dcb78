"""Calls that are written as in Python, `[f(x=1), g(y="z")]`: reading them, and their grammar."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any

from llamakit.chat.tools.calls import CallDelta
from llamakit.chat.tools.keys import properties_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from llamakit.chat.tools.format import ToolFormat

Part = dict[str, Any]
LONGEST = 1 << 20  # characters of calls
BEGINS = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(")
MAY_BEGIN = re.compile(r"\[\s*(?:[A-Za-z_][\w.]*\s*)?$")
WORDS = {"true": True, "false": False, "null": None}


class PythonCallReader:
    """Tells calls from text, like `ToolCallReader`; an answer has them at its beginning, maybe behind the marker."""

    def __init__(self, format: ToolFormat, names: Collection[str]) -> None:
        self._format, self._names = format, names
        self._begin, self._end = format.opening.strip(), format.end_of_all.strip()
        self._held, self._is_text, self._n = "", False, 0
        self.cut = False

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """Some more text: what is text of it for certain, and what is new of calls."""
        self._held += text
        return self._advance(last=False)

    def flush(self) -> tuple[str, list[CallDelta]]:
        """What was held back; there will be no more text."""
        return self._advance(last=True)

    def _advance(self, *, last: bool) -> tuple[str, list[CallDelta]]:
        held = self._held
        bare = held.lstrip()
        if self._begin:
            if bare.startswith(self._begin):
                bare = bare[len(self._begin) :].lstrip()
            elif self._begin.startswith(bare) and not last:
                return "", []
        if self._is_text or not bare:
            if not last and not bare and not self._is_text:
                return "", []
            self._held = ""
            return held, []
        if not (BEGINS.match(bare) or MAY_BEGIN.match(bare)) or len(bare) > LONGEST:
            self._is_text, self._held = True, ""
            return held, []
        calls, rest = _parse(bare, self._names)
        if calls is not None:
            rest = rest.lstrip().removeprefix(self._end) if self._end else rest
            self._is_text, self._held = True, ""
            return rest.lstrip(), [self._delta(*call) for call in calls]
        if not last:
            return "", []
        self._held = ""
        begun = BEGINS.match(bare)
        name = begun[0].strip("[( \n") if begun else ""
        if name in self._names:  # cut within a call: its name is known, its arguments are not
            self.cut = True
            return "", [CallDelta(0, name=name, id=self._format.new_id())]
        return held, []

    def _delta(self, name: str, arguments: dict[str, Any]) -> CallDelta:
        self._n += 1
        text = json.dumps(arguments, ensure_ascii=False)
        return CallDelta(self._n - 1, text, name=name, id=self._format.new_id(), done=True)


def _parse(text: str, names: Collection[str]) -> tuple[list[tuple[str, dict[str, Any]]] | None, str]:
    """The calls of a list that is complete, and what is behind it; None while it is not, or where it is none."""
    end = _list_end(text)
    if end < 0:
        return None, text
    try:
        tree = ast.parse(text[:end], mode="eval").body
        if not isinstance(tree, ast.List):
            return None, text
        calls = [_call(node) for node in tree.elts]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, text
    return (calls, text[end:]) if calls and all(name in names for name, _ in calls) else (None, text)


def _call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("no call with named arguments")
    return ast.unparse(node.func), {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}


def _literal(node: ast.expr) -> Any:
    """A value, in which true, false and null are known too."""
    if isinstance(node, ast.Name) and node.id in WORDS:
        return WORDS[node.id]
    if isinstance(node, ast.List):
        return [_literal(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        return {str(_literal(k)): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    return ast.literal_eval(node)


def _list_end(text: str) -> int:
    """Where the brackets of a list are closed; -1 if they are not."""
    depth, quote, at = 0, "", 0
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\":
                at += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return -1


def python_part(schema: Any, *, lenient: bool, about: str) -> list[Part]:
    """The grammar of arguments: required ones first, in the schema's order, then any of the others."""
    properties = properties_of(schema)
    required = schema.get("required") if isinstance(schema, dict) else None
    needed = [name for name in properties if isinstance(required, list) and name in required]
    others = [name for name in properties if name not in needed]
    pairs = {name: _pair(name, properties[name], lenient=lenient, about=about) for name in properties}

    def rest(names: list[str]) -> list[Part]:
        return [{"type": "optional", "content": _sequence([_text(", "), *pairs[name]])} for name in names]

    if needed:
        head = [part for i, name in enumerate(needed) for part in ([_text(", ")] if i else []) + pairs[name]]
        return head + rest(others)
    if not others:
        return []
    firsts = [_sequence([*pairs[name], *rest(others[i + 1 :])]) for i, name in enumerate(others)]
    return [{"type": "optional", "content": {"type": "or", "elements": firsts} if len(firsts) > 1 else firsts[0]}]


def _pair(name: str, schema: Any, *, lenient: bool, about: str) -> list[Part]:
    value = {"type": "json_schema", "json_schema": schema, "lenient": lenient, "about": f"{about}.{name}"}
    return [_text(f"{name}="), value]


def _text(value: str) -> Part:
    return {"type": "const_string", "value": value}


def _sequence(parts: list[Part]) -> Part:
    return {"type": "sequence", "elements": parts} if len(parts) != 1 else parts[0]
