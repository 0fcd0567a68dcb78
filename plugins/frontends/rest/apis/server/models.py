"""`GET /models`, `POST /models/load` and `/models/unload`: which models there are, and which are in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from llamakit.plugins.frontends.rest.apis.server.operations import answer
from llamakit.plugins.frontends.rest.body import read, tell_ignored
from llamakit.plugins.frontends.rest.errors import without_folders
from llamakit.plugins.frontends.rest.route import Operation, Route
from msgspec import Meta

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.pool import ModelInfo

TAG = "models"


class ModelBody(msgspec.Struct, frozen=True, kw_only=True):
    """Which model."""

    model: Annotated[str, Meta(max_length=256, description="Its name; the default one if it is left out.")] = ""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a model stands, as llama.cpp tells it."""

    value: Annotated[str, Meta(description="unloaded, loading, loaded or failed.")]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model; the first four fields are those of OpenAI's list."""

    id: Annotated[str, Meta(description="Its name in requests.")]
    object: str = "model"
    created: Annotated[int, Meta(description="When the server started, in seconds since 1970.")]
    owned_by: str = "llamakit"
    default: Annotated[bool, Meta(description="Whether requests get it that name none.")]
    loaded: bool
    status: ModelStatus
    progress: Annotated[float, Meta(description="Of its loading, from 0 to 1.")]
    size: Annotated[int, Meta(description="Bytes of its file.")]
    n_ctx: Annotated[int | None, Meta(description="Context of each sequence in tokens, of a loaded model.")]
    last_used: Annotated[float | None, Meta(description="In seconds since 1970.")]
    requests: Annotated[int, Meta(description="Requests that use it now.")]
    error: Annotated[str, Meta(description="Why it could not be loaded.")]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models, the default one first."""

    object: str = "list"
    data: list[Model]


class ModelChanged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a model."""

    success: bool = True
    changed: Annotated[bool, Meta(description="Whether it was not so before.")]
    model: Model


class Models:
    """`GET /models`."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All of them."""
        answer(resp, ModelList(data=[describe(self.state, info) for info in self.state.pool.infos()]))


class Load(Models):
    """`POST /models/load`."""

    on_get = None  # type: ignore[assignment]

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Load a model and wait for it; what could not be loaded before is tried again."""
        body = read(req, ModelBody, self.state, sampling=False)
        tell_ignored(resp, body.ignored)
        before = self.state.pool.info(body.fields.model).loaded
        info = self.state.pool.load(body.fields.model)
        answer(resp, ModelChanged(changed=not before, model=describe(self.state, info)))


class Unload(Models):
    """`POST /models/unload`."""

    on_get = None  # type: ignore[assignment]

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Unload a model; UnavailableError while requests use it. It is loaded again when it is asked for."""
        body = read(req, ModelBody, self.state, sampling=False)
        tell_ignored(resp, body.ignored)
        changed = self.state.pool.unload(body.fields.model)
        answer(resp, ModelChanged(changed=changed, model=describe(self.state, self.state.pool.info(body.fields.model))))


def describe(state: ServerState, info: ModelInfo) -> Model:
    """A model for the list."""
    status = "loaded" if info.loaded else "loading" if info.loading else "failed" if info.error else "unloaded"
    return Model(
        id=info.name, created=int(state.started), default=info.name == state.pool.default, loaded=info.loaded,
        status=ModelStatus(value=status), progress=round(info.progress, 3), size=info.size, n_ctx=info.n_ctx or None,
        last_used=info.last_used or None, requests=info.leases, error=without_folders(info.error),
    )  # fmt: skip


def routes(state: ServerState) -> list[Route]:
    """The routes of this module."""
    load = Operation(
        summary="Load a model", tag=TAG, body=ModelBody, response=ModelChanged, example={},
        description="Answers when it is loaded. The least used of the others go where memory is short.",
    )  # fmt: skip
    unload = Operation(
        summary="Unload a model", tag=TAG, body=ModelBody, response=ModelChanged, example={},
        description="503 while requests use it. It is loaded again when a request names it.",
    )  # fmt: skip
    listed = Operation(summary="Models, and which are loaded", tag=TAG, response=ModelList)
    return [
        Route(path="/models", resource=Models(state), operations={"GET": listed}),
        Route(path="/models/load", resource=Load(state), operations={"POST": load}, changes=True),
        Route(path="/models/unload", resource=Unload(state), operations={"POST": unload}, changes=True),
    ]
