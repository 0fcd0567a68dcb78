"""`typical_p`: locally typical sampling."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options, ui
from llamakit.sampler import NativeSampler


class TypicalPOptions(Options):
    """`typical_p` is a probability."""

    typical_p: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Keep the tokens whose surprise is nearest to the entropy, up to this total; 1 = off.",
            extra_json_schema=ui(off=1, step=0.01, disabled_by=("mirostat", ">", 0)),
        ),
    ] = 1.0


class TypicalP(NativeSampler):
    """Tokens in order of |surprise - entropy| until their sum exceeds p (arXiv:2202.00666)."""

    name = "typical_p"
    summary = "keeps tokens of typical surprise"
    Options = TypicalPOptions

    def active(self) -> bool:
        """Whether it does anything."""
        return bool(self.options.typical_p < 1)

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        return _sampling.TypicalP(self.options.typical_p, self.context.min_keep)


@hookimpl
def llamakit_samplers() -> list[type[TypicalP]]:
    """Give the registry this plugin's sampler."""
    return [TypicalP]
