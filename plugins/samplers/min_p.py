"""`min_p`: keep tokens with a share of the likeliest one's probability."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options, ui
from llamakit.sampler import NativeSampler


class MinPOptions(Options):
    """`min_p` is a share. Off by default: the chain of 2023 did not have it."""

    min_p: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Keep tokens with at least this share of the likeliest one's probability; 0 = off.",
            extra_json_schema=ui(off=0, step=0.01, disabled_by=("mirostat", ">", 0)),
        ),
    ] = 0.0


class MinP(NativeSampler):
    """Tokens with at least p times the probability of the likeliest stay (arXiv:2407.01082)."""

    name = "min_p"
    summary = "keeps tokens with a share of the likeliest one's probability"
    Options = MinPOptions

    def active(self) -> bool:
        """Whether it does anything."""
        return bool(self.options.min_p > 0)

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        return _sampling.MinP(self.options.min_p, self.context.min_keep)


@hookimpl
def llamakit_samplers() -> list[type[MinP]]:
    """Give the registry this plugin's sampler."""
    return [MinP]
