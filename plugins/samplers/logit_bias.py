"""`logit_bias`: add to the logits of chosen tokens, or ban them."""

from __future__ import annotations

import math
from typing import Annotated, Any

from msgspec import Meta

from llamakit.errors import UsageError
from llamakit.hookspecs import hookimpl
from llamakit.options import Options
from llamakit.sampler import NativeSampler, Stage


class LogitBiasOptions(Options):
    """`logit_bias` holds (token id, bias) pairs; `false` in place of a bias bans the token."""

    logit_bias: Annotated[
        list[tuple[int, float | bool]],
        Meta(description="Pairs of a token id and what to add to its logit; false bans it."),
    ] = []
    ignore_eos: Annotated[bool, Meta(description="Ban the tokens that end a generation.")] = False


class LogitBias(NativeSampler):
    """logit += bias."""

    name = "logit_bias"
    summary = "adds to the logits of chosen tokens"
    Options = LogitBiasOptions
    stage = Stage.LOGITS
    stateless = True  # there may be 65,000 biases, and 64 answers

    def active(self) -> bool:
        """Whether there is any bias."""
        return bool(self.options.logit_bias) or self.options.ignore_eos

    def make_native(self) -> Any:
        """The native stage."""
        from llamakit import _sampling

        pairs = [(id, _value(bias)) for id, bias in self.options.logit_bias]
        for id, _ in pairs:
            if not 0 <= id < self.context.n_vocab:
                raise UsageError(f"logit_bias: token {id} is outside the vocabulary, 0..{self.context.n_vocab - 1}")
        if self.options.ignore_eos:
            pairs += [(id, -math.inf) for id in sorted(self.context.eog_ids)]
        return _sampling.LogitBias(pairs)

    def clone(self) -> LogitBias:
        """Itself: it has no state, and beams copy their samplers for every token."""
        return self


def _value(bias: float | bool) -> float:
    if isinstance(bias, bool):
        return 0.0 if bias else -math.inf
    return float(bias)


@hookimpl
def llamakit_samplers() -> list[type[LogitBias]]:
    """Give the registry this plugin's sampler."""
    return [LogitBias]
