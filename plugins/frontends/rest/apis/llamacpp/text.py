"""`POST /tokenize`, `/detokenize`, `/apply-template`, and `GET /model.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.apis.llamacpp.answer import encode, generation_settings
from llamakit.plugins.frontends.rest.apis.llamacpp.fields import default_fields, sampling_of
from llamakit.plugins.frontends.rest.body import Body, in_turn, read, tell_ignored
from llamakit.plugins.frontends.rest.chat import TOOL, make_prompt, variables
from llamakit.plugins.frontends.rest.fields import LARGEST, Name
from llamakit.plugins.frontends.rest.long_json import LongJson, send
from llamakit.plugins.frontends.rest.messages import MESSAGE, conversation
from llamakit.plugins.frontends.rest.prompts import Prompt, checked_id, mixed_tokens
from msgspec import Meta

from llamakit.serialized import serialized

if TYPE_CHECKING:
    from collections.abc import Iterator

    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.tokenizer import Tokenizer

MOST_TOKENS = 1 << 22
PIECES_AT_ONCE = 1 << 14
BYTES_OF_TOKEN = 64  # that one counts as where it is asked whether much is to be done


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /tokenize` takes."""

    content: Annotated[Prompt, Meta(description="A text, or an array of texts and token ids.")] = ""
    add_special: Annotated[bool, Meta(description="Put the tokens that begin and end a text.")] = False
    parse_special: Annotated[bool, Meta(description="Recognise the texts of control tokens.")] = True
    with_pieces: Annotated[bool, Meta(description="Give the text of each token too.")] = False
    model: Name = ""


class DetokenizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /detokenize` takes."""

    tokens: Annotated[
        list[Annotated[int, Meta(ge=0, le=LARGEST)]], Meta(max_length=MOST_TOKENS, description="Token ids.")
    ] = []
    model: Name = ""


class TemplateBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /apply-template` takes: as `/v1/chat/completions`."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=10_000, extra=MESSAGE)]
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1000, extra=TOOL)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] = {}
    reasoning_effort: Annotated[str, Meta(max_length=64)] | None = None
    continue_final_message: bool | None = None
    model: Name = ""


class Resource:
    """A resource that answers JSON with keys in alphabetical order."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def answer(self, resp: falcon.Response, value: Any, ignored: tuple[str, ...] = ()) -> None:
        """Answer with compact JSON."""
        tell_ignored(resp, ignored)
        send(resp, value, "sorted")


class Tokenize(Resource):
    """Text to tokens."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """`{"tokens": [id]}`, with `with_pieces` `[{"id", "piece"}]`."""
        body = read(req, TokenizeBody, self.state, sampling=False)
        fields = body.fields
        with self.state.pool.lease(fields.model) as session:
            tokenizer = session.tokenizer
            with in_turn(req):
                tokens = mixed_tokens(tokenizer, fields.content, param="content", parse_special=fields.parse_special)
            if fields.add_special:
                tokens = with_special(tokenizer, tokens)
            shown = with_pieces(tokenizer, tokens) if fields.with_pieces else tokens
            self.answer(resp, {"tokens": shown}, body.ignored)


class Detokenize(Resource):
    """Tokens to text."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """`{"content": text}`; the leading space stays."""
        body = read(req, DetokenizeBody, self.state, sampling=False)
        with self.state.pool.lease(body.fields.model) as session:
            tokenizer = session.tokenizer
            data = b"".join(pieces(tokenizer, body.fields.tokens))
        self.answer(resp, {"content": data.decode("utf-8", "replace")}, body.ignored)


class ApplyTemplate(Resource):
    """Messages to the prompt that the chat API would make of them."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """`{"prompt": text}`."""
        body = read(req, TemplateBody, self.state, sampling=False)
        fields = body.fields
        talk = conversation(
            fields.messages, tools=fields.tools, tool_choice=fields.tool_choice,
            variables=variables(fields.reasoning_effort, fields.chat_template_kwargs),
            continue_last=fields.continue_final_message if fields.add_generation_prompt else False,
        )  # fmt: skip
        with self.state.pool.lease(fields.model) as session, in_turn(req):
            prompt = make_prompt(self.state, session, talk, add_generation_prompt=fields.add_generation_prompt)
        self.answer(resp, {"prompt": prompt.text}, body.ignored)


class ModelJson(Resource):
    """The settings that a request without any gets."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The same object as `generation_settings` of an answer."""
        name = self.state.pool.resolve(req.get_param("model") or None)
        fields = default_fields(self.state)
        sampling = sampling_of(self.state, Body(fields=fields))
        with self.state.pool.lease(name) as session:
            n_ctx = session.n_ctx
        self.answer(resp, generation_settings(self.state.registry, n_ctx, name, fields, sampling))


def with_special(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """The tokens with those that begin and end a text, where the model wants them."""
    bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    eos = [tokenizer.eos_id] if tokenizer.add_eos and tokenizer.eos_id is not None else []
    return [*bos, *tokens, *eos]


def pieces(tokenizer: Tokenizer, tokens: list[int]) -> Iterator[bytes]:
    """The bytes of tokens, joined in parts, so that other threads have their turn between two of them."""
    for start in range(0, len(tokens), PIECES_AT_ONCE):
        part = tokens[start : start + PIECES_AT_ONCE]
        if max(part) >= tokenizer.n_vocab:
            place = next(place for place, token in enumerate(part, start) if token >= tokenizer.n_vocab)
            checked_id(tokenizer, tokens[place], f"tokens[{place}]", "tokens")
        with serialized(BYTES_OF_TOKEN * len(tokens)):
            made = {token: tokenizer.piece(token) for token in set(part)}
            joined = b"".join([made[token] for token in part])
        yield joined


def with_pieces(tokenizer: Tokenizer, tokens: list[int]) -> LongJson:
    """Tokens with their pieces, made in parts: as objects all of them would take ten times the memory."""
    parts = []
    for start in range(0, len(tokens), PIECES_AT_ONCE):
        part = tokens[start : start + PIECES_AT_ONCE]
        with serialized(BYTES_OF_TOKEN * len(tokens)):
            made = {token: encode({"id": token, "piece": piece(tokenizer, token)}) for token in set(part)}
            parts.append(b",".join([made[token] for token in part]))
    return LongJson.array(parts)


def piece(tokenizer: Tokenizer, token: int) -> str | list[int]:
    """A token's text; the list of its bytes where it is not a whole text."""
    data = tokenizer.piece(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
