"""A route of the server: where, what answers, and what the API description says of it.

Each module of `apis/` has `routes(state)`; `app.make_app` adds them all, and `openapi` describes them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of a route, for `/openapi.json`.

    `body` and `response` are msgspec Structs (None: no body); `sampling`: whether the body takes the options of every
    installed sampler too; `stream`: whether it can answer with server-sent events.
    """

    summary: str
    tag: str
    body: Any = None
    response: Any = None
    sampling: bool = False
    stream: bool = False
    description: str = ""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A path template in falcon's form, the resource that answers, and its operations by method ("POST").

    `open`: served without an API key; only the page's own static files and `/health` are.
    """

    path: str
    resource: Any
    operations: Mapping[str, Operation]
    open: bool = False
