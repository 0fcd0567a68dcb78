"""Texts that are to become vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.body import wrong
from llamakit.plugins.frontends.rest.keys import EVERYBODY, owner_of
from llamakit.plugins.frontends.rest.prompts import checked_ids, prompt_tokens

from llamakit.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import falcon
    import numpy as np
    import numpy.typing as npt
    from llamakit.plugins.frontends.rest.keys import Key
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.request import Embed, Vectors
    from llamakit.session import Session
    from llamakit.tokenizer import Tokenizer


MOST_TEXTS = 2048
MOST_TOKENS = 1 << 20  # of all texts together


def client_gone(req: falcon.Request) -> Callable[[], bool] | None:
    """What tells whether a request's client has left."""
    gone: Callable[[], bool] | None = req.env.get("waitress.client_disconnected")
    return gone


def embed(req: falcon.Request, session: Session, texts: Embed) -> Vectors:
    """The vectors of texts, for as long as the client waits for them."""
    key: Key = getattr(req.context, "key", EVERYBODY)
    return session.service.embed(texts, gone=client_gone(req), owner=owner_of(req), weight=key.weight)


def pooling_of(state: ServerState, session: Session, asked: str | None = None, usual: str = "mean") -> str:
    """Which vector of a text: as the request asks, as `--pooling` or the model's file says, or the usual one."""
    return asked or state.options.pooling or session.pooling or usual


def text_tokens(
    tokenizer: Tokenizer, given: str | list[Any], param: str = "input", gone: Callable[[], bool] | None = None
) -> list[list[int]]:
    """The tokens of every text; control tokens in texts are text. Ends when `gone` says that the client left."""
    single = isinstance(given, str) or (bool(given) and all(type(item) is int for item in given))
    texts: list[Any] = [given] if single else list(given)
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise UsageError(f"{param} holds {len(texts)} texts", hint=f"possible: 1..{MOST_TEXTS}", param=param)
    found = []
    for number, text in enumerate(texts):
        place = param if single else f"{param}[{number}]"
        if gone is not None and gone():
            raise UnavailableError("the client has left")
        if isinstance(text, int):
            raise UsageError(f"{param} mixes token ids with texts", hint="arrays of token ids, or texts", param=param)
        if not text:
            raise UsageError(f"{place} is empty", hint="at least one character or token", param=param)
        if isinstance(text, str):
            found.append(with_end(tokenizer, prompt_tokens(tokenizer, text, param=place, parse_special=False)))
        else:
            found.append(checked_ids(tokenizer, text, place, param))
    total = sum(map(len, found))
    if total > MOST_TOKENS:
        raise UsageError(f"the texts have {total:,} tokens; {MOST_TOKENS:,} are possible", param=param)
    return found


def json_of(vector: npt.NDArray[np.float32]) -> bytes:
    """A vector (n_embd,), or one for each token (n_tokens, n_embd), as JSON; made row by row, since nothing else runs
    while numbers become text."""
    if vector.ndim == 1:
        return msgspec.json.encode(vector.tolist())
    return b"[" + b",".join([msgspec.json.encode(row.tolist()) for row in vector]) + b"]"


def check_dimensions(session: Session, asked: int | None) -> None:
    """The model's vectors cannot be cut: only models trained for it have meaning in the first numbers alone."""
    n_embd = session.model.hparams.n_embd
    if asked is not None and asked != n_embd:
        raise wrong("dimensions", asked, f"{n_embd}, the model's own")


def with_end(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """The tokens of a text with the one that ends texts, where the model wants it."""
    end = tokenizer.eos_id if tokenizer.add_eos else None
    return tokens if end is None or tokens[-1:] == [end] else [*tokens, end]
