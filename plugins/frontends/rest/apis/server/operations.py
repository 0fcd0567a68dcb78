"""`/health`, `/props`, `/slots`, `/samplers`, `/metrics`, and cancelling a request: for those who run a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.apis.server.health import Health, Healthy
from llamakit.plugins.frontends.rest.errors import NotSupportedError
from llamakit.plugins.frontends.rest.keys import EVERYBODY, Role
from llamakit.plugins.frontends.rest.route import Operation, Route
from llamakit.plugins.frontends.rest.samplers import Samplers, SamplersInfo
from msgspec import Meta
from prometheus_client import CONTENT_TYPE_LATEST

from llamakit.errors import LONGEST_NAME, NotFoundError, UnavailableError

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.stats import SlotInfo

TAG = "operations"


class ModelQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which model."""

    model: Annotated[str, Meta(description="Name of the model; the default one if it is left out.")] = ""


class SlotsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Of which model, and what to do when it is busy."""

    model: Annotated[str, Meta(description="List this model's alone; all if it is left out.")] = ""
    fail_on_no_slot: Annotated[
        str,
        Meta(
            description="Any value: answer 503 while no further sequence of the model fits (of the default one if"
            " `model` is left out)."
        ),
    ] = ""


class AdapterScale(msgspec.Struct, frozen=True):
    """An adapter in use."""

    name: str
    scale: float


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A request that waits or runs, or a free place for one. No text of it is told."""

    id: Annotated[str, Meta(description="Id of the request, as in the header `X-Job-Id` of its answer.")]
    model: str
    state: Annotated[str, Meta(description="queued, prompt or generating; free.")]
    is_processing: Annotated[bool, Meta(description="Whether it is being worked on.")]
    n_ctx: Annotated[int, Meta(description="Context of each sequence, in tokens.")]
    n_prompt: Annotated[int, Meta(description="Tokens of the prompt.")] = 0
    n_cached: Annotated[int, Meta(description="Those that were found evaluated.")] = 0
    n_evaluated: Annotated[int, Meta(description="Tokens in the context by now.")] = 0
    n_generated: Annotated[int, Meta(description="Tokens of all its answers by now.")] = 0
    max_tokens: Annotated[int, Meta(description="Most tokens of an answer.")] = 0
    n_answer: Annotated[int, Meta(description="Answers that are asked for.")] = 0
    width: Annotated[int, Meta(description="Sequences that it may need at once, of the `--parallel` of its model.")] = 0
    priority: int = 0
    seconds: Annotated[float, Meta(description="Since the request came.")] = 0.0
    adapters: list[AdapterScale] = []


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """A request that will end before its next token."""

    id: str
    cancelled: bool = True


class Metered:
    """`GET /metrics`."""

    def __init__(self, state: ServerState) -> None:
        self.metrics = state.metrics
        self.metrics.watch(state.pool, llamacpp=state.options.metric_names == "llamacpp")

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Prometheus' text format."""
        resp.content_type = CONTENT_TYPE_LATEST
        resp.data = self.metrics.text()


class Slots:
    """`GET /slots`."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Every request of every loaded model, as far as they are the key's own or it may see all."""
        if self.state.options.slots == "off":
            raise NotSupportedError("this server lists no slots", hint="start it without --no-slots")
        asked = req.get_param("model", default="")
        name = self.state.pool.resolve(asked)
        found = slots(self.state)
        used = sum(slot.width for _, slot in found if slot.is_processing and slot.model == name)
        free = max(0, self.state.options.parallel - used)
        if req.get_param("fail_on_no_slot", default="") and not free:
            raise UnavailableError("no slot is free", found=f"{used} sequences of {name} run", retry_after=1)
        key = getattr(req.context, "key", EVERYBODY)
        shown = [
            slot for owner, slot in found
            if (key.may(Role.OBSERVE) or owner == key.id) and (not asked or slot.model == name)
        ]  # fmt: skip
        answer(resp, shown + (self._free(name, free) if self.state.options.slots == "all" else []))

    def _free(self, name: str, n: int) -> list[Slot]:
        """The `n` places of a model that nobody has."""
        session = self.state.pool.loaded(name)
        free = Slot(
            id="", model=name, state="free", is_processing=False, n_ctx=session.n_ctx if session is not None else 0
        )  # fmt: skip
        return [free] * n


