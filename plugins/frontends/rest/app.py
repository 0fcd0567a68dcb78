"""The falcon application: all routes, the checks before each, and errors as JSON."""

from __future__ import annotations

import importlib
import logging
import re
import secrets
from typing import TYPE_CHECKING, Any

import falcon
import msgspec
from llamakit.plugins.frontends.rest.errors import (
    MethodError,
    body_of,
    forget_frames,
    from_falcon,
    retry_after,
    status_of,
)

from llamakit.errors import LlamaKitError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.route import Route
    from llamakit.plugins.frontends.rest.security import Security
    from llamakit.plugins.frontends.rest.state import ServerState

log = logging.getLogger("llamakit.rest")
APIS = ("server", "llamacpp", "openai", "responses", "anthropic", "ollama")
REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def make_app(state: ServerState, security: Security | None = None) -> falcon.App[Any, Any]:
    """The application for a server; `security` None checks nothing (tests)."""
    from llamakit.plugins.frontends.rest.static import StaticFiles

    app = falcon.App(middleware=[Identify(), *([security] if security else []), Admit(state)])
    app.add_error_handler(Exception, _on_exception)
    app.add_error_handler(falcon.HTTPError, _on_falcon_error)
    app.add_error_handler(LlamaKitError, _on_error)
    for route in routes(state):
        _add(app, route)
    app.add_sink(StaticFiles(state.options.path, page=not state.options.no_ui).answer, "/")
    return app


def routes(state: ServerState) -> list[Route]:
    """All routes of all APIs."""
    package = "llamakit.plugins.frontends.rest.apis"
    found: list[Route] = []
    for name in APIS:
        found += importlib.import_module(f"{package}.{name}").routes(state)
    return found


def _add(app: falcon.App[Any, Any], route: Route) -> None:
    resource = route.resource
    resource.llamakit_open, resource.llamakit_always, resource.llamakit_api = route.open, route.always, route.api
    resource.llamakit_role, resource.llamakit_changes = route.role, route.changes
    if hasattr(resource, "on_get") and not hasattr(resource, "on_head"):
        resource.on_head = resource.on_get  # falcon leaves the body out
    app.add_route(route.path, resource)


class Identify:
    """Gives every request an id that nobody can guess, and answers it; the client's own is echoed if it is plain.

    `context.job_id` is ours, by which its jobs are known; `context.id` is what its log lines and answers say.
    """

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Before routing."""
        asked = req.get_header("X-Request-Id") or ""
        req.context.job_id = secrets.token_hex(12)
        req.context.id = asked if REQUEST_ID.fullmatch(asked) else req.context.job_id
        req.context.resource = None
        req.env["llamakit.context"] = req.context
        resp.set_header("X-Request-Id", req.context.id)
        resp.set_header("X-Job-Id", req.context.job_id)


class Admit:
    """Turns new work away while the server is full or shuts down."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def process_resource(self, req: falcon.Request, resp: falcon.Response, resource: Any, params: Any) -> None:
        """After routing: the resource decides how an error looks."""
        req.context.resource = resource
        if req.method != "POST" or getattr(resource, "llamakit_always", False):
            return
        if self.state.draining.is_set():
            raise UnavailableError("the server shuts down", hint="send the request again later")
        if req.env.get("llamakit.full"):
            raise self.state.admission.error()
        share = req.env.get("llamakit.memory")
        if share is not None and share.error is not None:
            raise share.error


def _on_error(req: falcon.Request, resp: falcon.Response, error: LlamaKitError, params: Any) -> None:
    """One of our errors: its status, and a body in the shape of the API that was called."""
    status = resp.status = status_of(error)
    if status[0] == "5" and not isinstance(error, UnavailableError):
        log.error("%s: %s", getattr(req.context, "id", ""), error)
    seconds = retry_after(error)
    if seconds is not None:
        resp.set_header("Retry-After", str(seconds))
    resource = getattr(req.context, "resource", None)
    make_body = getattr(resource, "error_body", body_of)
    resp.stream = None
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(make_body(error))
    forget_frames(error)


def _on_falcon_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: Any) -> None:
    """One of falcon's errors, such as a method that a path does not answer."""
    ours = from_falcon(error)
    if isinstance(ours, MethodError):
        ours.message = f"{req.path[:200]} does not answer {req.method}"
        ours.found = f"it answers {dict(error.headers or {}).get('Allow', 'nothing')}"
    elif isinstance(ours, NotFoundError):
        ours.message = f"there is nothing at {req.path[:200]}"
    _on_error(req, resp, ours, params)
    forget_frames(error)
    resp.status = error.status
    if error.headers:
        resp.set_headers(error.headers)


def _on_exception(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
    """A defect: the log gets the traceback, the client gets the request's id."""
    id = getattr(req.context, "id", "")
    log.error("request %s: %s %s ended with a defect", id, req.method, req.path, exc_info=error)
    shown = LlamaKitError("the server made a mistake", found=f"the server's log tells more at request {id}")
    shown.code = "internal"
    _on_error(req, resp, shown, params)
    forget_frames(error)
