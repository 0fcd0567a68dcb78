"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest import loading
from llamakit.plugins.frontends.rest.answer import AnswerReader, Delta, Done, Whole
from llamakit.plugins.frontends.rest.apis.openai_fields import (
    Generate,
    Limit,
    check_constraints,
    format_options,
    make_request,
    settings_of,
)
from llamakit.plugins.frontends.rest.apis.openai_format import (
    chat_logprobs,
    extensions_of,
    fingerprint,
    finish_reason,
    new_id,
    usage_of,
)
from llamakit.plugins.frontends.rest.body import read, tell_ignored, wrong
from llamakit.plugins.frontends.rest.chat import make_prompt
from llamakit.plugins.frontends.rest.constrain import constrained
from llamakit.plugins.frontends.rest.errors import body_of
from llamakit.plugins.frontends.rest.generation import held, start, take_resources
from llamakit.plugins.frontends.rest.messages import conversation
from llamakit.plugins.frontends.rest.sse import event, stream
from msgspec import Meta

import llamakit
from llamakit.engine.job import PromptProgress, Queued
from llamakit.errors import LlamaKitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import falcon
    from llamakit.plugins.frontends.rest.answer import Part
    from llamakit.plugins.frontends.rest.body import Body
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.chat.tools import CallDelta, ToolCall
    from llamakit.engine.job import Job
    from llamakit.engine.request import Request
    from llamakit.session import Session

END = b"data: [DONE]\n\n"
TOP = 100  # OpenAI has 20
encode_text = msgspec.json.Encoder().encode


class ChatBody(Generate, frozen=True, kw_only=True):
    """What `POST /v1/chat/completions` takes, beside the options of every sampler."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=10_000, description="The conversation.")]
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    logprobs: Annotated[bool, Meta(description="Give the logarithm of each token's probability.")] = False
    top_logprobs: Annotated[int, Meta(ge=0, le=TOP, description="So many of the likeliest with each token.")] = 0
    response_format: (
        Annotated[dict[str, Any], Meta(description="text, json_object, json_schema or structural_tag.")] | None
    ) = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1000, description="Functions to call.")] | None = None
    tool_choice: (
        Annotated[str | dict[str, Any], Meta(description="auto, none, required, or which function.")] | None
    ) = None
    parallel_tool_calls: Annotated[bool, Meta(description="Whether an answer may call several tools.")] = True
    reasoning_effort: Annotated[str, Meta(max_length=64, description="For the template; none = off.")] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Meta(description="More names for the chat template.")] = {}
    continue_final_message: (
        Annotated[bool, Meta(description="Whether to write on a last message of the assistant; unset = yes.")] | None
    ) = None

    @property
    def variables(self) -> dict[str, Any]:
        """Names for the template."""
        effort = self.reasoning_effort
        given = {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}
        return {**given, **self.chat_template_kwargs}


class ChatCompletions:
    """Answers conversations."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A whole answer, or with `stream` its chunks."""
        body = read(req, ChatBody, self.state, rewrite=check_constraints(self.state))
        fields = body.fields
        _check_together(fields)
        tell_ignored(resp, body.ignored)
        name = self.state.pool.resolve(fields.model)
        if fields.stream and fields.return_progress and self.state.pool.loaded(name) is None:
            stream(req, resp, lambda: self._after_loading(req, body, name), error_event)
            return
        with held(self.state, req, name) as session:
            answer, job = self._start(req, session, body, name)
            if fields.stream:
                stream(req, resp, lambda: answer.chunks(job), error_event)
            else:
                resp.content_type = "application/json"
                resp.data = msgspec.json.encode(answer.whole(job))

    def _start(self, req: falcon.Request, session: Session, body: Body[ChatBody], name: str) -> tuple[ChatAnswer, Job]:
        fields = body.fields
        talk = conversation(
            fields.messages, tools=fields.tools, tool_choice=fields.tool_choice, parallel=fields.parallel_tool_calls,
            variables=fields.variables, continue_last=fields.continue_final_message,
        )  # fmt: skip
        prompt = make_prompt(self.state, session, talk)
        limit = fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens
        sampling = settings_of(self.state, body.sampling) | format_options(self.state, fields.response_format)
        sampling = constrained(self.state, session, prompt, sampling)
        request = make_request(
            session, prompt.tokens, fields, sampling, max_tokens=-1 if limit is None else limit, stop=prompt.stop,
            shown=prompt.shown, logprobs=fields.top_logprobs if fields.logprobs else None,
        )  # fmt: skip
        reader = AnswerReader(prompt, fields.n)
        answer = ChatAnswer(session, name, fields, request, reader, body.ignored)
        return answer, start(self.state, session, request, req, api="openai")

    def _after_loading(self, req: falcon.Request, body: Body[ChatBody], name: str) -> Iterator[bytes]:
        """The stream of a model that is not loaded yet: how far that is, then the answer."""
        for progress in loading.load(self.state, name):
            yield event({"choices": [], "loading": {"progress": progress}})
        try:
            with held(self.state, req, name) as session:
                answer, job = self._start(req, session, body, name)
                yield from answer.chunks(job)
        finally:
            take_resources(req).close()


