"""Routes that are no API's in particular: health, requests, models, adapters, measurements, and the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.frontends.rest.apis.server import adapters, docs, models, operations

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.route import Route
    from llamakit.plugins.frontends.rest.state import ServerState


def routes(state: ServerState) -> list[Route]:
    """All of them."""
    return [route for part in (operations, adapters, models, docs) for route in part.routes(state)]
