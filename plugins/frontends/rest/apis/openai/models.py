"""`GET /v1/models` and `/v1/models/{id}`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.errors import NotFoundError
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
        data = [model_value(self.state, info) for info in self.state.pool.infos()]
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode({"object": "list", "data": data})


class Model:
    """One model."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """What there is to tell of it; here a name must be one of the list."""
        infos = {info.name: info for info in self.state.pool.infos()}
        if id not in infos:
            raise NotFoundError(f"no model {id[:100]!r}", found=near(id[:100], infos), param="model")
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(model_value(self.state, infos[id]))


def model_value(state: ServerState, info: ModelInfo) -> dict[str, Any]:
    """A model as OpenAI lists it; `meta` tells more."""
    return {
        "id": info.name, "object": "model", "created": int(state.started), "owned_by": "llamakit",
        "meta": {"loaded": info.loaded, "n_ctx": info.n_ctx or None, "size": info.size},
    }  # fmt: skip
