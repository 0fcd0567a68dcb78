"""`/lora-adapters`: which LoRA adapters requests may choose, their default scales, loading and unloading.

A request names adapters, never files: what can be loaded are the files of the folder `--lora-dir`, by their names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from llamakit.plugins.frontends.rest.apis.server.adapters_folder import AdapterFolder
from llamakit.plugins.frontends.rest.apis.server.operations import ModelQuery, answer
from llamakit.plugins.frontends.rest.body import read, read_array, tell_ignored
from llamakit.plugins.frontends.rest.errors import refused_file
from llamakit.plugins.frontends.rest.route import Operation, Route
from msgspec import Meta

from llamakit.errors import ModelFileError, UsageError
from llamakit.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.adapters import AdapterInfo, AdapterStore
    from llamakit.session import Session

TAG = "adapters"
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Scale = Annotated[float, Meta(ge=-100, le=100)]


class LoraAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded adapter."""

    id: Annotated[int, Meta(description="Its number, which no other will get.")]
    name: str
    path: Annotated[str, Meta(description="Name of its file, without the folder.")]
    scale: Annotated[float, Meta(description="For requests that say nothing of adapters; 0 = off.")]
    rank: int
    size: Annotated[int, Meta(description="Bytes in memory.")]
    metadata: dict[str, str] = {}


class LoraScale(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter, by id or by name, and its scale for requests that say nothing of adapters."""

    id: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] | None = None
    name: Name | None = None
    scale: Scale = 1.0


class LoraLoadBody(msgspec.Struct, frozen=True, kw_only=True):
    """Which adapter to load."""

    name: Annotated[Name, Meta(description="One of those that `GET /lora-adapters/load` lists.")]
    scale: Annotated[Scale, Meta(description="For requests that say nothing of adapters; 0 = off.")] = 0.0
    model: Annotated[str, Meta(max_length=256, description="Which model, where there are several.")] = ""


class LoraUnloadBody(msgspec.Struct, frozen=True, kw_only=True):
    """Which adapter to unload."""

    name: Annotated[Name, Meta(description="Its name.")]
    model: Annotated[str, Meta(max_length=256, description="Which model, where there are several.")] = ""


class AdaptersChanged(msgspec.Struct, frozen=True, kw_only=True):
    """What is loaded now."""

    success: bool = True
    adapters: list[LoraAdapter]


class Loadable(msgspec.Struct, frozen=True, kw_only=True):
    """What can be loaded."""

    names: Annotated[list[str], Meta(description="Names of the files in the server's folder of adapters.")]
    loaded: Annotated[list[str], Meta(description="Names of those that are loaded.")]


class Adapters:
    """`GET` and `POST /lora-adapters`."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Those of the default model, or of `?model=`; none of one that is not loaded."""
        session = self.state.pool.loaded(model_of(req))
        answer(resp, listed(session))

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Set the scales for requests that say nothing; adapters that are not in the list are switched off."""
        wanted = read_array(req, LoraScale, self.state)
        with self.state.pool.lease(model_of(req)) as session:
            set_scales(store_of(session), wanted)
            answer(resp, AdaptersChanged(adapters=listed(session)))


class Load:
    """`GET` and `POST /lora-adapters/load`."""

    def __init__(self, state: ServerState) -> None:
        self.state, self.folder = state, AdapterFolder(state.options.lora_dir)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """What can be loaded."""
        session = self.state.pool.loaded(model_of(req))
        answer(resp, Loadable(names=sorted(self.folder.files()), loaded=[each.name for each in listed(session)]))

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Load one, by name. Requests may choose it from now on."""
        body = read(req, LoraLoadBody, self.state, sampling=False)
        tell_ignored(resp, body.ignored)
        file = self.folder.file(body.fields.name)
        with self.state.pool.lease(body.fields.model) as session:
            store_of(session)
            try:
                session.load_adapter(file, body.fields.name, body.fields.scale)
            except ModelFileError as error:
                what = f"adapter {body.fields.name!r} cannot be used with this model"
                raise refused_file(error, file, what, "name") from None
            answer(resp, AdaptersChanged(adapters=listed(session)))


class Unload:
    """`POST /lora-adapters/unload`."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Forget one; requests that use it go on with it."""
        body = read(req, LoraUnloadBody, self.state, sampling=False)
        tell_ignored(resp, body.ignored)
        with self.state.pool.lease(body.fields.model) as session:
            store_of(session).remove(body.fields.name)
            answer(resp, AdaptersChanged(adapters=listed(session)))


def model_of(req: falcon.Request) -> str | None:
    """The model that the URL names."""
    return req.get_param("model") or None


def store_of(session: Session) -> AdapterStore:
    """The adapters of a model; UsageError where the server was started without any."""
    if session.adapters is None:
        hint = "start it with --lora FILE, --lora-dir DIR or --lora-watch DIR"
        raise UsageError("this server runs without adapters", hint=hint, param="lora")
    return session.adapters


def listed(session: Session | None) -> list[LoraAdapter]:
    """All adapters that are loaded."""
    infos: Sequence[AdapterInfo] = session.adapters.infos() if session is not None and session.adapters else []
    return [
        LoraAdapter(
            id=i.id,
            name=one_line(i.name),
            path=one_line(i.path),
            scale=i.scale,
            rank=i.rank,
            size=i.n_bytes,
            metadata=i.metadata,
        )
        for i in infos
    ]


def set_scales(store: AdapterStore, wanted: Sequence[LoraScale]) -> None:
    """All scales at once: nothing is changed if one of the adapters is not there."""
    names = {info.id: info.name for info in store.infos()}
    scales = dict.fromkeys(names.values(), 0.0)
    for place, each in enumerate(wanted):
        name = each.name if each.id is None else names.get(each.id)
        if name not in scales:
            asked = f"[{place}] names no adapter" if name is None and each.id is None else (
                f"no adapter with id {each.id}" if each.id is not None else f"no adapter named {name!r}"
            )  # fmt: skip
            there = ", ".join(f"{id} ({name})" for id, name in names.items()) or "none is loaded"
            raise UsageError(asked, found=there, param="id" if each.id is not None else "name")
        scales[name] = each.scale
    for name, scale in scales.items():
        store.set_scale(name, scale)


def routes(state: ServerState) -> list[Route]:
    """The routes of this module."""
    show = Operation(summary="Loaded LoRA adapters", tag=TAG, response=list[LoraAdapter], query=ModelQuery)
    scale = Operation(
        summary="Set the default scales", tag=TAG, body=list[LoraScale], response=AdaptersChanged, query=ModelQuery,
        example=[],
        description="For requests without `lora`. Adapters that are not in the list get scale 0.",
    )  # fmt: skip
    can = Operation(summary="LoRA adapters that can be loaded", tag=TAG, response=Loadable, query=ModelQuery)
    load = Operation(
        summary="Load a LoRA adapter", tag=TAG, body=LoraLoadBody, response=AdaptersChanged,
        description="By the name of its file in the folder that the server was started with (`--lora-dir`).",
    )  # fmt: skip
    unload = Operation(summary="Unload a LoRA adapter", tag=TAG, body=LoraUnloadBody, response=AdaptersChanged)
    return [
        Route(path="/lora-adapters", resource=Adapters(state), operations={"GET": show, "POST": scale}, changes=True),
        Route(path="/lora-adapters/load", resource=Load(state), operations={"GET": can, "POST": load}, changes=True),
        Route(path="/lora-adapters/unload", resource=Unload(state), operations={"POST": unload}, changes=True),
    ]
