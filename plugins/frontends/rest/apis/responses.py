"""`POST /v1/responses`: OpenAI's newer API. Nothing is stored: the whole conversation comes with each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from llamakit.plugins.frontends.rest.answer import AnswerReader
from llamakit.plugins.frontends.rest.apis.openai_fields import (
    check_constraints,
    extended,
    format_options,
    settings_of,
)
from llamakit.plugins.frontends.rest.apis.responses_answer import ResponseAnswer, error_event
from llamakit.plugins.frontends.rest.apis.responses_fields import ResponsesBody, conversation
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
    from llamakit.session import Session


def routes(state: ServerState) -> list[Route]:
    """The route, with and without `/v1`."""
    responses = Responses(state)
    operation = Operation(
        summary="Answer a conversation", tag="openai", body=ResponsesBody, sampling=True, stream=True
    )  # fmt: skip
    return [
        Route(path=path, resource=responses, operations={"POST": operation}) for path in ("/v1/responses", "/responses")
    ]


class Responses:
    """Answers conversations."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A whole response, or with `stream` its events."""
        body = read(req, ResponsesBody, self.state, rewrite=check_constraints(self.state))
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
        self, req: falcon.Request, session: Session, body: Body[ResponsesBody], name: str
    ) -> tuple[ResponseAnswer, Job]:
        fields = body.fields
        prompt = make_prompt(self.state, session, conversation(fields))
        options = settings_of(self.state, body.sampling)
        if fields.text is not None:
            options |= format_options(self.state, fields.text.format, "text")
        request = extended(
            session, prompt.tokens, fields, max_tokens=fields.max_output_tokens or -1, seed=fields.seed,
            stop=prompt.stop, shown=prompt.shown, **constrained(self.state, session, prompt, options),
        )  # fmt: skip
        answer = ResponseAnswer(name, fields, request, AnswerReader(prompt, 1), body.ignored)
        return answer, start(self.state, session, request, req, api="openai")
