"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from llamakit.plugins.frontends.rest.body import in_turn, read, tell_ignored
from llamakit.plugins.frontends.rest.embedding import (
    check_dimensions,
    client_gone,
    embed,
    json_of,
    pooling_of,
    text_tokens,
)
from llamakit.plugins.frontends.rest.fields import LoraChoice, Name, adapters
from llamakit.plugins.frontends.rest.long_json import LongJson, send
from llamakit.plugins.frontends.rest.memory import PER_NUMBER, hold
from msgspec import Meta

from llamakit.engine.request import Embed

if TYPE_CHECKING:
    import falcon
    import numpy as np
    import numpy.typing as npt
    from llamakit.plugins.frontends.rest.state import ServerState


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /v1/embeddings` takes."""

    input: Annotated[str | list[str | int | list[int]], Meta(description="A text, token ids, or several of either.")]
    model: Name = ""
    encoding_format: Annotated[Literal["float", "base64"], Meta(description="Numbers, or float32 in base64.")] = "float"
    dimensions: Annotated[int, Meta(ge=1, description="The model's own number of them.")] | None = None
    user: Annotated[str, Meta(description="Without effect.")] = ""
    pooling: (
        Annotated[
            Literal["mean", "last", "cls"],
            Meta(description="Which vector of a text; unset = the model's, or the mean where its file names none."),
        ]
        | None
    ) = None
    normalize: Annotated[bool, Meta(description="Make vectors of length 1.")] = True
    lora: (
        Annotated[list[LoraChoice], Meta(max_length=32, description="Adapters for this request; others are off.")]
        | None
    ) = None


class Embeddings:
    """Texts to vectors."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A list of vectors, in order."""
        body = read(req, EmbeddingsBody, self.state, sampling=False)
        fields = body.fields
        tell_ignored(resp, body.ignored)
        name = self.state.pool.resolve(fields.model)
        with self.state.pool.lease(name) as session:
            check_dimensions(session, fields.dimensions)
            with in_turn(req):
                prompts = text_tokens(session.tokenizer, fields.input, gone=client_gone(req))
            texts = Embed(
                prompts=prompts,
                pooling=pooling_of(self.state, session, fields.pooling),
                normalize=fields.normalize,
                adapters=adapters(session, fields.lora),
            )  # fmt: skip
            hold(req, len(texts.prompts) * session.model.hparams.n_embd * PER_NUMBER)
            vectors = embed(req, session, texts)
        data = (
            b'{"object":"embedding","index":%d,"embedding":%b}' % (i, _encoded(vector, fields.encoding_format))
            for i, vector in enumerate(vectors.values)
        )
        usage = {"prompt_tokens": vectors.n_tokens, "total_tokens": vectors.n_tokens}
        send(resp, {"object": "list", "data": LongJson.array(data), "model": name, "usage": usage})


def _encoded(vector: npt.NDArray[np.float32], form: str) -> bytes:
    if form == "base64":
        return b'"%b"' % base64.b64encode(vector.astype("<f4").tobytes())
    return json_of(vector)
