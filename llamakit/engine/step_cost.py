"""What a step costs here: seconds = base + rows * per_row, learned from the steps that were run.

The scheduler asks it how many rows of a prompt fit beside running answers without making them wait, and the
speculation how many guessed tokens are worth their rows.
"""

from __future__ import annotations

from array import array

FORGET = 0.97  # weight of the past at each step: about the last thirty steps count
FIRST_PER_ROW = 2e-3  # seconds; before anything was measured


class StepCost:
    """A straight line through (rows, seconds), older steps counting less and less."""

    def __init__(self) -> None:
        # Sums over the steps of 1, rows, seconds, rows squared, rows times seconds. As numbers of their own they would
        # lie among what the latest step made, and keep what is around them from being given back.
        self._sums = array("d", [0.0] * 5)

    def observe(self, rows: int, seconds: float) -> None:
        """One more step."""
        for i, value in enumerate((1.0, rows, seconds, rows * rows, rows * seconds)):
            self._sums[i] = FORGET * self._sums[i] + value

    @property
    def per_row(self) -> float:
        """Seconds that one more row costs."""
        n, x, y, xx, xy = self._sums
        if not n:
            return FIRST_PER_ROW
        spread = n * xx - x * x
        mean = y / max(x, 1e-9)  # all steps alike: as if every row cost the same
        if spread <= 1e-6 * n * xx:
            return mean
        return min(max((n * xy - x * y) / spread, mean * 0.02), mean)

    def seconds(self, rows: int) -> float:
        """A step of so many rows."""
        n, x, y = self._sums[:3]
        if not n:
            return rows * FIRST_PER_ROW
        return max(y / n + (rows - x / n) * self.per_row, 1e-6)

    def rows_within(self, seconds: float, rows: int) -> int:
        """How many more rows a step of `rows` rows may have to end within so many seconds."""
        return max(0, int((seconds - self.seconds(rows)) / self.per_row))
