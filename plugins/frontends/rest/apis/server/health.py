"""`GET /health`: whether requests can be answered now, and if not, why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from llamakit.plugins.frontends.rest.errors import not_loaded, unwell

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState


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
            code = "engine_ended" if service.dead else service.spoilt.code if service.spoilt else "backend_stuck"
            return code, service.trouble, None
    return None if loaded else not_loaded(state.pool.info())
