"""Adapters by slot: their matrices in one pool, and for each tensor a table that says where those of a slot lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamakit.backend import AdapterTable
from llamakit.errors import UsageError
from llamakit.gpu.driver import At

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.backend import Adapter
    from llamakit.gpu.driver import Driver

FIELDS = 4  # of a slot: rank, where A and B begin in the pool, bits of the scale (see mixture.cl)
MOST = 2**31 - 1  # floats of a pool, whose places are numbers of 32 bits


class GPUAdapters(AdapterTable):
    """Slots 1..n_slot. `ranks`: the highest rank of each tensor that any slot adapts; vectors count as rank 1."""

    def __init__(self, driver: Driver, targets: Mapping[str, tuple[int, ...]], n_slot: int) -> None:
        self.driver, self.targets, self.n_slot = driver, dict(targets), n_slot
        self.version = 0  # grows when what steps launch may have changed
        self.slots: list[dict[str, Adapter]] = [{} for _ in range(n_slot + 1)]
        self.ranks: dict[str, int] = {}
        self._numbers = {name: i for i, name in enumerate(self.targets)}
        self._entries = np.zeros((max(len(self.targets), 1), n_slot + 1, FIELDS), np.int32)
        self.entries = At(driver.allocate(self._entries.nbytes))
        self.pool = At(driver.allocate(4))
        self._scratch = At(driver.allocate(4))
        driver.write(self.entries, self._entries)

    def set(self, slot: int, adapters: Mapping[str, Adapter]) -> None:
        """Fill a slot: the pool is packed again."""
        if not 1 <= slot <= self.n_slot:
            raise UsageError(f"adapter slot {slot}: there are slots 1 to {self.n_slot}")
        for name, adapter in adapters.items():
            self._check(name, adapter)
        self.slots[slot] = dict(adapters)
        self._pack()

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        self.set(slot, {})

    def entry(self, name: str) -> At:
        """The table of a tensor."""
        return self.entries.plus(self._numbers[name] * (self.n_slot + 1) * FIELDS * 4)

    def scratch(self, n: int) -> At:
        """Memory for `n` floats, until it is asked for again."""
        if self._scratch.block.n_bytes < 4 * n:
            self._scratch, self.version = At(self.driver.allocate(4 * n)), self.version + 1
        return self._scratch

    def _check(self, name: str, adapter: Adapter) -> None:
        if name not in self.targets:
            raise UsageError(f"adapter for {name!r}: the model has no such tensor to adapt")
        shape = self.targets[name]
        found = np.shape(adapter.B) if adapter.A is None else (np.shape(adapter.B)[0], np.shape(adapter.A)[1])
        if tuple(found) != tuple(shape) or (adapter.A is not None and np.shape(adapter.A)[0] != np.shape(adapter.B)[1]):
            raise UsageError(f"adapter for {name!r} makes {tuple(found)}, the tensor is {tuple(shape)}")

    def _pack(self) -> None:
        self.version += 1
        self._entries[:], self.ranks, parts, n = 0, {}, [np.zeros(1, np.float32)], 1
        for slot, adapters in enumerate(self.slots):
            for name, adapter in adapters.items():
                rank = 1 if adapter.A is None else int(np.shape(adapter.A)[0])
                places = []
                for values in (adapter.A, adapter.B):
                    places.append(n)
                    if values is not None:
                        parts.append(np.ascontiguousarray(values, np.float32).reshape(-1))
                        n += parts[-1].size
                scale = int(np.float32(adapter.scale).view(np.int32))
                if n > MOST:
                    raise UsageError(f"adapters of {n:,} numbers are too large: a device takes {MOST:,} at once")
                self._entries[self._numbers[name], slot] = (rank, *places, scale)
                self.ranks[name] = max(self.ranks.get(name, 0), rank)
        packed = np.concatenate(parts)
        if self.pool.block.n_bytes < packed.nbytes:
            self.pool = At(self.driver.allocate(packed.nbytes))
        self.driver.write(self.pool, packed)
        self.driver.write(self.entries, self._entries)
