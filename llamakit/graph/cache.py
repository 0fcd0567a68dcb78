"""What a layer of a network keeps of each position, so that later ones can attend to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamakit.graph.attrs import RopeAttrs


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """Heads of keys and values, and their sizes; `rope`: how keys were rotated, None if they were not."""

    n_head_kv: int
    head_dim_k: int
    head_dim_v: int
    rope: RopeAttrs | None = None

    @property
    def n_values(self) -> tuple[int, int]:
        """Numbers in the keys and in the values of a position."""
        return self.n_head_kv * self.head_dim_k, self.n_head_kv * self.head_dim_v
