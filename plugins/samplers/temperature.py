"""`temperature`: divide the logits."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options, ui
from llamakit.sampler import NativeSampler


class TemperatureOptions(Options):
    """`temperature` divides logits."""

    temperature: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="Below 1 sharpens, above 1 flattens; 0 = always the likeliest token.",
            extra_json_schema=ui(off=1, step=0.05, slider=(0, 2)),
        ),
    ] = 0.8


class Temperature(NativeSampler):
    """logit / temperature; at 0 only the likeliest token stays."""

    name = "temperature"
    summary = "sharpens or flattens the distribution"
    Options = TemperatureOptions

    def active(self) -> bool:
        """Whether it does anything."""
        return bool(self.options.temperature != 1)

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        return _sampling.Temperature(self.options.temperature)


@hookimpl
def llamakit_samplers() -> list[type[Temperature]]:
    """Give the registry this plugin's sampler."""
    return [Temperature]
