"""Answers in channels, as gpt-oss gives them: `<|channel|>analysis<|message|>...<|end|><|start|>assistant...`.

What is in the channel analysis is thought, in final and commentary the answer; a message `to=functions.NAME` is a call.
https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llamakit.chat.tools.calls import CallDelta, merge

if TYPE_CHECKING:
    from collections.abc import Collection

    from llamakit.chat.tools.format import ToolFormat

MESSAGE = "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
WORDS = ("assistant", "to=", "analysis", "commentary", "final")  # with which the rest of a head may begin
LONGEST_HEAD = 200
RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")
CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


class HarmonyReader:
    """Tells one answer's thoughts, text and calls; takes it in pieces of any size. `inside`: it begins in a message."""

    def __init__(self, format: ToolFormat, names: Collection[str], inside: str = "") -> None:
        self._format, self._names = format, names
        self._held = ""
        self._kind = inside  # of the message that is open: "thought", "text" or "call"; "" for a head
        self._n = 0
        self.cut = False

    @property
    def in_thought(self) -> bool:
        """Whether the text so far ends in a thought."""
        return self._kind == "thought"

    def push(self, text: str) -> tuple[str, str, list[CallDelta]]:
        """Some more text: what it adds to the thought, to the answer, and to calls."""
        self._held += text
        thought, answer, calls = "", "", list[CallDelta]()
        while True:
            if not self._kind:
                if not self._head(calls):
                    break
                continue
            body, ended = self._body()
            thought += body if self._kind == "thought" else ""
            answer += body if self._kind == "text" else ""
            if self._kind == "call" and (body or ended):
                calls.append(CallDelta(self._n, body, done=ended))
                self._n += ended
            if not ended:
                break
            self._kind = ""
        return thought, answer, merge(calls)

    def flush(self, *, cut: bool = False) -> tuple[str, str, list[CallDelta]]:
        """What was held back; there will be no more text. With `cut` a limit ended the answer, so that what begins a
        marker, or a head, is not text."""
        held, self._held = self._held, ""
        if cut and self._kind != "call" and (not self._kind or any(mark.startswith(held) for mark in ENDS)):
            held = ""
        if self._kind == "call":
            whole = _is_object(held, self._arguments)
            self.cut = not whole
            return "", "", [CallDelta(self._n, held, done=whole)]
        if self._kind == "thought":
            return held, "", []
        return "", held if self._kind == "text" or "<|" not in held else "", []

    def _head(self, calls: list[CallDelta]) -> bool:
        """Read the head of a message; False while it is not complete."""
        head, mark, rest = self._held.partition(MESSAGE)
        if not mark:
            if self._held.strip() and not _may_be_head(self._held):
                self._kind = "text"  # a model that writes no channels
                return True
            return False
        self._held = rest
        recipient, channel = RECIPIENT.search(head), CHANNEL.search(head)
        if recipient is not None and recipient[1] in self._names:
            self._kind, self._arguments = "call", ""
            calls.append(CallDelta(self._n, name=recipient[1], id=self._format.new_id()))
        else:
            self._kind = "thought" if channel is not None and channel[1] == "analysis" else "text"
        return True

    def _body(self) -> tuple[str, bool]:
        """What is certain of the open message, and whether it ends."""
        found = [(at, mark) for mark in ENDS if (at := self._held.find(mark)) >= 0]
        if found:
            at, mark = min(found)
            body, self._held = self._held[:at], self._held[at if mark == "<|start|>" else at + len(mark) :]
            return self._told(body), True
        keep = max((n for mark in ENDS for n in range(1, len(mark)) if self._held.endswith(mark[:n])), default=0)
        body, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return self._told(body), False

    def _told(self, body: str) -> str:
        if self._kind == "call":
            self._arguments += body
        return body


def _may_be_head(text: str) -> bool:
    """Whether a text can be how a message begins: marks, the role, the channel, and who it is for."""
    bare = text.lstrip()
    begins = ("<|channel|>", "<|start|>", "<|end|>", *WORDS)
    if any(word.startswith(bare) for word in begins):
        return True
    return bare.startswith(begins[:3]) or (bare.startswith(WORDS) and len(bare) < LONGEST_HEAD)


def _is_object(held: str, before: str) -> bool:
    import json

    try:
        return isinstance(json.loads(before + held), dict)
    except (ValueError, RecursionError):
        return False
