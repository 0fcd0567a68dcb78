"""`dist`: draw from what is left, by the request's seed."""

from __future__ import annotations

from typing import Any

from llamakit.hookspecs import hookimpl
from llamakit.sampler import NativeSampler, Stage


class Dist(NativeSampler):
    """A draw by probability; numbers are keyed by (seed, choice, position)."""

    name = "dist"
    summary = "draws a token by probability, seeded"
    stage = Stage.CHOOSE

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        return _sampling.Dist(self.context.seed, self.context.choice)


@hookimpl
def llamakit_samplers() -> list[type[Dist]]:
    """Give the registry this plugin's sampler."""
    return [Dist]
