"""`POST /embedding`: the last token's vector as it is, like in 2023; pooling and several texts as options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from llamakit.plugins.frontends.rest.apis.llamacpp.text import Resource
from llamakit.plugins.frontends.rest.body import in_turn, read, tell_ignored
from llamakit.plugins.frontends.rest.embedding import (
    MOST_TEXTS,
    MOST_TOKENS,
    embed,
    json_of,
    pooling_of,
    with_end,
)
from llamakit.plugins.frontends.rest.fields import LoraChoice, Name, adapters
from llamakit.plugins.frontends.rest.long_json import LongJson, send
from llamakit.plugins.frontends.rest.memory import PER_NUMBER, hold
from llamakit.plugins.frontends.rest.prompts import Prompt, prompt_tokens
from msgspec import Meta

from llamakit.engine.request import Embed
from llamakit.errors import UsageError

if TYPE_CHECKING:
    import falcon

    from llamakit.session import Session


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /embedding` takes: `content` for one text, or `input` for one or several."""

    content: Annotated[Prompt | None, Meta(description="A text, or an array of its parts and token ids.")] = None
    input: Annotated[
        str | list[str | int | list[int]] | None,
        Meta(description="A text, an array of texts, token ids, or arrays of token ids."),
    ] = None
    pooling: (
        Annotated[
            Literal["last", "mean", "cls", "none"],
            Meta(description="Which vector of a text; unset = the model's, or the last where its file names none."),
        ]
        | None
    ) = None
    normalize: Annotated[bool, Meta(description="Make vectors of length 1.")] = False
    lora: Annotated[list[LoraChoice], Meta(max_length=32)] | None = None
    parse_special: bool = True
    model: Name = ""


class Embedding(Resource):
    """Text to a vector."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """`{"embedding": [number]}`; for an `input` that is an array of texts `[{"embedding", "index"}]`."""
        body = read(req, EmbeddingBody, self.state, sampling=False)
        fields = body.fields
        if fields.content is not None and fields.input is not None:
            raise UsageError("content and input are both given", hint="one of them", param="input")
        several = texts(fields)
        with self.state.pool.lease(fields.model) as session:
            pooling = pooling_of(self.state, session, fields.pooling, "last")
            with in_turn(req):
                prompts = [self._tokens(session, text, place, fields) for place, text in several]
            if sum(map(len, prompts)) > MOST_TOKENS:
                raise UsageError(
                    f"the texts have {sum(map(len, prompts)):,} tokens; {MOST_TOKENS:,} are possible", param="input"
                )
            n_vector = sum(map(len, prompts)) if pooling == "none" else len(prompts)
            hold(req, n_vector * session.model.hparams.n_embd * PER_NUMBER)
            asked = Embed(
                prompts=prompts, pooling=pooling, normalize=fields.normalize, adapters=adapters(session, fields.lora)
            )
            vectors = embed(req, session, asked)
        tell_ignored(resp, body.ignored)
        values = map(json_of, vectors.values)
        if isinstance(fields.input, list) and not _is_ids(fields.input):
            shown = (b'{"embedding":%b,"index":%d}' % (value, i) for i, value in enumerate(values))
            send(resp, LongJson.array(shown))
        else:
            send(resp, {"embedding": LongJson(values)})

    @staticmethod
    def _tokens(session: Session, text: Prompt, place: str, fields: EmbeddingBody) -> list[int]:
        tokens = prompt_tokens(session.tokenizer, text, param=place, parse_special=fields.parse_special)
        return with_end(session.tokenizer, tokens) if isinstance(text, str) else tokens


def texts(fields: EmbeddingBody) -> list[tuple[str, Prompt]]:
    """The texts with their places in the body. Token ids alone are one text."""
    given = fields.input
    if given is None:
        return [("content", fields.content if fields.content is not None else "")]
    if isinstance(given, str) or _is_ids(given):
        return [("input", given)]  # type: ignore[list-item]
    if not given or len(given) > MOST_TEXTS:
        raise UsageError(f"input holds {len(given)} texts", hint=f"possible: 1..{MOST_TEXTS}", param="input")
    found: list[tuple[str, Prompt]] = []
    for place, text in enumerate(given):
        if isinstance(text, int):
            raise UsageError("input mixes token ids with texts", hint="arrays of token ids, or texts", param="input")
        found.append((f"input[{place}]", text))  # type: ignore[arg-type]
    return found


def _is_ids(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(item) is int for item in given)
