"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.answer import AnswerReader, Delta, Done, Whole, gather
from llamakit.plugins.frontends.rest.apis.openai.fields import Generate, Limit, make_request, options_of
from llamakit.plugins.frontends.rest.apis.openai.format import fingerprint, usage_of
from llamakit.plugins.frontends.rest.body import read, wrong
from llamakit.plugins.frontends.rest.chat import TOOL, make_prompt, skipped_tools, variables
from llamakit.plugins.frontends.rest.constrain import RESPONSE_FORMAT, check_constraints, constrained, format_options
from llamakit.plugins.frontends.rest.dialect import Asked, Dialect, Writer
from llamakit.plugins.frontends.rest.errors import body_of
from llamakit.plugins.frontends.rest.fields import settings_of
from llamakit.plugins.frontends.rest.format import chat_logprobs, extensions_of, finish_reason, new_id, progress_value
from llamakit.plugins.frontends.rest.long_json import LongJson
from llamakit.plugins.frontends.rest.messages import MESSAGE, conversation
from llamakit.plugins.frontends.rest.sse import event
from msgspec import Meta

import llamakit
from llamakit.engine.job import PromptProgress, Queued
from llamakit.errors import LlamaKitError, UsageError

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.answer import Part

    from llamakit.chat.tools import CallDelta, ToolCall
    from llamakit.engine.request import Request
    from llamakit.session import Session

END = b"data: [DONE]\n\n"
TOP = 100  # OpenAI has 20
encode_text = msgspec.json.Encoder().encode


class ChatBody(Generate, frozen=True, kw_only=True):
    """What `POST /v1/chat/completions` takes, beside the options of every sampler."""

    messages: Annotated[
        list[dict[str, Any]], Meta(min_length=1, max_length=10_000, description="The conversation.", extra=MESSAGE)
    ]
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    logprobs: Annotated[bool, Meta(description="Give the logarithm of each token's probability.")] = False
    top_logprobs: Annotated[int, Meta(ge=0, le=TOP, description="So many of the likeliest with each token.")] = 0
    response_format: (
        Annotated[
            dict[str, Any], Meta(description="text, json_object, json_schema or structural_tag.", extra=RESPONSE_FORMAT)
        ]
        | None
    ) = None
    tools: (
        Annotated[list[dict[str, Any]], Meta(max_length=1000, description="Functions to call.", extra=TOOL)] | None
    ) = None
    tool_choice: (
        Annotated[str | dict[str, Any], Meta(description="auto, none, required, or which function.")] | None
    ) = None
    functions: Annotated[list[dict[str, Any]], Meta(max_length=1000, description="The first form of tools.")] | None = (
        None
    )
    parallel_tool_calls: Annotated[bool, Meta(description="Whether an answer may call several tools.")] = True
    reasoning_effort: Annotated[str, Meta(max_length=64, description="For the template; none = off.")] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Meta(description="More names for the chat template.")] = {}
    continue_final_message: (
        Annotated[bool, Meta(description="Whether to write on a last message of the assistant; unset = yes.")] | None
    ) = None
    add_generation_prompt: (
        Annotated[bool, Meta(description="Whether the prompt has what begins an answer; unset = as it is needed.")]
        | None
    ) = None

    @property
    def variables(self) -> dict[str, Any]:
        """Names for the template."""
        return variables(self.reasoning_effort, self.chat_template_kwargs)


class ChatCompletions(Dialect):
    """Answers conversations."""

    api = "openai"

    def parse(self, req: falcon.Request) -> Asked:
        """The body."""
        body = read(req, ChatBody, self.state, rewrite=self._rewrite)
        fields = body.fields
        _check_together(fields)
        return Asked(
            fields=fields, body=body, model=fields.model, stream=fields.stream, progress=fields.return_progress,
            ignored=(*body.ignored, *skipped_tools(fields.tools)),
        )  # fmt: skip

    def _rewrite(self, values: dict[str, Any]) -> list[str]:
        """Spellings of llama.cpp, and the functions of OpenAI's first form."""
        if values.get("max_tokens") is None and "n_predict" in values:
            values["max_tokens"] = values.pop("n_predict")
        functions, choice = values.get("functions"), values.pop("function_call", None)
        if isinstance(functions, list) and not values.get("tools"):
            values["tools"] = [{"type": "function", "function": each} for each in functions]
        if choice is not None and values.get("tool_choice") is None:
            values["tool_choice"] = choice if isinstance(choice, str) else {"type": "function", "function": choice}
        return check_constraints(self.state)(values)

    def begin(self, session: Session, asked: Asked, name: str) -> ChatAnswer:
        """The prompt of the conversation, and its answer."""
        fields: ChatBody = asked.fields
        if fields.continue_final_message and fields.add_generation_prompt:
            raise UsageError(
                "an answer is either begun or goes on with the last message", param="continue_final_message",
                hint="one of add_generation_prompt and continue_final_message",
            )  # fmt: skip
        talk = conversation(
            fields.messages, tools=fields.tools, tool_choice=fields.tool_choice, variables=fields.variables,
            parallel=fields.parallel_tool_calls and fields.functions is None,
            continue_last=fields.continue_final_message,
        )  # fmt: skip
        begun = fields.add_generation_prompt is not False
        prompt = make_prompt(self.state, session, talk, add_generation_prompt=begun)
        limit = fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens
        sampling = settings_of(self.state, asked.body.sampling) | format_options(self.state, fields.response_format)
        sampling = constrained(self.state, session, prompt, sampling)
        options = options_of(session.tokenizer, fields, sampling)
        request = make_request(
            session, prompt.tokens, fields, options, max_tokens=-1 if limit is None else limit, stop=prompt.stop,
            shown=prompt.shown, logprobs=fields.top_logprobs if fields.logprobs else None,
        )  # fmt: skip
        return ChatAnswer(session, name, fields, request, AnswerReader(prompt, fields.n), asked.ignored)


