"""Answers to conversations: from the events of a job to what is said, thought and called."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from llamakit.chat.harmony import HarmonyReader
from llamakit.chat.reasoning import ReasoningSplitter
from llamakit.chat.tools import CallDelta, ToolCall, joined, merge, reader_of
from llamakit.engine.job import Finished, PromptProgress, Queued, Token
from llamakit.engine.request import FinishReason, Piece, Result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamakit.plugins.frontends.rest.chat import Prompt

    from llamakit.engine.job import Event

WHOLE = (FinishReason.END, FinishReason.STOP, FinishReason.GRAMMAR)  # what ends an answer where it is complete
PROGRESS_SECONDS = 0.1  # between two reports of progress


class Delta(msgspec.Struct, frozen=True):
    """What is new of an answer; `pieces` are the tokens that it is made of."""

    choice: int
    reasoning: str = ""
    content: str = ""
    calls: tuple[CallDelta, ...] = ()
    pieces: tuple[Piece, ...] = ()


class Done(msgspec.Struct, frozen=True):
    """An answer is complete; `n_reasoning` of its tokens were its thought. `called`: it ends with calls, none cut."""

    choice: int
    result: Result
    n_reasoning: int = 0
    called: bool = False


Part = Delta | Done | Queued | PromptProgress


class Whole(msgspec.Struct):
    """A whole answer."""

    done: Done
    reasoning: str = ""
    content: str = ""
    calls: list[ToolCall] = []
    pieces: list[Piece] = []

    @property
    def result(self) -> Result:
        """The engine's."""
        return self.done.result


class AnswerReader:
    """Reads the events of one job. `prompt` None: the text is the answer, as in completions."""

    def __init__(self, prompt: Prompt | None, n: int) -> None:
        self._choices = [_Choice(i, prompt) for i in range(n)]
        self._told = 0.0

    def read(self, events: Iterable[Event]) -> list[Part]:
        """What these events tell."""
        found: list[Part] = []
        for event in events:
            if type(event) is Token:
                delta = self._choices[event.choice].token(event.piece)
                if delta is not None:
                    found.append(delta)
            elif type(event) is Finished:
                if event.result.error is None:
                    found += self._choices[event.choice].finish(event.result)
            elif self._due(event):
                found.append(event)  # type: ignore[arg-type]
        return found

    def _due(self, event: Event) -> bool:
        """Whether to tell progress: not more often than people can see, but always its end."""
        now = time.monotonic()
        done = isinstance(event, PromptProgress) and event.processed >= event.total
        if now - self._told < PROGRESS_SECONDS and not done:
            return False
        self._told = now
        return True


class _Choice:
    """One answer on its way."""

    def __init__(self, choice: int, prompt: Prompt | None) -> None:
        self.choice = choice
        self._channels: HarmonyReader | None = None
        self._splitter = None if prompt is None else _splitter(prompt)
        reads = prompt is not None and (prompt.schemas or prompt.format.to_user)
        self._tools = reader_of(prompt.format, prompt.schemas) if prompt is not None and reads else None
        if prompt is not None and prompt.format.channels:
            self._splitter = self._tools = None
            self._channels = HarmonyReader(prompt.format, prompt.schemas)
            self._channels.push(prompt.tail)
        self._pieces: list[Piece] = []
        self._n, self._n_reasoning, self._called = 0, 0, False

    def token(self, piece: Piece) -> Delta | None:
        """One more token; None while its text is held back."""
        self._n += 1
        if self._splitter is None and self._tools is None and self._channels is None:
            if not piece.text:
                self._pieces.append(piece)
                return None
            pieces = (*self._pieces, piece) if self._pieces else (piece,)
            self._pieces.clear()
            return Delta(self.choice, content=piece.text, pieces=pieces)
        self._pieces.append(piece)
        return self._told(piece.text, last=False) if piece.text else None

    def finish(self, result: Result) -> list[Part]:
        """The end of the answer: what was held back, and `Done`."""
        text = result.tail if self._n else result.text
        if result.pieces:
            self._pieces = list(result.pieces)
            self._n_reasoning += len(self._pieces) if self._thinks else 0
        if result.reason is FinishReason.STOP:
            self._pieces = [] if not result.pieces else _visible(self._pieces)
        delta = self._told(text, last=True, cut=result.reason not in WHOLE)
        done = Done(self.choice, result, self._n_reasoning, self._called)
        return [done] if delta is None else [delta, done]

    @property
    def _thinks(self) -> bool:
        reader = self._splitter or self._channels
        return reader is not None and reader.in_thought

    def _told(self, text: str, *, last: bool, cut: bool = False) -> Delta | None:
        """What some more text, after the last of which nothing comes, adds; `cut`: a limit ended it."""
        reasoning, content, calls = "", text, list[CallDelta]()
        if self._channels is not None:
            reasoning, content, calls = self._channels.push(text)
            self._n_reasoning += self._channels.in_thought and not last
            if last:
                more = self._channels.flush(cut=cut)
                reasoning, content, calls = reasoning + more[0], content + more[1], merge([*calls, *more[2]])
        if self._splitter is not None:
            part = self._splitter.push(text)
            reasoning, content = part.reasoning, part.content
            self._n_reasoning += self._splitter.in_thought and not last
            if last:
                end = self._splitter.flush(cut=cut)
                reasoning, content = reasoning + end.reasoning, content + end.content
        if self._tools is not None:
            content, calls = self._tools.push(content) if content else ("", [])
            if last:
                end_content, end_calls = self._tools.flush(cut=cut)
                content, calls = content + end_content, merge([*calls, *end_calls])
        reader = self._tools or self._channels
        self._called = (self._called or bool(calls)) and not (reader is not None and reader.cut)
        if not (reasoning or content or calls or (last and self._pieces)):
            return None
        pieces = tuple(self._pieces)
        self._pieces.clear()
        return Delta(self.choice, reasoning, content, tuple(calls), pieces)


def _splitter(prompt: Prompt) -> ReasoningSplitter | None:
    """What splits the answer, after what is in the prompt already."""
    if prompt.markers is None or not prompt.splits:
        return None
    splitter = ReasoningSplitter(prompt.markers, inside=prompt.inside)
    if prompt.begun:
        splitter.push(prompt.begun)
        if not splitter.in_thought:
            return None
    return splitter


def _visible(pieces: list[Piece]) -> list[Piece]:
    """Without the tokens at the end whose text a stop string swallowed."""
    last = next((i for i in range(len(pieces) - 1, -1, -1) if pieces[i].text), -1)
    return pieces[: last + 1]


def gather(parts: Iterable[Part]) -> list[Whole]:
    """Whole answers, in order of their numbers, from their parts."""
    reasoning: dict[int, list[str]] = {}
    content: dict[int, list[str]] = {}
    calls: dict[int, list[CallDelta]] = {}
    pieces: dict[int, list[Piece]] = {}
    found: list[Whole] = []
    for part in parts:
        if type(part) is Delta:
            reasoning.setdefault(part.choice, []).append(part.reasoning)
            content.setdefault(part.choice, []).append(part.content)
            calls.setdefault(part.choice, []).extend(part.calls)
            pieces.setdefault(part.choice, []).extend(part.pieces)
        elif type(part) is Done:
            number = part.choice
            thought, said = ("".join(told.get(number, ())) for told in (reasoning, content))
            found.append(Whole(part, thought, said, joined(calls.get(number, [])), pieces.get(number, [])))
    return sorted(found, key=lambda whole: whole.done.choice)
