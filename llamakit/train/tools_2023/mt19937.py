"""The random numbers of C++'s `std::mt19937`, with its state as the text that checkpoints keep.

libstdc++ writes the 624 words and the position of the next one; libc++ and Microsoft's library write 624 words that
begin with the next one. All are read; the text written is libstdc++'s.
Source: M. Matsumoto, T. Nishimura, "Mersenne Twister", 1998; the seeding is that of the C++ standard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.errors import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

N = 624
MULTIPLIER = 1812433253  # of the seeding


class MT19937:
    """A generator. `draw(n)` gives its next `n` numbers of 32 bits; `text` is its state."""

    def __init__(self, seed: int) -> None:
        key = np.zeros(N, np.uint32)
        word = key[0] = seed & 0xFFFFFFFF
        for i in range(1, N):
            word = (MULTIPLIER * (int(word) ^ int(word) >> 30) + i) & 0xFFFFFFFF
            key[i] = word
        self._set(key, N)

    @classmethod
    def from_text(cls, text: str) -> MT19937:
        """The generator with a state as text. Raises ModelFileError for what is none."""
        words = text.split()
        if len(words) not in (N, N + 1) or not all(
            word.isascii() and word.isdigit() and len(word) < 11 for word in words
        ):
            raise ModelFileError(
                f"a generator's state has {N} or {N + 1} whole numbers; this one has {len(words)} words"
            )
        values = [int(word) for word in words]
        position = values[N] if len(values) > N else N
        if max(values[:N]) >= 1 << 32 or position > N:
            raise ModelFileError("a generator's state has numbers of 32 bits, and a position up to 624")
        made = cls.__new__(cls)
        made._set(np.array(values[:N], np.uint32), position)
        return made

    def _set(self, key: NDArray[np.uint32], position: int) -> None:
        self._bits = np.random.MT19937(0)
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": position}}

    @property
    def text(self) -> str:
        """The state, as libstdc++ writes it."""
        state: Any = self._bits.state["state"]
        return " ".join(map(str, [*state["key"].tolist(), int(state["pos"])]))

    def draw(self, n: int) -> NDArray[np.uint32]:
        """The next `n` numbers, (n,)."""
        return np.asarray(self._bits.random_raw(n)).astype(np.uint32)
