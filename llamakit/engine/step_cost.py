"""What a step costs here: seconds = base + rows * per_row, learned from the steps that were run.

The scheduler asks it how many rows of a prompt fit beside running answers without making them wait, and the
speculation how many guessed tokens are worth their rows.
"""

from __future__ import annotations

FORGET = 0.97  # weight of the past at each step: about the last thirty steps count
FIRST_PER_ROW = 2e-3  # seconds; before anything was measured


class StepCost:
    """A straight line through (rows, seconds), older steps counting less and less."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """One more step."""
        for name, value in (("_n", 1.0), ("_x", rows), ("_y", seconds), ("_xx", rows * rows), ("_xy", rows * seconds)):
            setattr(self, name, FORGET * getattr(self, name) + value)

    @property
    def per_row(self) -> float:
        """Seconds that one more row costs."""
        if not self._n:
            return FIRST_PER_ROW
        spread = self._n * self._xx - self._x * self._x
        mean = self._y / max(self._x, 1e-9)  # all steps alike: as if every row cost the same
        if spread <= 1e-6 * self._n * self._xx:
            return mean
        slope = (self._n * self._xy - self._x * self._y) / spread
        return min(max(slope, mean * 0.02), mean)

    def seconds(self, rows: int) -> float:
        """A step of so many rows."""
        if not self._n:
            return rows * FIRST_PER_ROW
        return max(self._y / self._n + (rows - self._x / self._n) * self.per_row, 1e-6)

    def rows_within(self, seconds: float, rows: int) -> int:
        """How many more rows a step of `rows` rows may have to end within so many seconds."""
        return max(0, int((seconds - self.seconds(rows)) / self.per_row))
