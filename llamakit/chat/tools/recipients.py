"""Answers that say before each part whom it is for, a tool or `all`, as Functionary 3.2 writes them:

>>>all
Let me look.>>>get_weather
{"city": "Rome"}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.chat.tools.calls import CallDelta, merge
from llamakit.chat.tools.json_end import JSONEnd
from llamakit.chat.tools.marks import tail_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from llamakit.chat.tools.format import ToolFormat


class RecipientReader:
    """Tells text from calls, like `ToolCallReader`. The first marker may be in the prompt already."""

    def __init__(self, format: ToolFormat, names: Collection[str]) -> None:
        self._format, self._names = format, names
        self._marker = format.begin.strip()
        self._held, self._n = "", 0
        self._kind = "head"  # of what is open: whom it is for, "text" or "call"
        self._scan = JSONEnd()
        self._whole = True  # whether the arguments of the call that is open are complete
        self.cut = False

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """Some more text: what is text of it for certain, and what is new of calls."""
        self._held += text
        return self._advance(last=False)

    def flush(self, *, cut: bool = False) -> tuple[str, list[CallDelta]]:
        """What was held back; there will be no more text. With `cut` a limit ended the answer, so that what begins a
        marker, or a head, is not text."""
        if cut and self._kind == "text" and self._marker.startswith(self._held.strip()):
            self._held = ""
        shown, calls = self._advance(last=True)
        held, self._held = self._held, ""
        self.cut = self._kind == "call" and not self._whole
        return shown + (held if self._kind == "head" and not cut else ""), calls

    def _advance(self, *, last: bool) -> tuple[str, list[CallDelta]]:
        shown, calls = "", list[CallDelta]()
        while self._kind != "head" or self._head(calls):
            if self._kind == "call" and not self._whole and not self._arguments(calls):
                break  # a marker within them is not a marker
            body, mark, rest = self._held.partition(self._marker)
            if not mark:
                keep = 0 if last else tail_of(self._held, self._marker)
                body, rest = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
            self._held = rest
            if self._kind == "text":
                shown += body.rstrip() if mark else body
            if not mark:
                break
            self._kind = "head"
        return shown, merge(calls)

    def _head(self, calls: list[CallDelta]) -> bool:
        """Read whom the next part is for; False while that is not known."""
        held = self._held.lstrip()
        if self._marker.startswith(held) and held != self._marker:
            return False
        name, end, rest = held.removeprefix(self._marker).partition(self._format.after_name)
        known = {self._format.to_user, *self._names}
        if not end:
            if any(each.startswith(name) for each in known):
                return False
            self._kind = "text"  # an answer that says nothing of the kind
            return True
        if name.strip() == self._format.to_user:
            self._kind, self._held = "text", rest
        elif name.strip() in self._names:
            self._kind, self._held = "call", rest
            self._scan, self._whole = JSONEnd(), False
            calls.append(CallDelta(self._n, name=name.strip(), id=self._format.new_id()))
        else:
            self._kind = "text"
        return True

    def _arguments(self, calls: list[CallDelta]) -> bool:
        """More of a call's arguments, and whether they are complete; what is behind them is nobody's."""
        end = self._scan.feed(self._held)
        self._whole = end >= 0
        body, self._held = (self._held[:end], self._held[end:]) if self._whole else (self._held, "")
        if body or self._whole:
            calls.append(CallDelta(self._n, body, done=self._whole))
        self._n += self._whole
        return self._whole
