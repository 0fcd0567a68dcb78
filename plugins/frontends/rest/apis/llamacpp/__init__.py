"""The API of the 2023 server, and what llama.cpp's has gained since: see docs/rest-2023.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.frontends.rest.apis.llamacpp.completion import Completion
from llamakit.plugins.frontends.rest.apis.llamacpp.embedding import Embedding, EmbeddingBody
from llamakit.plugins.frontends.rest.apis.llamacpp.fields import DEFAULTS, CompletionBody
from llamakit.plugins.frontends.rest.apis.llamacpp.infill import InfillBody, InfillCompletion
from llamakit.plugins.frontends.rest.apis.llamacpp.props import Changed, Props, PropsBody, PropsInfo
from llamakit.plugins.frontends.rest.apis.llamacpp.shapes import (
    Completions,
    Embeddings,
    ModelQuery,
    PromptAnswer,
    SettingsAnswer,
    TextAnswer,
    TokensAnswer,
)
from llamakit.plugins.frontends.rest.apis.llamacpp.slots import SlotAction, SlotAnswer, SlotBody, SlotQuery
from llamakit.plugins.frontends.rest.apis.llamacpp.text import (
    ApplyTemplate,
    Detokenize,
    DetokenizeBody,
    ModelJson,
    TemplateBody,
    Tokenize,
    TokenizeBody,
)
from llamakit.plugins.frontends.rest.dialect import input_tokens
from llamakit.plugins.frontends.rest.route import Operation, Route

if TYPE_CHECKING:
    from typing import Any

    from llamakit.plugins.frontends.rest.state import ServerState

TAG = "llamacpp"
PROPS = "While the model loads, 503 as for `/health`. A model that is not loaded is described from its file."
SLOTS = (
    "With `--slot-save-path DIR`; else status 501. A slot is the text of the last request with this `id_slot`, or of"
    " one that took it by itself. What was evaluated of it is written to a file in that folder, or read from one, so"
    " that requests which begin with it need not evaluate it again."
)


def routes(state: ServerState) -> list[Route]:
    """The routes of llama.cpp's API."""
    completion, embedding = Completion(state), Embedding(state)
    complete = Operation(
        summary="Complete a prompt", tag=TAG, body=CompletionBody, response=Completions, sampling=True,
        defaults=DEFAULTS, stream=True,
        description="With `stream`, server-sent events; the last one has `stop` true and all fields.",
    )  # fmt: skip
    embed = Operation(summary="A vector for a text", tag=TAG, body=EmbeddingBody, response=Embeddings)
    infill = Operation(
        summary="Fill a gap in a text",
        tag=TAG,
        body=InfillBody,
        response=Completions,
        sampling=True,
        defaults=DEFAULTS,
        stream=True,
    )
    tokenize = Operation(summary="Text to tokens", tag=TAG, body=TokenizeBody, response=TokensAnswer)
    detokenize = Operation(summary="Tokens to text", tag=TAG, body=DetokenizeBody, response=TextAnswer)
    template = Operation(summary="Messages to a prompt", tag=TAG, body=TemplateBody, response=PromptAnswer)
    settings = Operation(
        summary="Settings of a request without any", tag=TAG, response=SettingsAnswer, query=ModelQuery
    )
    props = Operation(
        summary="What the server is and can do", tag=TAG, response=PropsInfo, query=ModelQuery, description=PROPS
    )  # fmt: skip
    change = Operation(
        summary="Change what requests get that say nothing", tag=TAG, body=PropsBody, response=Changed, sampling=True,
        description="Until the server ends. With `--props`; else status 501.", example={"temperature": 0.8},
    )  # fmt: skip
    slots = Operation(
        summary="Save, restore or erase the text of a slot", tag=TAG, body=SlotBody, response=SlotAnswer,
        query=SlotQuery, description=SLOTS,
    )  # fmt: skip
    return [
        _post("/completion", completion, complete),
        input_tokens("/completion/input_tokens", completion, TAG, CompletionBody),
        _post("/infill", InfillCompletion(state), infill),
        _post("/tokenize", Tokenize(state), tokenize),
        _post("/detokenize", Detokenize(state), detokenize),
        _post("/embedding", embedding, embed),
        _post("/embeddings", embedding, embed),
        _post("/apply-template", ApplyTemplate(state), template),
        Route(path="/props", resource=Props(state), operations={"GET": props, "POST": change}, changes=True),
        Route(path="/slots/{id}", resource=SlotAction(state), operations={"POST": slots}, changes=True),
        Route(path="/model.json", resource=ModelJson(state), operations={"GET": settings}),
    ]


def _post(path: str, resource: Any, operation: Operation) -> Route:
    return Route(path=path, resource=resource, operations={"POST": operation})