class Cancel:
    """Ending a request by its id: `POST /requests/{id}/cancel`, or DELETE."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """End it in the queue, the prompt or the answer; NotFoundError if it is not there any more."""
        sessions = [self.state.pool.loaded(name) for name in self.state.pool.names()]
        key = getattr(req.context, "key", EVERYBODY)
        owner = None if key.may(Role.ADMIN) else key.id
        if not any(session.service.cancel(id, owner) for session in sessions if session is not None):
            raise NotFoundError(
                f"no request {id[:LONGEST_NAME]!r} waits or runs", hint="GET /slots lists them", param="id"
            )
        answer(resp, Cancelled(id=id))

    on_delete = on_post


def slots(state: ServerState) -> list[tuple[str, Slot]]:
    """What runs and waits, over all loaded models, each with its owner."""
    found: list[tuple[str, Slot]] = []
    for name in state.pool.names():
        session = state.pool.loaded(name)
        if session is not None:
            found += [(info.owner, _slot(name, session.n_ctx, info)) for info in session.service.engine.slots()]
    return found


def _slot(model: str, n_ctx: int, info: SlotInfo) -> Slot:
    fields = {name: getattr(info, name) for name in info.__struct_fields__ if name not in ("adapters", "owner")}
    fields |= {"seconds": round(info.seconds, 3), "adapters": [AdapterScale(*pair) for pair in info.adapters]}
    return Slot(model=model, n_ctx=n_ctx, is_processing=info.state != "queued", **fields)


def answer(resp: falcon.Response, value: Any) -> None:
    """Answer with JSON."""
    resp.content_type = "application/json"
    resp.data = msgspec.json.encode(value)


def routes(state: ServerState) -> list[Route]:
    """The routes of this module."""
    health = {"GET": Operation(summary="Whether the server answers", tag=TAG, response=Healthy, description=HEALTH)}
    cancel = Operation(summary="End a request", tag=TAG, response=Cancelled, description=CANCEL)
    return [
        Route(path="/health", resource=Health(state), operations=health, open=True),
        Route(path="/v1/health", resource=Health(state), operations=health, open=True),
        _get("/slots", Slots(state), "Requests that wait or run", list[Slot], query=SlotsQuery),
        _get("/samplers", Samplers(state), "Samplers and their options", SamplersInfo, description=SAMPLERS),
        _get("/metrics", Metered(state), "Measurements for Prometheus", str, role=Role.OBSERVE,
             media=CONTENT_TYPE_LATEST),
        Route(
            path="/requests/{id}/cancel", resource=Cancel(state), operations={"POST": cancel, "DELETE": cancel},
            always=True,
        ),
        Route(path="/requests/{id}", resource=Delete(state), operations={"DELETE": cancel}, always=True),
    ]  # fmt: skip


class Delete:
    """`DELETE /requests/{id}`."""

    def __init__(self, state: ServerState) -> None:
        self.on_delete = Cancel(state).on_post


def _get(path: str, resource: Any, summary: str, response: Any, role: Role = Role.USE, **more: Any) -> Route:
    operation = Operation(summary=summary, tag=TAG, response=response, **more)
    return Route(path=path, resource=resource, operations={"GET": operation}, role=role)


HEALTH = (
    "503 while the model loads (`progress` from 0 to 1), while the server shuts down, and while the backend does not"
    " answer; `error.code` tells which: `loading`, `draining`, `backend_stuck`, `engine_ended`, `model_changed`,"
    " `model_error`."
)
SAMPLERS = (
    "Every installed sampler, those of other packages too, with a JSON Schema of its options. In a request an option is"
    " called by `prefix` and its name."
)
CANCEL = "Its answer ends before the next token, with what there is of it. 404 if no such request waits or runs."
