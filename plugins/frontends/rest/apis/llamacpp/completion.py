"""`POST /completion`: the 2023 server's answers, whole or as server-sent events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.rest.apis.llamacpp.answer import (
    Answers,
    generation_settings,
    settings_today,
    sorted_event,
)
from llamakit.plugins.frontends.rest.apis.llamacpp.fields import (
    CompletionBody,
    is_newer,
    make_requests,
    sampling_of,
    spellings_of_2023,
)
from llamakit.plugins.frontends.rest.body import read
from llamakit.plugins.frontends.rest.dialect import Asked, Dialect
from llamakit.plugins.frontends.rest.errors import body_of

from llamakit.errors import UsageError

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.body import Body

    from llamakit.engine.request import Request
    from llamakit.errors import LlamaKitError
    from llamakit.session import Session


class Completion(Dialect):
    """`POST /completion`."""

    api = "llamacpp"
    fields_class: type[CompletionBody] = CompletionBody

    def parse(self, req: falcon.Request) -> Asked:
        """The body."""
        body = read(req, self.fields_class, self.state, rewrite=spellings_of_2023(self.state))
        fields = body.fields
        check_together(fields)
        return Asked(
            fields=fields, body=body, model=fields.model, stream=fields.stream, progress=fields.return_progress,
            ignored=body.ignored,
        )  # fmt: skip

    def begin(self, session: Session, asked: Asked, name: str) -> Answers:
        """The prompt, and its answer."""
        sampling = sampling_of(self.state, asked.body)
        made, n_dropped = self.made(session, asked.body, sampling)
        settings = generation_settings(self.state.registry, session.n_ctx, name, asked.fields, sampling, made[0])
        newer, given = is_newer(asked.body), asked.body.given
        settings = settings_today(settings) if newer else settings
        return Answers(
            session, name, asked.fields, made, settings, n_dropped, asked.ignored, newer=newer,
            probs_today="post_sampling_probs" in given,
        )  # fmt: skip

    def made(self, session: Session, body: Body[Any], sampling: dict[str, object]) -> tuple[list[Request], int]:
        """The engine's requests, and how many tokens of the texts are not in them."""
        return make_requests(session, body, sampling), 0

    def error(self, error: LlamaKitError) -> bytes:
        """An event with keys in alphabetical order."""
        return sorted_event(body_of(error))

    def loading(self, progress: float) -> bytes:
        """An event of its own."""
        return sorted_event({"loading": {"progress": progress}})


def check_together(fields: CompletionBody) -> None:
    """What no field shows alone."""
    if fields.best_of > 1 and fields.best_of < fields.n:
        raise UsageError(f"best_of is {fields.best_of}, below n, {fields.n}", param="best_of")
    if fields.n_beams > 1 and fields.n_probs:
        raise UsageError(
            "n_probs needs n_beams to be 1: a search has no probabilities of single draws", param="n_probs"
        )
