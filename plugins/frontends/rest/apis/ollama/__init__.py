"""Ollama's API, as far as it is not about downloading and making models.

Where it differs from Ollama's own: a prompt that is too long is an error unless `truncate` is set, the context shifts
only with `shift`, and `template` and `num_ctx` have no effect (the header `X-Ignored-Fields` names them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.frontends.rest.apis.ollama.answer import NDJSON
from llamakit.plugins.frontends.rest.apis.ollama.embed import EmbedBody, EmbeddingBody, EmbedPrompt, EmbedTexts
from llamakit.plugins.frontends.rest.apis.ollama.fields import ChatBody, GenerateBody
from llamakit.plugins.frontends.rest.apis.ollama.generate import Chat, Generate, Resource
from llamakit.plugins.frontends.rest.apis.ollama.models import Running, Show, ShowBody, Tags
from llamakit.plugins.frontends.rest.dialect import input_tokens
from llamakit.plugins.frontends.rest.route import Operation, Route

import llamakit

if TYPE_CHECKING:
    from typing import Any

    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

TAG = "ollama"
OLLAMA = "0.12.0"  # whose API this is; clients refuse servers before 0.6.4


class Version(Resource):
    """Which server this is."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The version of Ollama whose API this is, and ours."""
        self.answer(resp, {"version": OLLAMA, "llamakit": llamakit.__version__})


def routes(state: ServerState) -> list[Route]:
    """The routes of Ollama's API."""
    generate, chat = Generate(state), Chat(state)
    return [
        input_tokens("/api/generate/input_tokens", generate, TAG, GenerateBody),
        input_tokens("/api/chat/input_tokens", chat, TAG, ChatBody),
        _route(
            "/api/generate",
            generate,
            "POST",
            "Answer a prompt",
            body=GenerateBody,
            stream=True,
            stream_media=NDJSON,
        ),
        _route("/api/chat", chat, "POST", "Answer a conversation", body=ChatBody, stream=True, stream_media=NDJSON),
        _route("/api/embed", EmbedTexts(state), "POST", "Vectors for texts", body=EmbedBody),
        _route("/api/embeddings", EmbedPrompt(state), "POST", "A vector for a text", body=EmbeddingBody),
        _route("/api/tags", Tags(state), "GET", "All models"),
        _route("/api/ps", Running(state), "GET", "Models that are loaded"),
        _route("/api/show", Show(state), "POST", "One model", body=ShowBody),
        _route("/api/version", Version(state), "GET", "The server's version"),
    ]


def _route(path: str, resource: Any, method: str, summary: str, **more: Any) -> Route:
    return Route(path=path, resource=resource, operations={method: Operation(summary=summary, tag=TAG, **more)})
