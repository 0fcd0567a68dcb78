"""The events of a streamed completion, as bytes.

In a stream without extras an event is the text between two fixed parts: nothing else is made for a token.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.apis.native_answer import Answers, encode, visible
from llamakit.plugins.frontends.rest.errors import body_of
from llamakit.plugins.frontends.rest.generation import batches

from llamakit.engine.job import PromptProgress, Queued, Token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llamakit.engine.job import Event, Finished, Job
    from llamakit.engine.request import Piece
    from llamakit.errors import LlamaKitError

BEFORE, AFTER = b'data: {"content":', b',"stop":false}\n\n'
PROGRESS_SECONDS = 0.2  # between two events that tell of progress
encode_text = msgspec.json.Encoder().encode


def event(value: Any) -> bytes:
    """One event; no `event:` or `id:` lines, keys in alphabetical order."""
    return b"data: " + encode(value) + b"\n\n"


def error_event(error: LlamaKitError) -> bytes:
    """The last event of a stream that an error ended."""
    return event(body_of(error))


class CompletionEvents:
    """Turns the events of a job into those of the stream."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        fields, n = answers.fields, answers.request.n
        self._plain = n == 1 and not fields.n_probs and not fields.return_tokens
        self._pieces: list[list[Piece]] = [[] for _ in range(n)]
        self._told = [0] * n  # of these, how many were in an event
        self._text = [False] * n  # whether any text was
        self._last_progress = 0.0

    def run(self, job: Job) -> Iterator[bytes]:
        """Every event; several are joined when the reader is behind."""
        for batch in batches(job):
            yield b"".join([self._one(event) for event in batch])

    def _one(self, event: Event) -> bytes:
        if type(event) is Token:
            text = event.piece.text
            if self._plain:
                if not text:
                    return b""
                self._text[0] = True
                return BEFORE + encode_text(text) + AFTER
            return self._token(event)
        if isinstance(event, (Queued, PromptProgress)):
            return self._progress(event)
        return self._end(event)

    def _token(self, event: Token) -> bytes:
        """A token whose probabilities or id go with its text, once that is known."""
        choice = event.choice
        self._pieces[choice].append(event.piece)
        return self._tell(choice, event.piece.text) if event.piece.text else b""

    def _tell(self, choice: int, text: str) -> bytes:
        new = self._pieces[choice][self._told[choice] :]
        self._told[choice] = len(self._pieces[choice])
        self._text[choice] = True
        return event(self.answers.part(text, new, choice))

    def _end(self, finished: Finished) -> bytes:
        """What is left of the text, and the last event."""
        choice, result = finished.choice, finished.result
        if result.error is not None:
            return b""
        streamed = bool(self._pieces[choice]) or self._text[choice]
        if result.pieces:
            self._pieces[choice] = list(result.pieces)
        self._pieces[choice] = visible(self._pieces[choice], result)
        left = result.tail if streamed else result.text
        data = self._tell(choice, left) if left else b""
        return data + event(self.answers.last(result, "", self._pieces[choice]))

    def _progress(self, event_: Queued | PromptProgress) -> bytes:
        if not self.answers.fields.return_progress:
            return b""
        now = time.monotonic()
        done = isinstance(event_, PromptProgress) and event_.processed >= event_.total
        if now - self._last_progress < PROGRESS_SECONDS and not done:
            return b""
        self._last_progress = now
        return event(progress_value(event_))


def progress_value(event: Queued | PromptProgress) -> dict[str, Any]:
    """How many are before this request, or how much of the prompt is evaluated."""
    if isinstance(event, Queued):
        return {"queue": {"ahead": event.ahead}}
    ms = round(event.seconds * 1e3)
    return {"prompt_progress": {"cached": event.cached, "ms": ms, "processed": event.processed, "total": event.total}}
