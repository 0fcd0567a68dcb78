"""Ollama's answers: lines of JSON, the last of which has counts and nanoseconds."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.answer import Delta, Done, gather
from llamakit.plugins.frontends.rest.dialect import Writer
from llamakit.plugins.frontends.rest.errors import status_of, without_folders
from llamakit.plugins.frontends.rest.format import chat_logprobs, extensions_of, finish_reason, objects_of
from llamakit.plugins.frontends.rest.long_json import LongJson

from llamakit.chat.tools import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llamakit.plugins.frontends.rest.answer import AnswerReader, Part

    from llamakit.chat.tools import CallDelta, ToolCall
    from llamakit.engine.request import Request, Result
    from llamakit.errors import LlamaKitError
    from llamakit.tokenizer import Tokenizer

NDJSON = "application/x-ndjson"
encode_text = msgspec.json.Encoder().encode


def line(value: Any) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(value) + b"\n"


def error_body(error: LlamaKitError) -> dict[str, Any]:
    """An error in Ollama's shape: nothing but a text."""
    text = "; ".join(part.replace("\n", " ") for part in (error.message, error.found, error.hint) if part)
    return {"error": without_folders(text) if status_of(error)[0] == "5" else text}


def error_line(error: LlamaKitError) -> bytes:
    """The last line of a stream that an error ended."""
    return line(error_body(error))


def now() -> str:
    """The time, as Ollama writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Answer(Writer):
    """Writes the answer to one request. `part(text, thinking, calls)` makes what differs between the two APIs."""

    def __init__(
        self, model: str, tokenizer: Tokenizer, request: Request, reader: AnswerReader, *,
        part: Callable[[str, str, list[Any]], dict[str, Any]], began: float, loaded: float, context: bool = False,
        ignored: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.request = model, tokenizer, request
        self.requests, self.readers = [request], [reader]
        self._calls: list[CallDelta] = []  # of those that are not complete
        self.part, self.began, self.loaded, self.context, self.ignored = part, began, loaded, context, ignored

    def whole(self, parts: list[list[Part]]) -> dict[str, Any]:
        """The answer to wait for."""
        (answer,) = gather(parts[0])
        calls = _calls(answer.calls)
        value = self._head() | self.part(answer.content, answer.reasoning, calls) | self._last(answer.done)
        if self.request.logprobs is not None:
            value["logprobs"] = LongJson.array(chat_logprobs(self.tokenizer, answer.pieces))
        return value

    def event(self, number: int, part: Part) -> bytes:
        """A line. A call is told when it is complete, since its arguments are an object here."""
        if type(part) is Done:
            return line(self._head() | self.part("", "", []) | self._last(part))
        if type(part) is not Delta:
            return b""
        if not (part.calls or self._calls):  # most tokens: nothing to put together
            return self._told(part, [])
        open_calls = [*self._calls, *part.calls]
        n = 1 + max((i for i, call in enumerate(open_calls) if call.done), default=-1)
        complete, self._calls = open_calls[:n], open_calls[n:]
        waits = part.calls and not (complete or part.content or part.reasoning)
        if waits and self.request.logprobs is None:
            return b""
        return self._told(part, _calls(joined(complete)))

    def _told(self, part: Delta, calls: list[dict[str, Any]]) -> bytes:
        value = self._head() | self.part(part.content, part.reasoning, calls)
        value["done"] = False
        return line(value if self.request.logprobs is None else value | self._logprobs(part.pieces))

    def _head(self) -> dict[str, Any]:
        return {"model": self.model, "created_at": now()}

    def _logprobs(self, pieces: Any) -> dict[str, Any]:
        if self.request.logprobs is None:
            return {}
        return {"logprobs": [msgspec.Raw(each) for each in chat_logprobs(self.tokenizer, pieces)]}

    def _last(self, done: Done) -> dict[str, Any]:
        result, t = done.result, done.result.timings
        value: dict[str, Any] = {"done": True, "done_reason": finish_reason(result)}
        if self.context:
            value["context"] = context_of(self.request, result, self.tokenizer)
        value |= {
            "total_duration": _nanoseconds(time.perf_counter() - self.began),
            "load_duration": _nanoseconds(self.loaded - self.began),
            "prompt_eval_count": t.n_prompt - t.n_truncated,
            "prompt_eval_duration": _nanoseconds(t.prompt_seconds),
            "eval_count": t.n_generated,
            "eval_duration": _nanoseconds(t.generate_seconds),
        }
        return value | extensions_of(self.request, result, self.ignored)


def context_of(request: Request, result: Result, tokenizer: Tokenizer) -> list[int]:
    """The tokens of prompt and answer, for a request that goes on from here; without the end of the text."""
    return [*request.prompt, *(token for token in result.tokens if token not in tokenizer.eog_ids)]


def _calls(calls: Iterable[ToolCall]) -> list[dict[str, Any]]:
    return [{"function": {"name": call.name, "arguments": value}} for call, value in objects_of(calls)]


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
