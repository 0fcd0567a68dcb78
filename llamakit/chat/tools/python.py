"""Calls that are written as in Python, `[f(x=1), g(y="z")]`: reading them, and their grammar."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any

from llamakit.chat.tools.calls import CallDelta
from llamakit.chat.tools.keys import properties_of
from llamakit.chat.tools.marks import tail_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from llamakit.chat.tools.format import ToolFormat

Part = dict[str, Any]
LONGEST = 1 << 16  # characters of calls: nothing else runs while Python's parser reads them
BEGINS = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(")
MAY_BEGIN = re.compile(r"\[\s*(?:[A-Za-z_][\w.]*\s*)?$")
WORDS = {"true": True, "false": False, "null": None}


class PythonCallReader:
    """Tells calls from text, like `ToolCallReader`; without markers they are where an answer begins, or nowhere."""

    def __init__(self, format: ToolFormat, names: Collection[str]) -> None:
        self._format, self._names = format, names
        self._begin, self._end = format.opening.strip(), format.end_of_all.strip()
        self._text = self._rest if format.bare else self._in_text  # what follows calls, or is none
        self._step = self._at_start if format.bare else self._in_text
        self._held, self._opened, self._n, self._last = "", "", 0, False
        self._brackets = _Brackets()
        self._shown: list[str] = []
        self._deltas: list[CallDelta] = []
        self.cut = False

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """Some more text: what is text of it for certain, and what is new of calls."""
        self._held += text
        return self._told()

    def flush(self, *, cut: bool = False) -> tuple[str, list[CallDelta]]:
        """What was held back; there will be no more text. With `cut` a limit ended the answer, so that what begins a
        call is not text."""
        self._last = True
        held = self._held.strip()
        in_list = self._step == self._in_list
        begun = in_list and not BEGINS.match(held) and (self._opened or self._may_name(held))
        if cut and (begun or (not in_list and len(held) > 1 and self._begin.startswith(held))):
            self.cut, self._held, self._opened = in_list, "", ""
            return "", []
        return self._told()

    def _told(self) -> tuple[str, list[CallDelta]]:
        while self._step():
            pass
        shown, deltas = "".join(self._shown), self._deltas
        self._shown, self._deltas = [], []
        return shown, deltas

    # -- each step looks at what is held, and says whether to look again --------------------------------------------

    def _at_start(self) -> bool:
        """A list may come without a marker."""
        bare = self._held.lstrip()
        if self._begin and bare.startswith(self._begin):
            self._opened, self._held = self._begin, bare[len(self._begin) :]
            self._step = self._in_list
        elif (not bare or (self._begin and self._begin.startswith(bare))) and not self._last:
            return False
        else:
            self._step = self._in_list if _may_be_list(bare) else self._rest
        return True

    def _in_text(self) -> bool:
        """Calls begin with their marker."""
        before, mark, after = self._held.partition(self._begin)
        if mark:
            self._shown.append(before.rstrip())
            self._opened, self._held, self._step = (
                self._held[len(before.rstrip()) : len(before)] + mark,
                after,
                self._in_list,
            )
            return True
        keep = 0 if self._last else tail_of(self._held, self._begin)
        self._shown.append(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return False

    def _rest(self) -> bool:
        """Nothing but text any more."""
        self._shown.append(self._held)
        self._held = ""
        return False

    def _in_list(self) -> bool:
        bare = self._held.lstrip()
        if not bare and not self._last:
            return False
        if not _may_be_list(bare) or len(bare) > LONGEST:
            return self._no_call(len(self._held))
        end = self._brackets.end(bare)
        calls = None if end < 0 else _parse(bare[:end], self._names)
        if calls is not None:
            self._deltas += [self._delta(*call) for call in calls]
            self._held, self._step, self._brackets = bare[end:], self._at_end, _Brackets()
            return True
        if end >= 0:
            return self._no_call(len(self._held) - len(bare) + end)
        return self._last and self._cut(bare)

    def _cut(self, bare: str) -> bool:
        """The text ends within the list: of the calls that are whole all is known, of the last one its name at most."""
        whole = self._brackets.whole
        calls = _parse(bare[:whole] + "]", self._names) if whole else None
        if calls is not None:
            self._deltas += [self._delta(*call) for call in calls]
            bare = "[" + bare[whole:].lstrip(", \n")
        begun = BEGINS.match(bare)
        name = begun[0].strip("[( \n") if begun else ""
        if name in self._names:
            self._deltas.append(CallDelta(self._n, name=name, id=self._format.new_id()))
        elif calls is None:
            return self._no_call(len(self._held))
        self.cut, self._held = True, ""
        return False

    def _may_name(self, text: str) -> bool:
        """Whether a list begins with a part of a tool's name."""
        begun = text.removeprefix("[").strip()
        return bool(begun) and any(name.startswith(begun) for name in self._names)

    def _no_call(self, n: int) -> bool:
        """So much of what is held is text after all."""
        self._shown.append(self._opened + self._held[:n])
        self._opened, self._held, self._step, self._brackets = "", self._held[n:], self._text, _Brackets()
        return bool(self._held)

    def _at_end(self) -> bool:
        """The marker behind a list, and white space, are nobody's."""
        rest = self._held.lstrip()
        if self._end and rest.startswith(self._end):
            rest = rest[len(self._end) :].lstrip()
        elif self._end and self._end.startswith(rest):
            return False
        self._held = rest
        if rest:
            self._opened, self._step = "", self._text
        return bool(rest)

    def _delta(self, name: str, arguments: dict[str, Any]) -> CallDelta:
        self._n += 1
        text = json.dumps(arguments, ensure_ascii=False)
        return CallDelta(self._n - 1, text, name=name, id=self._format.new_id(), done=True)


def _may_be_list(text: str) -> bool:
    return bool(BEGINS.match(text) or MAY_BEGIN.match(text))


def _parse(text: str, names: Collection[str]) -> list[tuple[str, dict[str, Any]]] | None:
    """The calls of a list that is complete; None where it is none."""
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.List):
            return None
        calls = [_call(node) for node in tree.elts]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return calls if calls and all(name in names for name, _ in calls) else None


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


class _Brackets:
    """Looks for where the brackets of a list are closed; it goes on where it was when more of the text has come.

    `whole`: the place behind the last item so far whose brackets are closed, 0 before there is one.
    """

    def __init__(self) -> None:
        self._depth, self._quote, self._at, self.whole = 0, "", 0, 0

    def end(self, text: str) -> int:
        """The place behind the last one; -1 if it is not there yet."""
        while self._at < len(text):
            char = text[self._at]
            if self._quote and char == "\\":
                if self._at + 1 == len(text):
                    return -1  # what it stands before is to come
                self._at += 1
            elif self._quote:
                self._quote = "" if char == self._quote else self._quote
            elif char in "\"'":
                self._quote = char
            elif char in "([{":
                self._depth += 1
            elif char in ")]}":
                self._depth -= 1
            self._at += 1
            if char in ")]}" and not self._quote:
                if self._depth == 0:
                    return self._at
                if self._depth == 1:
                    self.whole = self._at
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
