"""`POST /api/embed`, and its older form `/api/embeddings`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.apis.ollama.generate import Resource
from llamakit.plugins.frontends.rest.body import in_turn, read, tell_ignored
from llamakit.plugins.frontends.rest.embedding import (
    check_dimensions,
    client_gone,
    embed,
    json_of,
    pooling_of,
    text_tokens,
)
from llamakit.plugins.frontends.rest.fields import Name
from llamakit.plugins.frontends.rest.long_json import LongJson, send
from llamakit.plugins.frontends.rest.memory import PER_NUMBER, hold
from msgspec import Meta

from llamakit.engine.request import Embed

if TYPE_CHECKING:
    import falcon


class EmbedBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /api/embed` takes."""

    model: Name = ""
    input: Annotated[str | list[str], Meta(description="A text, or several.")] = []
    truncate: Annotated[bool, Meta(description="Cut the end of texts that are too long.")] = True
    dimensions: Annotated[int, Meta(ge=0, description="The model's own number of them; 0 = any.")] = 0
    options: dict[str, Any] = {}
    keep_alive: Annotated[int | float | str, Meta(description="Accepted; models stay as --idle-unload says.")] = 0


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /api/embeddings` takes."""

    model: Name = ""
    prompt: str = ""
    options: dict[str, Any] = {}
    keep_alive: Annotated[int | float | str, Meta(description="Accepted; models stay as --idle-unload says.")] = 0


class EmbedTexts(Resource):
    """Texts to vectors of length 1."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All vectors, in order; without texts the model is only loaded."""
        began = time.perf_counter()
        body = read(req, EmbedBody, self.state, sampling=False)
        fields = body.fields
        tell_ignored(resp, body.ignored)
        with self.state.pool.lease(fields.model) as session:
            loaded = time.perf_counter()
            check_dimensions(session, fields.dimensions or None)
            values, n = list[Any](), 0
            if fields.input:
                with in_turn(req):
                    prompts = text_tokens(session.tokenizer, fields.input, gone=client_gone(req))
                if fields.truncate:
                    prompts = [tokens[: session.n_ctx] for tokens in prompts]
                pooling = pooling_of(self.state, session)
                hold(req, len(prompts) * session.model.hparams.n_embd * PER_NUMBER)
                vectors = embed(req, session, Embed(prompts=prompts, pooling=pooling))
                values, n = vectors.values, vectors.n_tokens
        answer = {
            "model": fields.model or self.state.pool.default, "embeddings": LongJson.array(map(json_of, values)),
            "total_duration": round((time.perf_counter() - began) * 1e9),
            "load_duration": round((loaded - began) * 1e9), "prompt_eval_count": n,
        }  # fmt: skip
        send(resp, answer)


class EmbedPrompt(Resource):
    """One text to a vector, not made of length 1."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """`{"embedding": [number]}`, empty for an empty prompt."""
        body = read(req, EmbeddingBody, self.state, sampling=False)
        fields = body.fields
        tell_ignored(resp, body.ignored)
        with self.state.pool.lease(fields.model) as session:
            value: list[float] = []
            if fields.prompt:
                with in_turn(req):
                    tokens = text_tokens(session.tokenizer, fields.prompt, "prompt")
                texts = Embed(
                    prompts=[tokens[0][: session.n_ctx]],
                    pooling=pooling_of(self.state, session),
                    normalize=False,
                )
                value = embed(req, session, texts).values[0].tolist()
        self.answer(resp, {"embedding": value})
