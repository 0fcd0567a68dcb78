"""`tfs_z`: tail free sampling."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options, ui
from llamakit.sampler import NativeSampler


class TfsZOptions(Options):
    """`tfs_z` is a share of the curvature."""

    tfs_z: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Cut the tail where the sorted probabilities stop curving; 1 = off.",
            extra_json_schema=ui(off=1, step=0.01, disabled_by=("mirostat", ">", 0)),
        ),
    ] = 1.0


class TfsZ(NativeSampler):
    """Cuts where the share z of the second differences of the sorted probabilities is reached."""

    name = "tfs_z"
    summary = "cuts the tail of the distribution"
    Options = TfsZOptions

    def active(self) -> bool:
        """Whether it does anything."""
        return bool(self.options.tfs_z < 1)

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        return _sampling.TfsZ(self.options.tfs_z, self.context.min_keep)


@hookimpl
def llamakit_samplers() -> list[type[TfsZ]]:
    """Give the registry this plugin's sampler."""
    return [TfsZ]
