"""`mirostat`: keep the surprise of the text near a target."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options, ui
from llamakit.sampler import NativeSampler, Stage


class MirostatOptions(Options):
    """With `mirostat` on, the other truncating samplers are left out."""

    mirostat: Annotated[
        Literal[0, 1, 2], Meta(description="Version of mirostat; 0 = off.", extra_json_schema=ui(off=0))
    ] = 0
    mirostat_tau: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="Target surprise, in bits a token.",
            extra_json_schema=ui(step=0.1, slider=(0, 10), unit="bits", disabled_by=("mirostat", "==", 0)),
        ),
    ] = 5.0
    mirostat_eta: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            description="How fast it adapts.",
            extra_json_schema=ui(step=0.01, slider=(0, 1), disabled_by=("mirostat", "==", 0)),
        ),
    ] = 0.1


class Mirostat(NativeSampler):
    """Basu et al. 2020 (arXiv:2007.14966), versions 1 and 2."""

    name = "mirostat"
    summary = "keeps the surprise of the text near a target"
    Options = MirostatOptions
    stage = Stage.CHOOSE

    def active(self) -> bool:
        """Whether a version is chosen."""
        return bool(self.options.mirostat)

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        o, c = self.options, self.context
        return _sampling.Mirostat(o.mirostat, o.mirostat_tau, o.mirostat_eta, c.seed, c.choice)


@hookimpl
def llamakit_samplers() -> list[type[Mirostat]]:
    """Give the registry this plugin's sampler."""
    return [Mirostat]
