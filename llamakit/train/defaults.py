"""What a run does where nothing is said: windows a micro-step, epochs and learning rate by the data and the model."""

from __future__ import annotations

import math

from msgspec.structs import replace

from llamakit.train.cursor import steps_per_epoch
from llamakit.train.options import TrainOptions

USUAL_BATCH, STEPS_OF_EPOCH = 4, 10  # windows; fewer where an epoch would have fewer steps than this
LEAST_STEPS = 100  # a few examples are gone through as often as it takes: of fewer steps little is learned
USUAL_LR, USUAL_WIDTH, MOST_LR = 2e-4, 4096, 1e-3


def settled(options: TrainOptions, n_window: int, n_embd: int) -> TrainOptions:
    """The options with numbers where they are 0: for so many windows, and a model of this width.

    Adapters of narrow models need larger steps, between those of one rate for all and of one that is inverse to the
    width: the root of it is taken.
    """
    o = options
    batch = o.batch or max(1, min(USUAL_BATCH, n_window // (STEPS_OF_EPOCH * o.grad_accumulation)))
    epochs = o.epochs or float(max(1, math.ceil(LEAST_STEPS / steps_per_epoch(n_window, batch, o.grad_accumulation))))
    wider = 1.0 if o.full else max(1.0, math.sqrt(USUAL_WIDTH / n_embd))
    return replace(o, batch=batch, epochs=epochs, lr=o.lr or min(MOST_LR, USUAL_LR * wider))
