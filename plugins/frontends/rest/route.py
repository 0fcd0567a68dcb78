"""A route of the server: where, what answers, and what the API description says of it.

Each module of `apis/` has `routes(state)`; `app.make_app` adds them all, and `openapi` describes them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from llamakit.plugins.frontends.rest.keys import Role


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of a route, for `/openapi.json`.

    `body` and `response` are msgspec Structs, or other types that msgspec describes (None: no body); `query`: a Struct
    of the parameters in the URL; `sampling`: whether the body takes the options of every installed sampler too;
    `defaults`: where this API's differ from the samplers' own; `stream`: whether it can answer with server-sent events;
    `example`: a body that works with any model; `media`, `stream_media`: content types of whole and streamed answers.
    """

    summary: str
    tag: str
    body: Any = None
    response: Any = None
    sampling: bool = False
    defaults: Mapping[str, object] = {}
    stream: bool = False
    description: str = ""
    query: Any = None
    example: Any = None
    media: str = "application/json"
    stream_media: str = "text/event-stream"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A path template in falcon's form, the resource that answers, and its operations by method ("POST").

    `open`: served without an API key; only the page's own static files and `/health` are. `always`: also while the
    server is full or shuts down. `role`: what a key must have to look at it; `changes`: other methods than GET change
    something for all, so that they want `admin`.
    """

    path: str
    resource: Any
    operations: Mapping[str, Operation]
    open: bool = False
    always: bool = False
    role: Role = Role.USE
    changes: bool = False

    @property
    def api(self) -> str:
        """The API that it belongs to, for the metrics: the tag of its operations."""
        return next((operation.tag for operation in self.operations.values()), "")
