"""OpenAI's responses: an object of output items, whole or as events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.rest.answer import Delta, Done
from llamakit.plugins.frontends.rest.dialect import Writer
from llamakit.plugins.frontends.rest.errors import body_of
from llamakit.plugins.frontends.rest.format import LENGTH, extensions_of, new_id
from llamakit.plugins.frontends.rest.sse import event

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.answer import AnswerReader, Part
    from llamakit.plugins.frontends.rest.apis.responses.fields import ResponsesBody

    from llamakit.chat.tools import CallDelta
    from llamakit.engine.request import Request
    from llamakit.errors import LlamaKitError

TEXT = {"type": "text"}


def error_event(error: LlamaKitError) -> bytes:
    """The last event of a stream that an error ended."""
    found = body_of(error)["error"]
    value = {"type": "error", "code": found["code"], "message": found["message"], "param": found["param"]}
    return event(value | {"error": found}, name="error")


class ResponseAnswer(Writer):
    """Writes the answer to one request."""

    def __init__(
        self, model: str, fields: ResponsesBody, request: Request, reader: AnswerReader, ignored: tuple[str, ...]
    ) -> None:
        self.model, self.fields, self.request, self.ignored = model, fields, request, ignored
        self.requests, self.readers = [request], [reader]
        self.id, self.created = new_id("resp_"), int(time.time())
        self.output: list[dict[str, Any]] = []  # items that are complete
        self._open: dict[str, Any] | None = None  # the item that grows
        self._text: list[str] = []
        self._number = 0
        self._last_value: dict[str, Any] = {}

    def whole(self, parts: list[list[Part]]) -> dict[str, Any]:
        """The answer to wait for: what the last event of a stream tells."""
        for part in parts[0]:
            self.event(0, part)
        return self._last_value

    def start(self) -> bytes:
        """The response without any output."""
        value = self._value(None)
        return self._event("response.created", response=value) + self._event("response.in_progress", response=value)

    def event(self, number: int, part: Part) -> bytes:
        """Events of the item that grows; at the end the whole response."""
        if isinstance(part, Delta):
            return self._delta(part)
        if not isinstance(part, Done):
            return b""
        data = self._last(part)
        self._last_value = self._value(part)
        return data + self._event(f"response.{self._last_value['status']}", response=self._last_value)

    # -- items ---------------------------------------------------------------------------------------------------

    def _delta(self, part: Delta) -> bytes:
        data = b""
        if part.reasoning:
            data += self._grow("reasoning", part.reasoning)
        if part.content:
            data += self._grow("message", part.content)
        for call in part.calls:
            data += self._call(call)
        return data

    def _grow(self, kind: str, text: str) -> bytes:
        """Some more text of a thought or a message, a new one if another item is open."""
        data = b""
        if self._open is None or self._open["type"] != kind:
            data = self._close() + self._begin(kind)
        self._text.append(text)
        name = "reasoning_text" if kind == "reasoning" else "output_text"
        more: dict[str, Any] = {} if kind == "reasoning" else {"logprobs": []}
        return data + self._event(f"response.{name}.delta", **self._place(), content_index=0, delta=text, **more)

    def _begin(self, kind: str) -> bytes:
        thought = kind == "reasoning"
        prefix, extra = "rs_" if thought else "msg_", {"summary": []} if thought else {"role": "assistant"}
        self._open = {"id": new_id(prefix), "type": kind, "status": "in_progress", **extra, "content": []}
        self._text = []
        index = len(self.output)
        data = self._event("response.output_item.added", output_index=index, item=self._open)
        return data + self._event("response.content_part.added", **self._place(), content_index=0, part=self._part(""))

    def _close(self, status: str = "completed") -> bytes:
        """The end of the open item."""
        item = self._open
        if item is None:
            return b""
        text = "".join(self._text)
        if item["type"] == "function_call":
            return self._close_call(item, text, status)
        thought = item["type"] == "reasoning"
        name = "reasoning_text" if thought else "output_text"
        more: dict[str, Any] = {} if thought else {"logprobs": []}
        data = self._event(f"response.{name}.done", **self._place(), content_index=0, text=text, **more)
        part = self._part(text)
        data += self._event("response.content_part.done", **self._place(), content_index=0, part=part)
        done = {**item, "status": status, "content": [part]}
        data += self._event("response.output_item.done", output_index=len(self.output), item=done)
        self.output.append(done)
        self._open = None
        return data

    def _part(self, text: str) -> dict[str, Any]:
        assert self._open is not None  # parts belong to the open item
        if self._open["type"] == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _call(self, call: CallDelta) -> bytes:
        """What is new of a call, which is closed when the next item begins."""
        data = b""
        if call.name:
            data = self._close()
            self._open = {
                "id": new_id("fc_"), "type": "function_call", "status": "in_progress", "call_id": call.id,
                "name": call.name, "arguments": "",
            }  # fmt: skip
            self._text = []
            data += self._event("response.output_item.added", output_index=len(self.output), item=self._open)
        if call.arguments:
            self._text.append(call.arguments)
            data += self._event("response.function_call_arguments.delta", **self._place(), delta=call.arguments)
        return data

    def _close_call(self, item: dict[str, Any], arguments: str, status: str) -> bytes:
        data = self._event(
            "response.function_call_arguments.done", **self._place(), name=item["name"], arguments=arguments
        )
        done = {**item, "status": status, "arguments": arguments}
        data += self._event("response.output_item.done", output_index=len(self.output), item=done)
        self.output.append(done)
        self._open = None
        return data

    def _last(self, done: Done) -> bytes:
        """The end of all items; an answer without any is an empty message."""
        data = b"" if self.output or self._open else self._begin("message")
        return data + self._close("incomplete" if done.result.reason in LENGTH else "completed")

    def _place(self) -> dict[str, Any]:
        assert self._open is not None  # only called while an item is open
        return {"item_id": self._open["id"], "output_index": len(self.output)}

    def _event(self, kind: str, /, **values: Any) -> bytes:
        data = event({"type": kind, **values, "sequence_number": self._number}, name=kind)
        self._number += 1
        return data

    # -- the object ----------------------------------------------------------------------------------------------

    def _value(self, done: Done | None) -> dict[str, Any]:
        """The response as it stands; `done` None while it is in progress."""
        fields, options = self.fields, self.request.options
        cut = done is not None and done.result.reason in LENGTH
        status = "in_progress" if done is None else "incomplete" if cut else "completed"
        text_format = TEXT if fields.text is None or fields.text.format is None else fields.text.format
        value: dict[str, Any] = {
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "background": False,
            "error": None, "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": fields.instructions, "max_output_tokens": fields.max_output_tokens, "model": self.model,
            "output": list(self.output), "parallel_tool_calls": fields.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": fields.reasoning.effort if fields.reasoning else None, "summary": None},
            "store": False, "temperature": options.get("temperature"), "text": {"format": text_format},
            "tool_choice": fields.tool_choice, "tools": fields.tools, "top_p": options.get("top_p"),
            "truncation": "disabled", "usage": None, "user": fields.user, "metadata": fields.metadata,
        }  # fmt: skip
        if done is not None:
            value["completed_at"] = int(time.time())
            value["usage"] = self._usage(done)
            value |= extensions_of(self.request, done.result, self.ignored)
        return value

    def _usage(self, done: Done) -> dict[str, Any]:
        n, m = len(self.request.prompt), done.result.timings.n_generated
        return {
            "input_tokens": n, "input_tokens_details": {"cached_tokens": done.result.timings.n_cached},
            "output_tokens": m, "output_tokens_details": {"reasoning_tokens": done.n_reasoning}, "total_tokens": n + m,
        }  # fmt: skip
