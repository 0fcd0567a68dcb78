"""`/openapi.json`: the API described from its routes, so that the description cannot differ from the server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.rest.examples import EXAMPLES, TAGS
from llamakit.plugins.frontends.rest.meanings import IN_PATHS
from llamakit.plugins.frontends.rest.openapi_schemas import Schemas, error_schema

from llamakit import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.plugins.frontends.rest.route import Operation, Route
    from llamakit.plugins.frontends.rest.state import ServerState

ERRORS = {
    "400": "The request cannot be met as it is.",
    "401": "No API key was sent, or one that is not known.",
    "403": "The page or host that the request comes from is not allowed.",
    "404": "Something that was named is not there.",
    "413": "The body is too large.",
    "429": "Too many requests wait; try again after `Retry-After` seconds.",
    "500": "The server or a plugin made a mistake.",
    "503": "Not now: a model loads, the server shuts down, or the backend does not answer.",
}
BODY_ERRORS = ("400", "413", "429")
ABOUT = """\
LlamaKit's server. One engine answers several APIs: its own (that of llama.cpp's server), and those of OpenAI,
Anthropic and Ollama.

- Fields that are `null` count as left out. Unknown ones are ignored and named in the header `X-Ignored-Fields`, also
  those of messages and tools (`messages[].audio`); with `"strict": true` they are an error.
- Every answer has the header `X-Request-Id`: the request's own, or a new one; and `X-Job-Id`, which ends the request
  with `POST /requests/{id}/cancel`.
- Errors say what was asked and why not, what was found and what would work.
- With `"stream": true` an answer comes as server-sent events (lines of JSON in Ollama's API)."""
PARAMETER = re.compile(r"\{([A-Za-z_]\w*)(?::[^}]*)?\}")


def describe(state: ServerState, routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document for these routes."""
    schemas = Schemas(state, [operation for route in routes for operation in route.operations.values()])
    document = _Document(state, schemas)
    for route in routes:
        document.add(route)
    used = {operation.tag for route in routes for operation in route.operations.values()}
    tags = [tag for tag in TAGS if tag in used] + sorted(used - set(TAGS))
    value: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "LlamaKit", "version": __version__, "description": ABOUT, "license": {"name": "MIT"}},
        "tags": [{"name": tag, "description": TAGS.get(tag, "")} for tag in tags],
        "paths": document.paths,
        "components": {"schemas": schemas.components | document.errors, "responses": document.responses},
    }
    if state.key_required:
        value["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        value["security"] = [{"bearer": []}, {"x-api-key": []}]
    return value


class _Document:
    """The parts of the document that grow with each route."""

    def __init__(self, state: ServerState, schemas: Schemas) -> None:
        self.state, self.schemas = state, schemas
        self.paths: dict[str, Any] = {}
        self.errors: dict[str, Any] = {}
        self.responses: dict[str, Any] = {}

    def add(self, route: Route) -> None:
        """Describe a route."""
        path = PARAMETER.sub(r"{\1}", route.path)
        names = PARAMETER.findall(route.path)
        place: list[dict[str, Any]] = []
        for name in names:
            value = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            meaning = IN_PATHS.get((path, name))
            place.append(value | {"description": meaning} if meaning else value)
        self.paths[path] = {
            method.lower(): self._operation(route, path, method, operation, place)
            for method, operation in route.operations.items()
        }

    def _operation(
        self, route: Route, path: str, method: str, operation: Operation, place: list[dict[str, Any]]
    ) -> dict[str, Any]:
        words = re.findall(r"[A-Za-z0-9]+", path)
        value: dict[str, Any] = {
            "operationId": "_".join([method.lower(), *words]),
            "summary": operation.summary,
            "tags": [operation.tag],
            "responses": {"200": self._answer(operation)} | self._error_responses(route, operation, bool(place)),
        }
        if operation.description:
            value["description"] = operation.description
        parameters = place + self.schemas.parameters(operation.query)
        if parameters:
            value["parameters"] = parameters
        if operation.body is not None:
            value["requestBody"] = self._body(operation, f"{method} {path}")
        if route.open and self.state.key_required:
            value["security"] = []
        return value

    def _body(self, operation: Operation, key: str) -> dict[str, Any]:
        content = {"schema": self.schemas.of(operation.body)}
        example = operation.example if operation.example is not None else EXAMPLES.get(key)
        if example is not None:
            content["example"] = example
        return {"required": True, "content": {"application/json": content}}

    def _answer(self, operation: Operation) -> dict[str, Any]:
        media = operation.media.partition(";")[0]
        content = {media: {"schema": self.schemas.of(operation.response)}}
        if operation.stream:
            content[operation.stream_media] = {}  # events: OpenAPI 3.1 has no word for their schema
        return {"description": "The answer.", "content": content}

    def _error_responses(self, route: Route, operation: Operation, has_place: bool) -> dict[str, Any]:
        """References to the errors that an operation may answer, described once for each form that they have."""
        statuses = ["500", "503"]
        if operation.body is not None:
            statuses += [*BODY_ERRORS, "403", "404"]
        elif "POST" in route.operations or has_place or operation.query is not None:
            statuses += ["400", "403", "404"]
        if self.state.key_required and not route.open:
            statuses.append("401")
        name, schema = error_schema(route.resource)
        self.errors[name] = schema
        found = {}
        for status in sorted(statuses):
            key = f"{name}{status}"
            self.responses[key] = {
                "description": ERRORS[status],
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
            }
            found[status] = {"$ref": f"#/components/responses/{key}"}
        return found
