"""`/openapi.json`, and `/docs`, a page that shows it to people."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import msgspec
from llamakit.plugins.frontends.rest.route import Operation, Route
from llamakit.plugins.frontends.rest.static import PAGE_HEADERS, WEB

if TYPE_CHECKING:
    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

TAG = "docs"


class OpenAPI:
    """`GET /openapi.json`."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self._lock = threading.Lock()
        self._data = b""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The description, made when it is first asked for."""
        with self._lock:
            self._data = self._data or self._make()
        resp.content_type = "application/json"
        resp.cache_control = ["no-cache"]
        resp.etag = hashlib.blake2b(self._data, digest_size=12).hexdigest()
        if any(each in ("*", resp.etag) for each in req.if_none_match or []):
            resp.status = "304 Not Modified"
            return
        resp.data = self._data

    def _make(self) -> bytes:
        from llamakit.plugins.frontends.rest.app import routes as all_routes
        from llamakit.plugins.frontends.rest.openapi import describe

        return msgspec.json.encode(describe(self.state, all_routes(self.state)))


class Page:
    """`GET /docs`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The page, which reads /openapi.json; it holds nothing of its own, so it needs no key."""
        resp.set_headers(PAGE_HEADERS)
        resp.cache_control = ["no-cache"]
        resp.content_type = "text/html; charset=utf-8"
        resp.data = (WEB / "ui" / "docs.html").read_bytes()


def routes(state: ServerState) -> list[Route]:
    """The routes of this module."""
    described = Operation(summary="This API in OpenAPI 3.1", tag=TAG, response=dict)
    page = Operation(summary="This API for people", tag=TAG, response=str, media="text/html")
    return [
        Route(path="/openapi.json", resource=OpenAPI(state), operations={"GET": described}),
        Route(path="/docs", resource=Page(), operations={"GET": page}, open=True),
    ]
