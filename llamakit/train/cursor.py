"""Where a run is in its data: which windows come next, in an order that can be found again from three numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASK = (1 << 64) - 1
MOST_EPOCHS = 1 << 48


class CursorState(msgspec.Struct, frozen=True):
    """All that a checkpoint needs: `position` counts the windows taken in `epoch`, which counts from 0."""

    seed: int
    epoch: int
    position: int


class Cursor:
    """Goes through `n` windows, epoch after epoch, each in an order of its own.

    A micro-step never mixes two epochs: the last one of an epoch may have fewer windows.
    """

    def __init__(self, n: int, *, seed: int = 0, shuffle: bool = True) -> None:
        if n < 1:
            raise ValueError("a cursor needs windows to go through")
        self.n, self.seed, self.shuffle = n, seed, shuffle
        self.epoch, self.position = 0, 0
        self._order = self._order_of(0)

    @property
    def state(self) -> CursorState:
        """Where it is now; `restore` goes back there."""
        return CursorState(self.seed, self.epoch, self.position)

    def restore(self, state: CursorState) -> None:
        """Go to a state, of this or another cursor over as many windows."""
        if not 0 <= state.position < self.n or not 0 <= state.epoch < MOST_EPOCHS:
            raise ValueError(f"position {state.position} of epoch {state.epoch}, but there are {self.n} windows")
        self.seed, self.epoch, self.position = state.seed, state.epoch, state.position
        self._order = self._order_of(self.epoch)

    def take(self, batch: int) -> NDArray[np.int64]:
        """Numbers of the next windows: `batch` of them, or what is left of the epoch."""
        taken = self._order[self.position : self.position + batch]
        self.position += len(taken)
        if self.position >= self.n:
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._order_of(self.epoch)
        return taken

    def take_step(self, batch: int, accumulation: int) -> list[NDArray[np.int64]]:
        """The micro-steps of the next step: `accumulation` of them, or what is left of the epoch."""
        micro_steps = [self.take(batch)]
        while len(micro_steps) < accumulation and self.position:
            micro_steps.append(self.take(batch))
        return micro_steps

    @property
    def done(self) -> float:
        """Epochs done, with the share of the present one."""
        return self.epoch + self.position / self.n

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        return shuffled(self.n, self.seed, epoch) if self.shuffle else np.arange(self.n, dtype=np.int64)


def shuffled(n: int, seed: int, stream: int) -> NDArray[np.int64]:
    """The numbers 0 to n - 1 in an order that depends on `seed` and `stream` alone, (n,).

    They are sorted by raw draws of the counter-based generator Philox, ties by number: unlike numpy's shuffles, which
    may change between versions, those are fixed.
    """
    draws = np.random.Philox(key=np.array([seed & MASK, stream & MASK], np.uint64)).random_raw(n)
    order: NDArray[np.int64] = np.argsort(np.asarray(draws, np.uint64), kind="stable").astype(np.int64)
    return order


def steps_per_epoch(n_window: int, batch: int, accumulation: int) -> int:
    """Steps that `Cursor.take_step` makes of an epoch."""
    return math.ceil(math.ceil(n_window / batch) / accumulation)


def total_steps(n_window: int, batch: int, accumulation: int, epochs: float) -> int:
    """Steps of a run over so many epochs; at least one."""
    return max(1, math.ceil(steps_per_epoch(n_window, batch, accumulation) * epochs - 1e-9))
