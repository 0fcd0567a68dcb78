"""Learning rates over a run: pure functions of the step, as shares of the highest rate.

Steps count from 0: the factor of step s is that of the update which makes s + 1 of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llamakit.train.options import Schedule2023

if TYPE_CHECKING:
    from llamakit.train.options import TrainOptions


def factor(options: TrainOptions, step: int, total: int) -> float:
    """The share of `options.lr` at a step of a run of `total` steps."""
    if options.schedule == "2023":
        return schedule_2023(step, options.schedule_2023)
    warmup = warmup_steps(options.warmup, total)
    if step < warmup:
        return (step + 1) / (warmup + 1)  # neither end is wasted on a rate of 0
    if options.schedule == "constant":
        return 1.0
    at, length = step - warmup, max(1, total - warmup)
    if options.schedule == "linear":
        return linear(at, length, options.min_lr)
    return cosine(at, length, options.min_lr, options.cycles, options.cycle_growth)


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of warm-up: a share of the run if below 1, else that many, never all of the run."""
    steps = round(warmup * total) if warmup < 1 else round(warmup)
    return max(0, min(steps, total - 1))


def linear(step: int, length: int, minimum: float) -> float:
    """From 1 at step 0 to `minimum` at step `length`, and from there on."""
    return minimum + (1 - minimum) * max(0.0, 1 - step / length)


def cosine(step: int, length: int, minimum: float, cycles: int = 1, growth: float = 1.0) -> float:
    """Half a cosine from 1 to `minimum`, `cycles` times within `length` steps, each period `growth` times the last.

    Restarts as in SGDR (arXiv 1608.03983); from step `length` on it is `minimum`.
    """
    if step >= length:
        return minimum
    shares = [growth**i for i in range(cycles)]
    period = length / sum(shares)  # of the first cycle; fractions of steps are kept
    start = 0.0
    for share in shares:
        if step < start + period * share:
            return _half_cosine((step - start) / (period * share), minimum)
        start += period * share
    return minimum


def schedule_2023(step: int, options: Schedule2023) -> float:
    """The schedule of the 2023 `finetune` as it was: `step` counts the updates done.

    The first update has the factor `floor`, and without restarts the cosine counts from step 0, not from the end of
    the warm-up, so that there is a small jump between them.
    """
    if step < options.warmup:
        share = step / options.warmup
    else:
        at, period = step, options.decay_steps
        if options.restart:
            at = step - options.warmup
            while at > period:
                at -= period
                period = int(period * options.restart_growth)
        share = _half_cosine(min(at, period) / period, options.minimum)
    return options.floor + share * (1 - options.floor)


def _half_cosine(done: float, minimum: float) -> float:
    """From 1 where nothing is done to `minimum` where all is."""
    return minimum + (1 - minimum) * 0.5 * (1 + math.cos(math.pi * done))
