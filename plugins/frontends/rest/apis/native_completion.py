"""`POST /completion`: the 2023 server's answers, whole or as server-sent events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.rest.apis.native_answer import Answers, encode, generation_settings, visible
from llamakit.plugins.frontends.rest.apis.native_fields import (
    CompletionBody,
    make_request,
    sampling_of,
    spellings_of_2023,
)
from llamakit.plugins.frontends.rest.apis.native_stream import CompletionEvents, error_event, event
from llamakit.plugins.frontends.rest.body import read, tell_ignored
from llamakit.plugins.frontends.rest.generation import batches, held, start
from llamakit.plugins.frontends.rest.loading import load
from llamakit.plugins.frontends.rest.sse import stream

from llamakit.engine.job import Finished, Token
from llamakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import falcon
    from llamakit.plugins.frontends.rest.body import Body
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.job import Job
    from llamakit.engine.request import Piece, Request
    from llamakit.session import Session


class Completion:
    """`POST /completion`."""

    body: type[CompletionBody] = CompletionBody

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer a prompt."""
        body = read(req, self.body, self.state, rewrite=spellings_of_2023(self.state))
        check_together(body.fields)
        tell_ignored(resp, body.ignored)
        name = self.state.pool.resolve(body.fields.model)
        if body.fields.stream and body.fields.return_progress and self.state.pool.loaded(name) is None:
            stream(req, resp, lambda: self._after_loading(req, body, name), error_event)
            return
        with held(self.state, req, name) as session:
            answers, job = self._start(req, session, body, name)
            if body.fields.stream:
                stream(req, resp, lambda: CompletionEvents(answers).run(job), error_event)
            else:
                resp.content_type = "application/json"
                resp.data = encode(whole(answers, job))

    def request(self, session: Session, body: Body[Any], sampling: dict[str, object]) -> tuple[Request, int]:
        """The engine's request, and how many tokens of the texts are not in it."""
        return make_request(session, body, sampling), 0

    def _start(self, req: falcon.Request, session: Session, body: Body[Any], name: str) -> tuple[Answers, Job]:
        state, sampling = self.state, sampling_of(self.state, body)
        request, n_dropped = self.request(session, body, sampling)
        settings = generation_settings(state.registry, session.n_ctx, name, body.fields, sampling, request)
        answers = Answers(session, name, body.fields, request, settings, n_dropped, body.ignored)
        return answers, start(state, session, request, req)

    def _after_loading(self, req: falcon.Request, body: Body[Any], name: str) -> Iterator[bytes]:
        """The events of a stream whose model is not loaded yet: how far that is, then the answer."""
        for progress in load(self.state, name):
            yield event({"loading": {"progress": progress}})
        with held(self.state, req, name) as session:
            answers, job = self._start(req, session, body, name)
            yield from CompletionEvents(answers).run(job)


def check_together(fields: CompletionBody) -> None:
    """What no field shows alone."""
    if fields.best_of > 1 and fields.best_of < fields.n:
        raise UsageError(f"best_of is {fields.best_of}, below n, {fields.n}", param="best_of")
    if fields.n_beams > 1 and fields.n_probs:
        raise UsageError(
            "n_probs needs n_beams to be 1: a search has no probabilities of single draws", param="n_probs"
        )


def whole(answers: Answers, job: Job) -> Any:
    """The answer to wait for; a list of them where `n` asks for several."""
    pieces: list[list[Piece]] = [[] for _ in range(answers.request.n)]
    keep = bool(answers.fields.n_probs)
    found: dict[int, dict[str, Any]] = {}
    for batch in batches(job):
        for item in batch:
            if type(item) is Token:
                if keep:
                    pieces[item.choice].append(item.piece)
            elif type(item) is Finished and item.result.error is None:
                result = item.result
                tokens = visible(pieces[item.choice] or result.pieces, result)
                found[item.choice] = answers.last(result, result.text, tokens)
    return [found[choice] for choice in sorted(found)] if answers.several else found[0]
