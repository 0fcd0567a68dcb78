"""Calls of tools in an answer, told from its text as it comes.

The reader takes text in pieces of any size; what it gives together is the same wherever the text is cut. The arguments
of a call are given as the model writes them, from when its name is known. What only looks like a call, such as a tool
that nobody named, stays text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.chat.tools.calls import CallDelta, ToolCall, merge
from llamakit.chat.tools.format import NUMBER
from llamakit.chat.tools.json_end import JSONEnd
from llamakit.chat.tools.keys import KeysReader
from llamakit.chat.tools.marks import tail_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from llamakit.chat.tools.format import ToolFormat

NAMES, ARGUMENTS = ("name", "tool_name"), ("arguments", "parameters")
HEAD = re.compile(
    r'\{\s*(?:"(?:tool_call_id|id|type)"\s*:\s*"[^"]*"\s*,\s*)*"(?:tool_)?name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
BEGUN = re.compile(r'\s*\[?\s*\{\s*"(?:n|na|nam|(?:tool_)?name"?)(?:$|\s*:)')  # a call whose name is not known yet
BETWEEN = ",;["  # what may be between calls, beside white space
LONGEST_NAME = 256  # of a name that no quotes end
NAME_TAIL = re.compile(r"(?:\[.*|:\d+|<\|channel\|>.*)$", re.DOTALL)  # an id, the number of the call, a channel


class ToolCallReader:
    """Tells one answer's text from its calls of tools that are among `names`, or the keys of it, whose values are then
    the schemas of their parameters."""

    def __init__(self, format: ToolFormat, names: Collection[str]) -> None:
        self._format, self._names = format, names
        self._begin, self._end = format.opening.strip(), format.end_of_all.strip()
        texts = (self._end, self._begin, format.begin, format.end, format.after_arguments if format.plain_name else "")
        self._markers = [*dict.fromkeys(text.strip() for text in texts if text.strip())]
        after = format.after_name.partition(NUMBER)[2].strip() or format.after_name.strip()
        self._name_end = re.compile(re.escape(after) if after else r"\n|(?=<)")
        self._held = ""
        self._step = self._at_start  # what to do with what is held
        self._opened = ""  # what is given back as text if no call follows
        self._called = False  # whether one did
        self._scan = JSONEnd()
        self._scanned = 0
        self._n = 0
        self._shown: list[str] = []
        self._deltas: list[CallDelta] = []
        self.cut = False  # whether the answer ended within a call

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """Some more text: what is text of it for certain, and what is new of calls."""
        self._held += text
        while self._step():
            pass
        return self._told()

    def flush(self, *, cut: bool = False) -> tuple[str, list[CallDelta]]:
        """What was held back; there will be no more text. With `cut` a limit ended the answer, so that what begins a
        call, or the markup behind one, is not text."""
        held, self._held = self._held, ""
        if self._step == self._in_arguments:
            self._tell_arguments(held, done=False)
            self.cut = True
        elif self._step == self._in_keys:
            self.cut = True
        elif self._step == self._in_section:
            self._end_section(held, cut=cut)
        elif self._step != self._in_tail and not (cut and self._may_open(held.strip())):
            self._shown.append(held)
        return self._told()

    def _end_section(self, held: str, *, cut: bool) -> None:
        """The answer ends between calls, or before the first."""
        begun = held.lstrip("".join(BETWEEN) + " \n")
        if self._called and any(marker.startswith(begun) for marker in self._markers):
            return
        if cut and (self._called or self._opened.strip() or BEGUN.match(held)):
            self.cut = True
            return
        self._shown.append(held if self._called else self._opened + held)

    def _may_open(self, text: str) -> bool:
        """Whether a text is the beginning of the first marker, and not by chance."""
        return len(text) > (not self._n) and self._begin.startswith(text)

    def _told(self) -> tuple[str, list[CallDelta]]:
        shown, deltas = "".join(self._shown), merge(self._deltas)
        self._shown, self._deltas = [], []
        return shown, deltas

    # -- each step looks at what is held, and says whether to look again --------------------------------------------

    def _at_start(self) -> bool:
        """Nothing but white space so far: a call may come without a marker."""
        bare = self._held.lstrip()
        if not bare:
            return False
        if bare[0] in "{[" and not (self._begin and self._begin.startswith(bare[: len(self._begin)])):
            self._open_section("")
        elif self._begin and len(bare) < len(self._begin) and self._begin.startswith(bare):
            return False
        else:
            self._step = self._in_text
        return True

    def _in_text(self) -> bool:
        at = self._held.find(self._begin) if self._begin else -1
        if at >= 0:
            before = self._held[:at].rstrip()
            self._shown.append(before)
            opened, self._held = self._held[len(before) : at + len(self._begin)], self._held[at + len(self._begin) :]
            self._open_section(opened)
            return True
        keep = tail_of(self._held, self._begin)
        self._shown.append(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return False

    def _open_section(self, opened: str) -> None:
        self._step, self._opened, self._called = self._in_section, opened, False
        self._scan, self._scanned = JSONEnd(), 0

    def _in_section(self) -> bool:
        """Between calls, or before the first."""
        rest = self._held.lstrip()
        self._pass(len(self._held) - len(rest))
        if not rest:
            return False
        if any(len(marker) > len(rest) and marker.startswith(rest) for marker in self._markers):
            return False
        found = max((marker for marker in self._markers if rest.startswith(marker)), key=len, default="")
        if found:
            return self._after_marker(found)
        if rest[0] in BETWEEN:
            self._pass(1)
            return True
        if rest[0] == "]" and self._called:
            self._pass(1)
            return True
        if self._format.plain_name:
            return self._plain_name()
        return self._object() if rest[0] == "{" else self._no_call()

    def _pass(self, n: int) -> None:
        """Go past so many characters, which come back if no call follows."""
        if not self._called:
            self._opened += self._held[:n]
        self._held = self._held[n:]

    def _after_marker(self, marker: str) -> bool:
        self._pass(len(marker))
        if marker == self._end:
            if not self._called:
                return self._no_call()
            self._held = self._held.lstrip()
            self._step = self._at_text_again
        return True

    def _at_text_again(self) -> bool:
        """White space after a call's end is nobody's."""
        self._held = self._held.lstrip()
        if self._held:
            self._step = self._in_text
        return bool(self._held)

    def _no_call(self) -> bool:
        """What is held is text after all."""
        if not self._called:
            self._shown.append(self._opened)
        self._step = self._in_text
        return True

    def _object(self) -> bool:
        head = HEAD.match(self._held)
        if head is not None:
            name = _decoded(head[1])
            return self._begin_call(name, head.end()) if name in self._names else self._no_call()
        end = self._scan.feed(self._held[self._scanned :])
        self._scanned, before = len(self._held), self._scanned
        if end < 0:
            return False
        end += before
        call = None if self._scan.broken else read_call(self._held[:end], self._names)
        if call is None:
            return self._no_call()
        self._begin_call(call.name, end)
        self._tell_arguments(call.arguments, done=True)
        self._next_call()
        return True

    def _plain_name(self) -> bool:
        """A name without quotes, between `before_name` and `after_name`."""
        before = self._format.before_name.strip()
        if before.startswith(self._held) and len(before) > len(self._held):
            return False
        start = len(before) if self._held.startswith(before) else 0
        found = self._name_end.search(self._held, start)
        if found is None or (found.end() == len(self._held) and not found[0]):
            return self._no_call() if len(self._held) > LONGEST_NAME or "{" in self._held[start:] else False
        name = NAME_TAIL.sub("", self._held[: found.start()].removeprefix(before).strip()).strip()
        if name not in self._names:
            return self._no_call()
        if self._format.arguments == "keys":
            self._keys = KeysReader(self._format, self._names[name] if isinstance(self._names, Mapping) else None)
            self._begin_call(name, found.end())
            self._step = self._in_keys
            return True
        rest = self._held[found.end() :].lstrip()
        if not rest:
            return False
        return self._begin_call(name, len(self._held) - len(rest)) if rest[0] == "{" else self._no_call()

    def _begin_call(self, name: str, at: int) -> bool:
        """A call of `name`, whose arguments begin at a place of what is held."""
        self._held = self._held[at:]
        self._deltas.append(CallDelta(self._n, name=name, id=self._format.new_id()))
        self._called, self._scan, self._step = True, JSONEnd(), self._in_arguments
        return True

    def _in_arguments(self) -> bool:
        end = self._scan.feed(self._held)
        if end < 0:
            self._tell_arguments(self._held, done=False)
            self._held = ""
            return False
        self._tell_arguments(self._held[:end], done=True)
        self._held = self._held[end:]
        if self._format.plain_name or self._scan.broken:
            self._next_call()
        else:
            self._scan, self._step = JSONEnd(depth=1), self._in_tail
        return True

    def _in_keys(self) -> bool:
        """Arguments that are pairs of a name and a value."""
        told, self._held, done = self._keys.feed(self._held)
        self._tell_arguments(told, done=done)
        if done:
            self._next_call()
        return done

    def _in_tail(self) -> bool:
        """The rest of a call's object, such as an id of the model's own."""
        end = self._scan.feed(self._held)
        self._held = "" if end < 0 else self._held[end:]
        if end >= 0:
            self._next_call()
        return end >= 0

    def _next_call(self) -> None:
        self._scan, self._scanned, self._step = JSONEnd(), 0, self._in_section

    def _tell_arguments(self, text: str, *, done: bool) -> None:
        if text or done:
            self._deltas.append(CallDelta(self._n, text, done=done))
        self._n += done


def _decoded(text: str) -> str:
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.DecodeError:
        return ""


def read_call(text: str, names: Collection[str]) -> ToolCall | None:
    """The call of a known tool that a JSON object is; its arguments may be an object, or the text of one."""
    try:
        value: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    name = next((value[key] for key in NAMES if key in value), None) if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in names:
        return None
    arguments: Any = next((value[key] for key in ARGUMENTS if key in value), {})
    if isinstance(arguments, str):
        return ToolCall(name, arguments or "{}")
    return ToolCall(name, msgspec.json.encode(arguments).decode()) if isinstance(arguments, dict) else None
