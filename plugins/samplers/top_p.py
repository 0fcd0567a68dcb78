"""`top_p`: nucleus sampling."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options, ui
from llamakit.sampler import NativeSampler


class TopPOptions(Options):
    """`top_p` is a probability."""

    top_p: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Keep the likeliest tokens up to this total probability; 1 = off.",
            extra_json_schema=ui(off=1, step=0.01, disabled_by=("mirostat", ">", 0)),
        ),
    ] = 0.95


class TopP(NativeSampler):
    """The smallest set of the likeliest tokens whose probabilities sum to p (arXiv:1904.09751)."""

    name = "top_p"
    summary = "keeps the likeliest tokens up to a total probability"
    Options = TopPOptions

    def active(self) -> bool:
        """Whether it does anything."""
        return bool(self.options.top_p < 1)

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        return _sampling.TopP(self.options.top_p, self.context.min_keep)


@hookimpl
def llamakit_samplers() -> list[type[TopP]]:
    """Give the registry this plugin's sampler."""
    return [TopP]
