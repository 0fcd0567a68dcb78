"""A sampler with an option of its own."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options
from llamakit.sampler import Candidates, Sampler


class ColdOptions(Options):
    """How cold."""

    strength: Annotated[float, Meta(ge=0, le=10, description="How much the distribution is sharpened.")] = 1.0


class Cold(Sampler):
    """Multiplies the logits."""

    name = "cold"
    summary = "sharpens the distribution"
    Options = ColdOptions

    def apply(self, candidates: Candidates) -> None:
        """logit *= 1 + strength."""
        candidates.scale(1.0 + self.options.strength)

    def clone(self) -> Cold:
        """It has no state."""
        return Cold(self.options, self.context)


@hookimpl
def llamakit_samplers() -> list[type[Sampler]]:
    """This package's sampler."""
    return [Cold]
