"""`POST /v1/responses`: OpenAI's newer API. Nothing is stored: the whole conversation comes with each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.frontends.rest.answer import AnswerReader
from llamakit.plugins.frontends.rest.apis.responses.answer import ResponseAnswer, error_event
from llamakit.plugins.frontends.rest.apis.responses.fields import ResponsesBody, conversation, skipped
from llamakit.plugins.frontends.rest.body import read
from llamakit.plugins.frontends.rest.chat import make_prompt
from llamakit.plugins.frontends.rest.constrain import check_constraints, constrained, format_options
from llamakit.plugins.frontends.rest.dialect import Asked, Dialect, input_tokens
from llamakit.plugins.frontends.rest.fields import extended, settings_of
from llamakit.plugins.frontends.rest.route import Operation, Route

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.errors import LlamaKitError
    from llamakit.session import Session


def routes(state: ServerState) -> list[Route]:
    """The route, with and without `/v1`."""
    responses = Responses(state)
    operation = Operation(
        summary="Answer a conversation", tag="openai", body=ResponsesBody, sampling=True, stream=True
    )  # fmt: skip
    return [input_tokens("/v1/responses/input_tokens", responses, "openai", ResponsesBody)] + [
        Route(path=path, resource=responses, operations={"POST": operation}) for path in ("/v1/responses", "/responses")
    ]


class Responses(Dialect):
    """Answers conversations."""

    api = "openai"

    def parse(self, req: falcon.Request) -> Asked:
        """The body."""
        body = read(req, ResponsesBody, self.state, rewrite=check_constraints(self.state))
        fields = body.fields
        return Asked(
            fields=fields,
            body=body,
            model=fields.model,
            stream=fields.stream,
            ignored=(*body.ignored, *skipped(fields)),
        )

    def begin(self, session: Session, asked: Asked, name: str) -> ResponseAnswer:
        """The prompt of the conversation, and its answer."""
        fields: ResponsesBody = asked.fields
        prompt = make_prompt(self.state, session, conversation(fields))
        options = settings_of(self.state, asked.body.sampling)
        if fields.text is not None:
            options |= format_options(self.state, fields.text.format, "text")
        request = extended(
            session, prompt.tokens, fields, max_tokens=fields.max_output_tokens or -1, seed=fields.seed,
            stop=prompt.stop, shown=prompt.shown, **constrained(self.state, session, prompt, options),
        )  # fmt: skip
        return ResponseAnswer(name, fields, request, AnswerReader(prompt, 1), asked.ignored)

    def error(self, error: LlamaKitError) -> bytes:
        """The event `error`."""
        return error_event(error)
