"""Anthropic's API: `/v1/messages` and the counting of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.answer import AnswerReader
from llamakit.plugins.frontends.rest.apis.anthropic_answer import MessageAnswer, error_body, error_event
from llamakit.plugins.frontends.rest.apis.anthropic_fields import CountBody, MessagesBody, conversation, output_options
from llamakit.plugins.frontends.rest.apis.native_fields import stop_texts
from llamakit.plugins.frontends.rest.apis.openai_fields import check_constraints, extended, settings_of
from llamakit.plugins.frontends.rest.body import read, tell_ignored
from llamakit.plugins.frontends.rest.chat import make_prompt
from llamakit.plugins.frontends.rest.constrain import constrained
from llamakit.plugins.frontends.rest.generation import held, start
from llamakit.plugins.frontends.rest.route import Operation, Route
from llamakit.plugins.frontends.rest.sse import stream

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.body import Body
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.job import Job
    from llamakit.errors import LlamaKitError
    from llamakit.session import Session

TAG = "anthropic"


def routes(state: ServerState) -> list[Route]:
    """The routes of Anthropic's API."""
    return [
        Route(
            path="/v1/messages", resource=Messages(state),
            operations={"POST": Operation(
                summary="Answer a conversation", tag=TAG, body=MessagesBody, sampling=True, stream=True
            )},
        ),
        Route(
            path="/v1/messages/count_tokens", resource=CountTokens(state),
            operations={"POST": Operation(summary="Count the tokens of a conversation", tag=TAG, body=CountBody)},
        ),
    ]  # fmt: skip


class Resource:
    """Errors in Anthropic's shape."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def error_body(self, error: LlamaKitError) -> dict[str, Any]:
        """What the body of an error is here."""
        return error_body(error)


class Messages(Resource):
    """Answers conversations."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A whole message, or with `stream` its events."""
        body = read(req, MessagesBody, self.state, rewrite=check_constraints(self.state))
        tell_ignored(resp, body.ignored)
        name = self.state.pool.resolve(body.fields.model)
        with held(self.state, req, name) as session:
            answer, job = self._start(req, session, body, name)
            if body.fields.stream:
                stream(req, resp, lambda: answer.events(job), error_event)
            else:
                resp.content_type = "application/json"
                resp.data = msgspec.json.encode(answer.whole(job))

    def _start(
        self, req: falcon.Request, session: Session, body: Body[MessagesBody], name: str
    ) -> tuple[MessageAnswer, Job]:
        fields = body.fields
        prompt = make_prompt(self.state, session, conversation(fields))
        options = settings_of(self.state, body.sampling) | output_options(self.state, fields)
        request = extended(
            session, prompt.tokens, fields, max_tokens=fields.max_tokens, seed=fields.seed,
            stop=(*stop_texts(list(fields.stop_sequences)), *prompt.stop), shown=prompt.shown,
            **constrained(self.state, session, prompt, options),
        )  # fmt: skip
        answer = MessageAnswer(fields.model or name, request, AnswerReader(prompt, 1), body.ignored)
        return answer, start(self.state, session, request, req, api="anthropic")


class CountTokens(Resource):
    """Counts what a conversation would have."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """`{"input_tokens": n}`."""
        body = read(req, CountBody, self.state, sampling=False)
        tell_ignored(resp, body.ignored)
        with held(self.state, req, body.fields.model) as session:
            prompt = make_prompt(self.state, session, conversation(body.fields))
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode({"input_tokens": len(prompt.tokens)})
