"""`penalties`: make recent tokens less likely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from llamakit.hookspecs import hookimpl
from llamakit.options import Options, ui
from llamakit.sampler import NativeSampler, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence


class PenaltiesOptions(Options):
    """All three look at the last `repeat_last_n` tokens."""

    repeat_penalty: Annotated[
        float,
        Meta(
            gt=0,
            le=100,
            description="Divide the logits of recent tokens by this, if positive; else multiply; 1 = off.",
            extra_json_schema=ui(off=1, step=0.05, slider=(0, 2)),
        ),
    ] = 1.0
    repeat_last_n: Annotated[
        int,
        Meta(
            ge=-1,
            le=1 << 20,
            description="How many recent tokens count; 0 = off, -1 = all of the context.",
            extra_json_schema=ui(off=0, unit="tokens"),
        ),
    ] = 64
    frequency_penalty: Annotated[
        float,
        Meta(
            ge=-100,
            le=100,
            description="Subtract this for each time a token occurred; 0 = off.",
            extra_json_schema=ui(off=0, step=0.05, slider=(-2, 2)),
        ),
    ] = 0.0
    presence_penalty: Annotated[
        float,
        Meta(
            ge=-100,
            le=100,
            description="Subtract this if a token occurred at all; 0 = off.",
            extra_json_schema=ui(off=0, step=0.05, slider=(-2, 2)),
        ),
    ] = 0.0
    penalize_nl: Annotated[
        bool, Meta(description="Penalise the newline token too.", extra_json_schema=ui(advanced=True))
    ] = True


class Penalties(NativeSampler):
    """Repetition (arXiv:1909.05858), frequency and presence penalties in one pass."""

    name = "penalties"
    summary = "makes recent tokens less likely"
    Options = PenaltiesOptions
    stage = Stage.LOGITS

    def active(self) -> bool:
        """Whether any penalty is on."""
        o = self.options
        return o.repeat_last_n != 0 and bool(o.repeat_penalty != 1 or o.frequency_penalty or o.presence_penalty)

    @property
    def _window(self) -> int:
        """How many of the last tokens count."""
        n: int = self.options.repeat_last_n
        return self.context.n_ctx if n < 0 else n

    def accept_many(self, token_ids: Sequence[int]) -> None:
        """Tell the stage those that count: of a long prompt it would note all, for each answer."""
        super().accept_many(token_ids[-self._window :] if self._window else [])

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        o, window = self.options, self._window
        spared = -1 if o.penalize_nl or self.context.newline_id is None else self.context.newline_id
        return _sampling.Penalties(window, o.repeat_penalty, o.frequency_penalty, o.presence_penalty, spared)


@hookimpl
def llamakit_samplers() -> list[type[Penalties]]:
    """Give the registry this plugin's sampler."""
    return [Penalties]
