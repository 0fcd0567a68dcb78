"""Waiting for what must come: far longer than any machine needs, which costs nothing where it comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0  # seconds, for a machine that stands still for some of them; pytest gives a test several times as many


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Return as soon as a condition holds; fail if it still does not after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)
