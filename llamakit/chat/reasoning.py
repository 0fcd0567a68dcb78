"""Thinking aloud: the part of an answer between markers such as `<think>` and `</think>`, told from the answer itself.

Which markers a model uses is seen from its chat template. The splitter takes text in pieces of any size, and what it
gives together is the same wherever the text is cut.
"""

from __future__ import annotations

import msgspec


class Markers(msgspec.Struct, frozen=True):
    """What begins and what ends a thought."""

    begin: str
    end: str


KNOWN = (
    Markers("<think>", "</think>"),
    Markers("<thinking>", "</thinking>"),
    Markers("<thought>", "</thought>"),
    Markers("<reasoning>", "</reasoning>"),
    Markers("<seed:think>", "</seed:think>"),
    Markers("[THINK]", "[/THINK]"),
    Markers("<|START_THINKING|>", "<|END_THINKING|>"),
    Markers("<|begin_of_thought|>", "<|end_of_thought|>"),
    Markers("<|channel>thought", "<channel|>"),
)


def find_markers(source: str) -> Markers | None:
    """The markers in the source of a chat template; None for models that do not think aloud."""
    found = [markers for markers in KNOWN if markers.end in source]
    return found[0] if found else None


def begins_inside(prompt: str, markers: Markers | None) -> bool:
    """Whether a rendered prompt ends inside a thought, so that the answer begins there."""
    if markers is None:
        return False
    at = prompt.rfind(markers.begin)
    return at >= 0 and markers.end not in prompt[at:] and not prompt[at + len(markers.begin) :].strip()


class Part(msgspec.Struct, frozen=True):
    """What some more text of an answer adds to its thought, and to the answer proper."""

    reasoning: str = ""
    content: str = ""


class ReasoningSplitter:
    """Splits one answer. `markers` None: nothing is a thought; `inside`: the answer begins within one.

    Only a thought at the beginning counts; markers further on are text. White space around a thought is dropped.
    """

    def __init__(self, markers: Markers | None, *, inside: bool = False) -> None:
        self.markers = markers
        self._state = "content" if markers is None else "inside" if inside else "start"
        self._held = ""  # may be part of a marker, or white space at an edge
        self._fresh = inside  # nothing of the thought was told yet

    @property
    def in_thought(self) -> bool:
        """Whether the text so far ends in a thought."""
        return self._state == "inside"

    def push(self, text: str) -> Part:
        """Some more text."""
        if self._state == "content":
            return Part(content=text)
        return self._advance(self._held + text, last=False)

    def flush(self, *, cut: bool = False) -> Part:
        """What was held back; there will be no more text. With `cut` a limit ended the answer, so that the beginning of
        a marker is not text."""
        held, self._held = self._held, ""
        marker = "" if self.markers is None else self.markers.end if self.in_thought else self.markers.begin
        if cut and len(held.strip()) > 1 and marker.startswith(held.strip()):
            return Part()
        return self._advance(held, last=True) if held else Part()

    def _advance(self, text: str, *, last: bool) -> Part:
        self._held = ""
        if self._state == "start":
            return self._start(text, last=last)
        if self._state == "inside":
            return self._inside(text, last=last)
        return self._after(text)

    def _start(self, text: str, *, last: bool) -> Part:
        """Nothing told yet: it may be white space and then the first marker."""
        assert self.markers is not None
        begin, bare = self.markers.begin, text.lstrip()
        if bare.startswith(begin):
            self._state, self._fresh = "inside", True
            return self._inside(bare[len(begin) :], last=last)
        if begin.startswith(bare) and not last:
            self._held = text
            return Part()
        self._state = "content"
        return Part(content=text)

    def _inside(self, text: str, *, last: bool) -> Part:
        assert self.markers is not None
        if self._fresh:
            text = text.lstrip()
        thought, end, rest = text.partition(self.markers.end)
        if end:
            self._state = "after"
            after = self._after(rest)
            return Part(thought.rstrip(), after.content)
        told = text.rstrip() if last else text[: _safe(text, self.markers.end)]
        self._held = "" if last else text[len(told) :]
        self._fresh = self._fresh and not told
        return Part(reasoning=told)

    def _after(self, text: str) -> Part:
        """White space between the thought and the answer is nobody's."""
        text = text.lstrip()
        if text:
            self._state = "content"
        return Part(content=text)


def _safe(text: str, marker: str) -> int:
    """How much of a text can be told: not what may begin the marker, nor the white space before that."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return len(text[:-length].rstrip())
    return len(text.rstrip())


def split(text: str, markers: Markers | None, *, inside: bool = False) -> Part:
    """A whole answer at once."""
    splitter = ReasoningSplitter(markers, inside=inside)
    first, last = splitter.push(text), splitter.flush()
    return Part(first.reasoning + last.reasoning, first.content + last.content)
