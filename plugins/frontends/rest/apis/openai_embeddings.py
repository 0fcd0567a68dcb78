"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from llamakit.plugins.frontends.rest.apis.native_fields import LoraChoice, Name, adapters
from llamakit.plugins.frontends.rest.apis.native_prompt import checked_id, prompt_tokens
from llamakit.plugins.frontends.rest.body import read, tell_ignored, wrong
from llamakit.plugins.frontends.rest.generation import held
from llamakit.plugins.frontends.rest.memory import PER_NUMBER, hold
from msgspec import Meta

from llamakit.engine.request import Embed
from llamakit.errors import UsageError

if TYPE_CHECKING:
    import falcon
    import numpy as np
    import numpy.typing as npt
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.session import Session
    from llamakit.tokenizer import Tokenizer

MOST_TEXTS = 2048
MOST_TOKENS = 1 << 20  # of all texts together


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /v1/embeddings` takes."""

    input: Annotated[str | list[str | int | list[int]], Meta(description="A text, token ids, or several of either.")]
    model: Name = ""
    encoding_format: Annotated[Literal["float", "base64"], Meta(description="Numbers, or float32 in base64.")] = "float"
    dimensions: Annotated[int, Meta(ge=1, description="The model's own number of them.")] | None = None
    user: Annotated[str, Meta(description="Without effect.")] = ""
    pooling: Annotated[Literal["mean", "last", "cls"], Meta(description="Which vector of a text.")] = "mean"
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
        with held(self.state, req, name) as session:
            check_dimensions(session, fields.dimensions)
            embed = Embed(
                prompts=text_tokens(session.tokenizer, fields.input), pooling=fields.pooling,
                normalize=fields.normalize, adapters=adapters(session, fields.lora),
            )  # fmt: skip
            hold(req, len(embed.prompts) * session.model.hparams.n_embd * PER_NUMBER)
            vectors = session.service.embed(embed)
        data = [
            {"object": "embedding", "index": i, "embedding": _encoded(vector, fields.encoding_format)}
            for i, vector in enumerate(vectors.values)
        ]
        usage = {"prompt_tokens": vectors.n_tokens, "total_tokens": vectors.n_tokens}
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode({"object": "list", "data": data, "model": name, "usage": usage})


def text_tokens(tokenizer: Tokenizer, given: str | list[Any], param: str = "input") -> list[list[int]]:
    """The tokens of every text; control tokens in texts are text."""
    single = isinstance(given, str) or (bool(given) and all(type(item) is int for item in given))
    texts: list[Any] = [given] if single else list(given)
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise UsageError(f"{param} holds {len(texts)} texts", hint=f"possible: 1..{MOST_TEXTS}", param=param)
    found = []
    for number, text in enumerate(texts):
        place = param if single else f"{param}[{number}]"
        if isinstance(text, int):
            raise UsageError(f"{param} mixes token ids with texts", hint="arrays of token ids, or texts", param=param)
        if not text:
            raise UsageError(f"{place} is empty", hint="at least one character or token", param=param)
        if isinstance(text, str):
            found.append(prompt_tokens(tokenizer, text, param=place, parse_special=False))
        else:
            found.append([checked_id(tokenizer, id, f"{place}[{i}]", param) for i, id in enumerate(text)])
    total = sum(map(len, found))
    if total > MOST_TOKENS:
        raise UsageError(f"the texts have {total:,} tokens; {MOST_TOKENS:,} are possible", param=param)
    return found


def check_dimensions(session: Session, asked: int | None) -> None:
    """The model's vectors cannot be cut: only models trained for it have meaning in the first numbers alone."""
    n_embd = session.model.hparams.n_embd
    if asked is not None and asked != n_embd:
        raise wrong("dimensions", asked, f"{n_embd}, the model's own")


def _encoded(vector: npt.NDArray[np.float32], form: str) -> Any:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
