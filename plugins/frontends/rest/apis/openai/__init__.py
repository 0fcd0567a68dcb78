"""OpenAI's API. Its routes without `/v1` are those of the 2023 shim, whose settings (`--chat-prompt`, ...) are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.frontends.rest.apis.openai.chat import ChatBody, ChatCompletions
from llamakit.plugins.frontends.rest.apis.openai.completions import Completions, CompletionsBody
from llamakit.plugins.frontends.rest.apis.openai.embeddings import Embeddings, EmbeddingsBody
from llamakit.plugins.frontends.rest.apis.openai.models import Model, Models
from llamakit.plugins.frontends.rest.dialect import input_tokens
from llamakit.plugins.frontends.rest.route import Operation, Route

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.state import ServerState

TAG = "openai"


def routes(state: ServerState) -> list[Route]:
    """The routes of OpenAI's API."""
    chat, completions, embeddings = ChatCompletions(state), Completions(state), Embeddings(state)
    talk = Operation(summary="Answer a conversation", tag=TAG, body=ChatBody, sampling=True, stream=True)
    complete = Operation(summary="Complete prompts", tag=TAG, body=CompletionsBody, sampling=True, stream=True)
    embed = Operation(summary="Vectors for texts", tag=TAG, body=EmbeddingsBody)
    return [
        Route(path="/v1/chat/completions", resource=chat, operations={"POST": talk}),
        Route(path="/chat/completions", resource=chat, operations={"POST": talk}),
        input_tokens("/v1/chat/completions/input_tokens", chat, TAG, ChatBody),
        Route(path="/v1/completions", resource=completions, operations={"POST": complete}),
        input_tokens("/v1/completions/input_tokens", completions, TAG, CompletionsBody),
        Route(path="/completions", resource=completions, operations={"POST": complete}),
        Route(path="/v1/embeddings", resource=embeddings, operations={"POST": embed}),
        Route(
            path="/v1/models", resource=Models(state),
            operations={"GET": Operation(summary="All models", tag=TAG)},
        ),
        Route(
            path="/v1/models/{id:path}", resource=Model(state),
            operations={"GET": Operation(summary="One model", tag=TAG)},
        ),
    ]  # fmt: skip
