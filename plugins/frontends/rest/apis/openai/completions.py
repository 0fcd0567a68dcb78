"""`POST /v1/completions`: texts or tokens continued, several prompts at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from llamakit.plugins.frontends.rest.answer import AnswerReader, Delta, Done, gather
from llamakit.plugins.frontends.rest.apis.openai.fields import Generate, Limit, make_request, options_of
from llamakit.plugins.frontends.rest.apis.openai.format import TextLogprobs, fingerprint, usage_of
from llamakit.plugins.frontends.rest.body import read, wrong
from llamakit.plugins.frontends.rest.constrain import check_constraints, format_options
from llamakit.plugins.frontends.rest.dialect import Asked, Dialect, Writer
from llamakit.plugins.frontends.rest.fields import settings_of
from llamakit.plugins.frontends.rest.format import extensions_of, finish_reason, new_id, progress_value
from llamakit.plugins.frontends.rest.long_json import LongJson
from llamakit.plugins.frontends.rest.prompts import checked_ids, prompt_tokens, room_for_prompt
from llamakit.plugins.frontends.rest.sse import event
from msgspec import Meta

import llamakit
from llamakit.engine.job import PromptProgress, Queued
from llamakit.errors import UsageError
from llamakit.tokenizer.infill import infill_tokens, inner_tokens

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.answer import Part, Whole

    from llamakit.engine.request import Request, Result
    from llamakit.session import Session

END = b"data: [DONE]\n\n"
MOST_PROMPTS = 1024
TOP = 100  # OpenAI has 5

Prompts = str | list[str | int | list[int]]


class CompletionsBody(Generate, frozen=True, kw_only=True):
    """What `POST /v1/completions` takes, beside the options of every sampler."""

    prompt: Annotated[Prompts, Meta(description="A text, token ids, or several of either.")] = ""
    max_tokens: Limit = 16
    echo: Annotated[bool, Meta(description="Give the prompt too, and with logprobs its tokens'.")] = False
    logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=TOP)] | bool | None,
        Meta(description="Logarithms of probabilities, of so many likeliest tokens."),
    ] = None
    suffix: Annotated[str, Meta(description="The text after the answer, for models that fill gaps.")] | None = None
    response_format: Annotated[dict[str, Any], Meta(description="text, json_object or json_schema.")] | None = None

    @property
    def top(self) -> int | None:
        """So many likeliest tokens; None for no log-probabilities."""
        return int(self.logprobs) if self.logprobs is not None and self.logprobs is not False else None


class Completions(Dialect):
    """Continues prompts."""

    api = "openai"

    def parse(self, req: falcon.Request) -> Asked:
        """The body."""
        body = read(req, CompletionsBody, self.state, rewrite=check_constraints(self.state))
        fields = body.fields
        _check_together(fields)
        return Asked(fields=fields, body=body, model=fields.model, stream=fields.stream, ignored=body.ignored)

    def begin(self, session: Session, asked: Asked, name: str) -> Answer:
        """A request for each prompt."""
        fields: CompletionsBody = asked.fields
        sampling = settings_of(self.state, asked.body.sampling) | format_options(self.state, fields.response_format)
        options = options_of(session.tokenizer, fields, sampling)
        requests = [
            make_request(
                session, tokens, fields, options, max_tokens=fields.max_tokens, logprobs=fields.top,
                prompt_logprobs=fields.top if fields.echo else None,
            )
            for tokens in token_lists(session, fields)
        ]  # fmt: skip
        return Answer(session, name, fields, requests, asked.ignored)


def token_lists(session: Session, fields: CompletionsBody) -> list[list[int]]:
    """The tokens of every prompt. Texts get a beginning token where the model wants one, token ids pass as they are."""
    tokenizer, given = session.tokenizer, fields.prompt
    single = isinstance(given, str) or (bool(given) and all(type(item) is int for item in given))
    prompts: list[Any] = [given] if single else list(given)
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise UsageError(f"prompt holds {len(prompts)} prompts", hint=f"possible: 1..{MOST_PROMPTS}", param="prompt")
    suffix = inner_tokens(tokenizer, fields.suffix) if fields.suffix else None  # once for all prompts
    found = []
    for number, prompt in enumerate(prompts):
        place = "prompt" if single else f"prompt[{number}]"
        if isinstance(prompt, int):
            raise UsageError(
                "prompt mixes token ids with other prompts", hint="arrays of ids, or texts", param="prompt"
            )
        if suffix is not None:
            found.append(_filled(session, prompt, suffix, fields.max_tokens))
        elif isinstance(prompt, str):
            found.append(prompt_tokens(tokenizer, prompt, param=place))
        elif prompt:
            found.append(checked_ids(tokenizer, prompt, place, "prompt"))
        else:
            raise UsageError(f"{place} is an empty array", hint="at least one token", param="prompt")
    return found


def _filled(session: Session, prompt: Any, suffix: list[int], max_tokens: int) -> list[int]:
    """The prompt whose continuation stands between a text and the tokens of the suffix."""
    if not isinstance(prompt, str):
        raise UsageError("suffix needs a prompt that is a text", param="suffix")
    try:
        limit = room_for_prompt(session.n_ctx, max_tokens)
        return infill_tokens(session.tokenizer, prompt, suffix, limit=limit).tokens
    except UsageError as error:
        error.param = "suffix"
        raise


class Answer(Writer):
    """Writes the answers to one request: `n` for each prompt, one after another."""

    def __init__(
        self, session: Session, model: str, fields: CompletionsBody, requests: list[Request], ignored: tuple[str, ...]
    ) -> None:
        self.tokenizer, self.fields, self.requests, self.ignored = session.tokenizer, fields, requests, ignored
        self.head: dict[str, Any] = {
            "id": new_id("cmpl-"), "object": "text_completion", "created": int(time.time()), "model": model,
            "system_fingerprint": fingerprint(session, llamakit.__version__),
        }  # fmt: skip
        self.readers = [AnswerReader(None, fields.n) for _ in requests]
        self.n_prompt = sum(len(request.prompt) for request in requests)
        self.echoes = [self._echo(i) for i in range(len(requests))] if fields.echo else []
        self.logprobs = [TextLogprobs(self.tokenizer) for _ in range(fields.n * len(requests))]
        self._echoed: set[int] = set()
        self._done: list[Done] = []

    # -- whole ---------------------------------------------------------------------------------------------------

    def whole(self, parts: list[list[Part]]) -> dict[str, Any]:
        """The answer to wait for."""
        answers = [gather(each) for each in parts]
        ends = [answer.done for each in answers for answer in each]
        return {
            **self.head,
            "choices": [self._whole(i, answer) for i, each in enumerate(answers) for answer in each],
            "usage": usage_of(self.n_prompt, ends),
            **extensions_of(self.requests[-1], ends[-1].result, self.ignored),
        }

    def _whole(self, number: int, answer: Whole) -> dict[str, Any]:
        index = number * self.fields.n + answer.done.choice
        text, tokens = answer.content, list[Any](answer.pieces)
        if self.fields.echo:
            text, tokens = self.echoes[number] + text, [*self._prompt_tokens(number, answer.result), *tokens]
        logprobs = None if self.fields.top is None else self.logprobs[index].of(tokens, text)
        if logprobs is not None:
            logprobs["top_logprobs"] = LongJson.array(
                b"null" if each is None else bytes(each) for each in logprobs["top_logprobs"]
            )
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason(answer.result)}

    # -- in chunks -----------------------------------------------------------------------------------------------

    def event(self, number: int, part: Part) -> bytes:
        """A chunk or more."""
        if isinstance(part, (Queued, PromptProgress)):
            return event({**self.head, "choices": [], **progress_value(part)})
        index = number * self.fields.n + part.choice
        if isinstance(part, Delta):
            if self.fields.echo and self.fields.top is None:
                return self._echo_first(number, index) + self._chunk(index, part.content)
            if self.fields.echo:  # the prompt's log-probabilities come with the end
                raise AssertionError
            return self._chunk(index, part.content, self._logprobs(index, part.pieces, part.content))
        return self._end(number, index, part)

    def end(self) -> bytes:
        """OpenAI's mark."""
        return END

    def _end(self, number: int, index: int, done: Done) -> bytes:
        self._done.append(done)
        last = len(self._done) == len(self.logprobs)
        more = extensions_of(self.requests[number], done.result, self.ignored) if last else {}
        data = self._echo_first(number, index) if self.fields.echo else b""
        reason = finish_reason(done.result)
        if not self.fields.include_usage:
            return data + self._chunk(index, "", reason=reason, **more)
        data += self._chunk(index, "", reason=reason)
        if last:
            data += event({**self.head, "choices": [], "usage": usage_of(self.n_prompt, self._done), **more})
        return data

    def _chunk(self, index: int, text: str, logprobs: Any = None, reason: Any = None, **more: Any) -> bytes:
        choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
        return event({**self.head, "choices": [choice], **more})

    def _echo_first(self, number: int, index: int) -> bytes:
        """The prompt's text, before the first of each answer."""
        if index in self._echoed:
            return b""
        self._echoed.add(index)
        return self._chunk(index, self.echoes[number])

    def _logprobs(self, index: int, tokens: Any, text: str) -> dict[str, Any] | None:
        return None if self.fields.top is None else self.logprobs[index].of(tokens, text)

    def _echo(self, number: int) -> str:
        """The prompt as text: as it was given, or its tokens' text."""
        given = self.fields.prompt
        if isinstance(given, str):
            return given
        each = given[number] if not isinstance(given[0], int) else None
        return each if isinstance(each, str) else self.tokenizer.decode(self.requests[number].prompt, special=True)

    def _prompt_tokens(self, number: int, result: Result) -> list[Any]:
        """The prompt's tokens with their log-probabilities, but for a beginning token that was not in its text."""
        text, bos = self.echoes[number], self.tokenizer.bos_id
        given = self.fields.prompt
        ids = not isinstance(given, str) and not isinstance(given[number if not isinstance(given[0], int) else 0], str)
        tokens = list(result.prompt)
        if ids or bos is None or not tokens or tokens[0].token_id != bos:
            return tokens
        return tokens if text.startswith(self.tokenizer.token_text(bos)) else tokens[1:]


def _check_together(fields: CompletionsBody) -> None:
    """What no field shows alone."""
    if fields.best_of is not None and fields.best_of < fields.n:
        raise wrong("best_of", fields.best_of, f"{fields.n} (n) or more")
    if fields.echo and fields.suffix:
        raise UsageError("echo and suffix are both given", hint="one of them", param="echo")
    if fields.echo and fields.stream and fields.top is not None:
        raise UsageError(
            "echo with logprobs cannot be streamed", hint="stream false", param="logprobs"
        )  # fmt: skip
