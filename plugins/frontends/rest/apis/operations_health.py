"""`GET /health`: whether requests can be answered now, and if not, why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.errors import body_of

from llamakit.errors import UnavailableError

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.pool import ModelInfo


class Healthy(msgspec.Struct, frozen=True, kw_only=True):
    """All is well."""

    status: str = "ok"


class Health:
    """`GET /health`, also as `/v1/health`."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """200 {"status": "ok"}, or 503."""
        problem = trouble(self.state)
        if problem is not None:
            unwell(resp, *problem)
            return
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(Healthy())


def trouble(state: ServerState) -> tuple[str, str, float | None] | None:
    """What keeps the server from answering: a code, words for it, and how far the loading is; None if nothing does."""
    if state.draining.is_set():
        return "draining", "the server shuts down", None
    sessions = [state.pool.loaded(name) for name in state.pool.names()]
    loaded = [session for session in sessions if session is not None]
    for service in (session.service for session in loaded):
        if service.trouble:
            return "engine_ended" if service.dead else "backend_stuck", service.trouble, None
    return None if loaded else not_loaded(state.pool.info())


def not_loaded(info: ModelInfo) -> tuple[str, str, float | None] | None:
    """The trouble with a model that is not loaded: it loads, or could not be; None if it will when it is asked for."""
    if info.loaded:
        return None
    if info.loading or not info.last_used:  # the default one is loaded at the start
        return "loading", "loading model", round(info.progress, 3)
    return ("model_error", f"the model cannot be loaded: {info.error}", None) if info.error else None


def unwell(resp: falcon.Response, code: str, message: str, progress: float | None) -> None:
    """Answer 503 with the error, a word for people, and how far the loading is."""
    error = UnavailableError(message, retry_after=1 if progress is not None else 5)
    error.code = code
    value: dict[str, Any] = {"status": message} | body_of(error)
    if progress is not None:
        value["progress"] = progress
    resp.status = "503 Service Unavailable"
    resp.set_header("Retry-After", str(error.retry_after))
    resp.content_type = "application/json"
    resp.data = msgspec.json.encode(value)