class ChatAnswer:
    """Writes the answers to one request."""

    def __init__(
        self, session: Session, model: str, fields: ChatBody, request: Request, reader: AnswerReader,
        ignored: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.session, self.fields, self.request, self.reader, self.ignored = session, fields, request, reader, ignored
        self.head: dict[str, Any] = {
            "id": new_id("chatcmpl-"), "object": "chat.completion", "created": int(time.time()), "model": model,
            "system_fingerprint": fingerprint(session, llamakit.__version__),
        }  # fmt: skip
        self._done: list[Done] = []

    # -- whole ---------------------------------------------------------------------------------------------------

    def whole(self, job: Job) -> dict[str, Any]:
        """The answer to wait for."""
        answers = self.reader.whole(job)
        ends = [answer.done for answer in answers]
        return {
            **self.head,
            "choices": [self._choice(answer) for answer in answers],
            "usage": usage_of(len(self.request.prompt), ends),
            **extensions_of(self.request, ends[-1].result, self.ignored),
        }

    def _choice(self, answer: Whole) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["content"] = answer.content or None
            message["tool_calls"] = [call_value(call) for call in answer.calls]
        return {
            "index": answer.done.choice, "message": message, "logprobs": self._logprobs(answer.pieces),
            "finish_reason": finish_reason(answer.result, called=answer.done.called),
        }  # fmt: skip

    def _logprobs(self, pieces: Any) -> dict[str, Any] | None:
        return chat_logprobs(self.session.tokenizer, pieces) if self.fields.logprobs else None

    # -- in chunks -----------------------------------------------------------------------------------------------

    def chunks(self, job: Job) -> Iterator[bytes]:
        """Every chunk; several are joined when the reader is behind."""
        self.head["object"] = "chat.completion.chunk"
        begun = False
        before, after = self._frame()
        for parts in self.reader.parts(job):
            data = []
            for part in parts:
                if isinstance(part, (Queued, PromptProgress)):
                    if not begun:
                        data.append(event({**self.head, "choices": [], **progress_value(part)}))
                    continue
                if not begun:
                    begun = True
                    data.append(self._roles())
                if before and type(part) is Delta and part.content and not (part.reasoning or part.calls):
                    data.append(before + encode_text(part.content) + after)
                else:
                    data.append(self._part(part))
            yield b"".join(data)
        yield END

    def _frame(self) -> tuple[bytes, bytes]:
        """What is around the text of a chunk that holds nothing else: made once, since there are many."""
        if self.fields.logprobs or self.request.n > 1:
            return b"", b""
        before, _, after = self._delta(0, {"content": "\0"}).partition(encode_text("\0"))
        return before, after

    def _roles(self) -> bytes:
        return b"".join(self._delta(i, {"role": "assistant", "content": ""}) for i in range(self.request.n))

    def _part(self, part: Part) -> bytes:
        if isinstance(part, Done):
            return self._end(part)
        assert isinstance(part, Delta)
        data, pieces = b"", part.pieces
        if part.reasoning:
            data += self._delta(part.choice, {"reasoning_content": part.reasoning}, self._logprobs(pieces))
            pieces = ()
        if part.calls:
            calls = [call_delta(call) for call in part.calls]
            data += self._delta(part.choice, {"tool_calls": calls}, self._logprobs(pieces))
            pieces = ()
        if part.content or (pieces and self.fields.logprobs):
            data += self._delta(part.choice, {"content": part.content}, self._logprobs(pieces))
        return data

    def _end(self, done: Done) -> bytes:
        self._done.append(done)
        last = len(self._done) == self.request.n
        more = extensions_of(self.request, done.result, self.ignored) if last else {}
        reason = finish_reason(done.result, called=done.called)
        if not self.fields.include_usage:
            return self._delta(done.choice, {}, reason=reason, **more)
        data = self._delta(done.choice, {}, reason=reason)
        if last:
            data += event({**self.head, "choices": [], "usage": usage_of(len(self.request.prompt), self._done), **more})
        return data

    def _delta(
        self, choice: int, delta: dict[str, Any], logprobs: Any = None, reason: Any = None, **more: Any
    ) -> bytes:
        value = {
            **self.head,
            "choices": [{"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}],
        }
        if self.fields.include_usage:
            value["usage"] = None
        return event(value | more)


def call_value(call: ToolCall) -> dict[str, Any]:
    """A call as OpenAI writes it."""
    return {
        "id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}
    }  # fmt: skip


def call_delta(call: CallDelta) -> dict[str, Any]:
    """What is new of a call, as OpenAI writes it: its name and id once."""
    if not call.name:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def progress_value(part: Queued | PromptProgress) -> dict[str, Any]:
    """How many requests are before this one, or how much of the prompt is evaluated."""
    if isinstance(part, Queued):
        return {"queue": {"ahead": part.ahead}}
    ms = part.seconds * 1e3
    progress = {"total": part.total, "cached": part.cached, "processed": part.processed, "ms": ms}
    return {"prompt_progress": progress}


def error_event(error: LlamaKitError) -> bytes:
    """The last event of a stream that an error ended."""
    return event(body_of(error))


def _check_together(fields: ChatBody) -> None:
    """What no field shows alone."""
    if fields.top_logprobs and not fields.logprobs:
        raise UsageError("top_logprobs needs logprobs to be true", param="top_logprobs")
    if fields.best_of is not None and fields.best_of < fields.n:
        raise wrong("best_of", fields.best_of, f"{fields.n} (n) or more")
