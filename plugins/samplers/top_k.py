"""`top_k`: keep the k likeliest tokens."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options, ui
from llamakit.sampler import NativeSampler


class TopKOptions(Options):
    """`top_k` counts tokens."""

    top_k: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 20,
            description="Keep only so many of the likeliest tokens; 0 = off.",
            extra_json_schema=ui(off=0, scale="log", disabled_by=("mirostat", ">", 0)),
        ),
    ] = 40


class TopK(NativeSampler):
    """The k likeliest tokens stay."""

    name = "top_k"
    summary = "keeps the k likeliest tokens"
    Options = TopKOptions

    def active(self) -> bool:
        """Whether it does anything."""
        return bool(self.options.top_k > 0)

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        return _sampling.TopK(self.options.top_k, self.context.min_keep)


@hookimpl
def llamakit_samplers() -> list[type[TopK]]:
    """Give the registry this plugin's sampler."""
    return [TopK]
