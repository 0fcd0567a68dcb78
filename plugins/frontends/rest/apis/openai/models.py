"""`GET /v1/models` and `/v1/models/{id}`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.errors import LONGEST_NAME, NotFoundError
from llamakit.options import near

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.pool import ModelInfo


class Models:
    """All models that requests can name."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The list, the default first."""
        infos = self.state.pool.infos()
        value: dict[str, Any] = {"object": "list", "data": [model_value(self.state, info) for info in infos]}
        if _for_anthropic(req):
            data = [_anthropic(self.state, info) for info in infos]
            value = {"data": data, "first_id": data[0]["id"], "has_more": False, "last_id": data[-1]["id"]}
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(value)


class Model:
    """One model."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """What there is to tell of it; here a name must be one of the list."""
        infos = {info.name: info for info in self.state.pool.infos()}
        name = self.state.pool.find(id)
        if name is None:
            raise NotFoundError(f"no model {id[:LONGEST_NAME]!r}", found=near(id[:LONGEST_NAME], infos), param="model")
        value = _anthropic(self.state, infos[name]) if _for_anthropic(req) else model_value(self.state, infos[name])
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(value)


def _for_anthropic(req: falcon.Request) -> bool:
    """Whether Anthropic's client asks: the path is the same, the answer is not."""
    return bool(req.get_header("anthropic-version"))


def _anthropic(state: ServerState, info: ModelInfo) -> dict[str, Any]:
    created = datetime.fromtimestamp(int(state.started), UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": info.name, "display_name": info.name, "created_at": created}


def model_value(state: ServerState, info: ModelInfo) -> dict[str, Any]:
    """A model as OpenAI lists it; `meta` tells more."""
    return {
        "id": info.name, "object": "model", "created": int(state.started), "owned_by": "llamakit",
        "meta": {"loaded": info.loaded, "n_ctx": info.n_ctx or None, "size": info.size},
    }  # fmt: skip
