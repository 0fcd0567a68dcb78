"""Anthropic's API: `/v1/messages` and the counting of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.answer import AnswerReader
from llamakit.plugins.frontends.rest.apis.anthropic.answer import MessageAnswer, error_body, error_event
from llamakit.plugins.frontends.rest.apis.anthropic.fields import (
    CountBody,
    MessagesBody,
    conversation,
    output_options,
    skipped,
)
from llamakit.plugins.frontends.rest.body import in_turn, read, tell_ignored
from llamakit.plugins.frontends.rest.chat import make_prompt
from llamakit.plugins.frontends.rest.constrain import check_constraints, constrained
from llamakit.plugins.frontends.rest.dialect import Asked, Dialect
from llamakit.plugins.frontends.rest.fields import extended, settings_of, stop_texts
from llamakit.plugins.frontends.rest.route import Operation, Route

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

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


class Messages(Dialect):
    """Answers conversations."""

    api = TAG

    def parse(self, req: falcon.Request) -> Asked:
        """The body."""
        body = read(req, MessagesBody, self.state, rewrite=check_constraints(self.state))
        fields = body.fields
        return Asked(
            fields=fields,
            body=body,
            model=fields.model,
            stream=fields.stream,
            ignored=(*body.ignored, *skipped(fields)),
        )

    def begin(self, session: Session, asked: Asked, name: str) -> MessageAnswer:
        """The prompt of the conversation, and its answer."""
        fields: MessagesBody = asked.fields
        prompt = make_prompt(self.state, session, conversation(fields))
        options = settings_of(self.state, asked.body.sampling) | output_options(self.state, fields)
        request = extended(
            session, prompt.tokens, fields, max_tokens=fields.max_tokens, seed=fields.seed,
            stop=(*stop_texts(list(fields.stop_sequences)), *prompt.stop), shown=prompt.shown,
            **constrained(self.state, session, prompt, options),
        )  # fmt: skip
        return MessageAnswer(fields.model or name, request, AnswerReader(prompt, 1), asked.ignored)

    def error(self, error: LlamaKitError) -> bytes:
        """The event `error`."""
        return error_event(error)

    def error_body(self, error: LlamaKitError) -> dict[str, Any]:
        """What the body of an error is here."""
        return error_body(error)


class CountTokens:
    """Counts what a conversation would have."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def error_body(self, error: LlamaKitError) -> dict[str, Any]:
        """What the body of an error is here."""
        return error_body(error)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """`{"input_tokens": n}`."""
        body = read(req, CountBody, self.state, sampling=False)
        tell_ignored(resp, body.ignored)
        with self.state.pool.lease(body.fields.model) as session, in_turn(req):
            prompt = make_prompt(self.state, session, conversation(body.fields))
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode({"input_tokens": len(prompt.tokens)})
