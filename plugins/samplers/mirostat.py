"""`mirostat`: keep the surprise of the text near a target."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options
from llamakit.sampler import NativeSampler, Replay, Stage


class MirostatOptions(Options):
    """With `mirostat` on, the other truncating samplers are left out."""

    mirostat: Annotated[Literal[0, 1, 2], Meta(description="Version of mirostat; 0 = off.")] = 0
    mirostat_tau: Annotated[float, Meta(ge=0, le=100, description="Target surprise, in bits a token.")] = 5.0
    mirostat_eta: Annotated[float, Meta(ge=0, le=10, description="How fast it adapts.")] = 0.1


class Mirostat(NativeSampler):
    """Basu et al. 2020 (arXiv:2007.14966), versions 1 and 2."""

    name = "mirostat"
    summary = "keeps the surprise of the text near a target"
    Options = MirostatOptions
    stage = Stage.CHOOSE
    replay = Replay.LOGITS

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
