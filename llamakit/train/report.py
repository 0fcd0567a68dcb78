"""What a training run tells while it runs: one `StepInfo` a step, to every callback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable


class StepInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One step that was done.

    `step` counts from 1 to `total`; `epoch`: epochs done, with fractions; `loss`: mean over the tokens that count, in
    nats; `lr`: learning rate of the update; `grad_norm`: before clipping; `tokens`: rows that were computed; `seconds`:
    of the step, without validation and saving; `val_loss`: where it was measured after this step.
    """

    step: int
    total: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float
    val_loss: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Rows a second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


if TYPE_CHECKING:
    OnStep = Callable[[StepInfo], None]
