"""`greedy`: always the likeliest token."""

from __future__ import annotations

from typing import Any

from llamakit.hookspecs import hookimpl
from llamakit.sampler import NativeSampler, Stage


class Greedy(NativeSampler):
    """The likeliest token; the lowest id of several."""

    name = "greedy"
    summary = "chooses the likeliest token"
    stage = Stage.CHOOSE

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        return _sampling.Greedy()


@hookimpl
def llamakit_samplers() -> list[type[Greedy]]:
    """Give the registry this plugin's sampler."""
    return [Greedy]
