"""Anthropic's answers: a message of content blocks, whole or as events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.answer import Delta, Done, gather
from llamakit.plugins.frontends.rest.dialect import Writer
from llamakit.plugins.frontends.rest.errors import status_of, type_of
from llamakit.plugins.frontends.rest.format import LENGTH, extensions_of, new_id, objects_of
from llamakit.plugins.frontends.rest.sse import event

from llamakit.engine.request import FinishReason
from llamakit.errors import ContextLengthError

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.answer import AnswerReader, Part

    from llamakit.chat.tools import CallDelta, ToolCall
    from llamakit.engine.request import Request, Result
    from llamakit.errors import LlamaKitError

TYPES = {"413": "request_too_large", "503": "overloaded_error", "500": "api_error"}
encode_text = msgspec.json.Encoder().encode


def error_body(error: LlamaKitError) -> dict[str, Any]:
    """An error in Anthropic's shape."""
    kind = TYPES.get(status_of(error)[:3], type_of(error))
    if isinstance(error, ContextLengthError):  # llama.cpp's name for it is none of Anthropic's
        kind = "invalid_request_error"
    text = "\n".join(part for part in (error.message, error.found, error.hint) if part)
    if status_of(error)[0] == "5":
        from llamakit.plugins.frontends.rest.errors import without_folders

        text = without_folders(text)
    return {"type": "error", "error": {"type": kind, "message": text, "param": error.param or None}}


def error_event(error: LlamaKitError) -> bytes:
    """The last event of a stream that an error ended."""
    return event(error_body(error), name="error")


class MessageAnswer(Writer):
    """Writes the answer to one request."""

    def __init__(self, model: str, request: Request, reader: AnswerReader, ignored: tuple[str, ...]) -> None:
        self.request, self.ignored = request, ignored
        self.requests, self.readers = [request], [reader]
        self._before, self._after = b"", b""  # around the text of a piece of the open block
        self.head: dict[str, Any] = {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": model}
        self._index = -1
        self._open = ""  # kind of the block that is open

    def whole(self, parts: list[list[Part]]) -> dict[str, Any]:
        """The answer to wait for."""
        (answer,) = gather(parts[0])
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
        if answer.content or not answer.calls:
            content.append({"type": "text", "text": answer.content})
        content += [_tool_use(call) | {"input": value} for call, value in objects_of(answer.calls)]
        return {
            **self.head, "content": content, **_stop(answer.done), "usage": self._usage(answer.result),
            **extensions_of(self.request, answer.result, self.ignored),
        }  # fmt: skip

    def start(self) -> bytes:
        """The message without any content."""
        usage = {"input_tokens": len(self.request.prompt), "output_tokens": 0}
        message = {**self.head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event("message_start", message=message) + _event("ping")

    def event(self, number: int, part: Part) -> bytes:
        """Events of the block that grows."""
        if type(part) is Delta:
            if self._open == "text" and not (part.reasoning or part.calls):
                return self._before + encode_text(part.content) + self._after
            data = self._delta(part)
            self._before, self._after = self._frame()
            return data
        return self._end(part) if type(part) is Done else b""

    def _frame(self) -> tuple[bytes, bytes]:
        """What is around the text of a piece of the open block."""
        before, _, after = self._text("\0").partition(encode_text("\0"))
        return before, after

    def _text(self, text: str) -> bytes:
        return _event("content_block_delta", index=self._index, delta={"type": "text_delta", "text": text})

    def _delta(self, part: Delta) -> bytes:
        data = b""
        if part.reasoning:
            data += self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            delta = {"type": "thinking_delta", "thinking": part.reasoning}
            data += _event("content_block_delta", index=self._index, delta=delta)
        if part.content:
            data += self._begin("text", {"type": "text", "text": ""}) + self._text(part.content)
        for call in part.calls:
            if call.name:
                data += self._close() + self._begin("tool_use", _tool_use(call) | {"input": {}})
            if call.arguments:
                delta = {"type": "input_json_delta", "partial_json": call.arguments}
                data += _event("content_block_delta", index=self._index, delta=delta)
        return data

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        """Open a block, unless one of its kind is open."""
        if self._open == kind:
            return b""
        data = self._close()
        self._open, self._index = kind, self._index + 1
        return data + _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        data = b""
        if self._open == "thinking":
            delta = {"type": "signature_delta", "signature": ""}
            data = _event("content_block_delta", index=self._index, delta=delta)
        self._open = ""
        return data + _event("content_block_stop", index=self._index)

    def _end(self, done: Done) -> bytes:
        data = b"" if self._index >= 0 else self._begin("text", {"type": "text", "text": ""})
        data += self._close()
        more = extensions_of(self.request, done.result, self.ignored)
        data += _event("message_delta", delta=_stop(done), usage=self._usage(done.result), **more)
        return data + _event("message_stop")

    def _usage(self, result: Result) -> dict[str, int]:
        """Counts; what was found evaluated is not among `input_tokens`."""
        cached = result.timings.n_cached
        return {
            "input_tokens": len(self.request.prompt) - cached, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached, "output_tokens": result.timings.n_generated,
        }  # fmt: skip


def _event(name: str, **values: Any) -> bytes:
    return event({"type": name, **values}, name=name)


def _stop(done: Done) -> dict[str, Any]:
    """Why the answer ended, in Anthropic's words."""
    reason = done.result.reason
    if done.called:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if reason is FinishReason.STOP:
        return {"stop_reason": "stop_sequence", "stop_sequence": done.result.stopped_by}
    return {"stop_reason": "max_tokens" if reason in LENGTH else "end_turn", "stop_sequence": None}


def _tool_use(call: ToolCall | CallDelta) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id.replace("call_", "toolu_", 1), "name": call.name}