class ChatAnswer(Writer):
    """Writes the answers to one request."""

    def __init__(
        self,
        session: Session,
        model: str,
        fields: ChatBody,
        request: Request,
        reader: AnswerReader,
        ignored: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.session, self.fields, self.request, self.ignored = session, fields, request, ignored
        self.requests, self.readers = [request], [reader]
        self.head: dict[str, Any] = {
            "id": new_id("chatcmpl-"), "object": "chat.completion", "created": int(time.time()), "model": model,
            "system_fingerprint": fingerprint(session, llamakit.__version__),
        }  # fmt: skip
        self._done: list[Done] = []
        self._begun = False
        self._before, self._after = b"", b""  # around the text of a chunk that holds nothing else

    # -- whole ---------------------------------------------------------------------------------------------------

    def whole(self, parts: list[list[Part]]) -> dict[str, Any]:
        """The answer to wait for."""
        answers = gather(parts[0])
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
            message |= self._calls([call_value(call) for call in answer.calls])
        return {
            "index": answer.done.choice, "message": message, "logprobs": self._logprobs(answer.pieces, whole=True),
            "finish_reason": self._reason(answer.done),
        }  # fmt: skip

    def _calls(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """Calls as OpenAI writes them: in the first form, where it was asked in it, one function."""
        if self.fields.functions is None:
            return {"tool_calls": calls}
        return {"function_call": calls[0]["function"]} if calls[0].get("index", 0) == 0 else {}

    def _reason(self, done: Done) -> str:
        reason = finish_reason(done.result, called=done.called)
        return "function_call" if reason == "tool_calls" and self.fields.functions is not None else reason

    def _logprobs(self, pieces: Any, *, whole: bool = False) -> dict[str, Any] | None:
        """Those of some tokens; of a `whole` answer they may be many megabytes."""
        if not self.fields.logprobs:
            return None
        tokens = chat_logprobs(self.session.tokenizer, pieces)
        return {"content": LongJson.array(tokens) if whole else list(map(msgspec.Raw, tokens)), "refusal": None}

    # -- in chunks -----------------------------------------------------------------------------------------------

    def start(self) -> bytes:
        """Nothing; from here on there are chunks."""
        self.head["object"] = "chat.completion.chunk"
        self._before, self._after = self._frame()
        return b""

    def event(self, number: int, part: Part) -> bytes:
        """A chunk or more."""
        if isinstance(part, (Queued, PromptProgress)):
            return b"" if self._begun else event({**self.head, "choices": [], **progress_value(part)})
        data = b""
        if not self._begun:
            self._begun, data = True, self._roles()
        if self._before and type(part) is Delta and part.content and not (part.reasoning or part.calls):
            return data + self._before + encode_text(part.content) + self._after
        return data + self._part(part)

    def end(self) -> bytes:
        """OpenAI's mark."""
        return END

    def _frame(self) -> tuple[bytes, bytes]:
        """What is around the text of a chunk: made once, since there are many."""
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
            calls = self._calls([call_delta(call) for call in part.calls])
            data += self._delta(part.choice, calls, self._logprobs(pieces))
            pieces = ()
        if part.content or (pieces and self.fields.logprobs):
            data += self._delta(part.choice, {"content": part.content}, self._logprobs(pieces))
        return data

    def _end(self, done: Done) -> bytes:
        self._done.append(done)
        last = len(self._done) == self.request.n
        more = extensions_of(self.request, done.result, self.ignored) if last else {}
        reason = self._reason(done)
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


def error_event(error: LlamaKitError) -> bytes:
    """The last event of a stream that an error ended."""
    return event(body_of(error))


def _check_together(fields: ChatBody) -> None:
    """What no field shows alone."""
    if fields.top_logprobs and not fields.logprobs:
        raise UsageError("top_logprobs needs logprobs to be true", param="top_logprobs")
    if fields.best_of is not None and fields.best_of < fields.n:
        raise wrong("best_of", fields.best_of, f"{fields.n} (n) or more")
