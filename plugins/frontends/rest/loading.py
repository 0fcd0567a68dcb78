"""Waiting for a model that is not loaded yet, while telling how far it is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llamakit.plugins.frontends.rest.state import ServerState

TICK = 0.1


def load(state: ServerState, name: str) -> Iterator[float]:
    """Load a model; yields how far it is, from 0 to 1, when that has changed. Raises what its loading raised."""
    ended = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            state.pool.load(name)
        except BaseException as error:  # raised again on the thread that asked
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="llamakit-load-wait", daemon=True).start()
    told = 0.0
    yield told
    while not ended.wait(TICK):
        progress = round(state.pool.info(name).progress, 3)
        if progress > told:
            told = progress
            yield told
    if errors:
        raise errors[0]
