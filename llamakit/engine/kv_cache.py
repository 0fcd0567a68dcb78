"""Which blocks of the KV cache belong to whom: a pool with reference counts and one table per sequence.

This module only does the bookkeeping; keys and values themselves are state of the device (`backend.KVCache`).
A position's place ("cell") is block * block_size + position % block_size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamakit.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from llamakit.backend import KVCache


class BlockPool:
    """Free blocks and the reference counts of the others."""

    def __init__(self, n_block: int) -> None:
        self.n_block = n_block
        self._free = list(range(n_block - 1, -1, -1))
        self._count = [0] * n_block

    @property
    def n_free(self) -> int:
        """How many blocks are free."""
        return len(self._free)

    def allocate(self) -> int:
        """A free block, held once."""
        if not self._free:
            raise OutOfMemoryError(
                f"the KV cache is full: all {self.n_block} blocks are in use; use a smaller context or fewer sequences"
            )
        block = self._free.pop()
        self._count[block] = 1
        return block

    def retain(self, block: int) -> None:
        """Hold a block once more."""
        self._count[block] += 1

    def release(self, block: int) -> None:
        """Let go of a block; it is free when nobody holds it."""
        self._count[block] -= 1
        if self._count[block] == 0:
            self._free.append(block)

    def holders(self, block: int) -> int:
        """How many hold the block."""
        return self._count[block]

    def is_shared(self, block: int) -> bool:
        """Whether somebody else holds the block too."""
        return self._count[block] > 1


class BlockTable:
    """The blocks of one sequence, in order of position, and how many positions are filled."""

    def __init__(self, pool: BlockPool, kv: KVCache) -> None:
        self.pool, self.kv = pool, kv
        self.size = kv.spec.block_size
        self.blocks: list[int] = []
        self.length = 0
        self._array: npt.NDArray[np.int32] | None = None  # of `blocks`, made when it is asked for

    def array(self) -> npt.NDArray[np.int32]:
        """The blocks as an array."""
        if self._array is None or len(self._array) != len(self.blocks):
            self._array = np.array(self.blocks, np.int32)
        return self._array

    def adopt(self, index: int, block: int) -> None:
        """Hold `block`, which has the same content, in place of our own at `index`."""
        if block != self.blocks[index]:
            self.pool.retain(block)
            self.pool.release(self.blocks[index])
            self.blocks[index] = block
            self._array = None

    def share(self, blocks: Sequence[int], length: int) -> None:
        """Start, empty, with blocks of somebody else that hold the first `length` positions."""
        for block in blocks:
            self.pool.retain(block)
        self.blocks, self.length, self._array = list(blocks), length, None

    def cell(self, position: int) -> int:
        """Where a position lies."""
        return self.blocks[position // self.size] * self.size + position % self.size

    def cells(self, start: int, stop: int) -> list[int]:
        """Where positions start..stop-1 lie."""
        return [self.cell(position) for position in range(start, stop)]

    def missing(self, n: int) -> int:
        """How many free blocks `extend(n)` takes, a copy of a shared last block included."""
        n_new = max(0, -(-(self.length + n) // self.size) - len(self.blocks))
        return n_new + int(n > 0 and self._writes_shared())

    def extend(self, n: int) -> list[int]:
        """Make room for `n` more positions and return their cells; a shared block is copied before it is written."""
        if n and self._writes_shared():
            shared = self.blocks[-1]
            private = self.pool.allocate()
            self.kv.copy([shared], [private])
            self.pool.release(shared)
            self.blocks[-1] = private
            self._array = None
        while len(self.blocks) * self.size < self.length + n:
            self.blocks.append(self.pool.allocate())
        start, self.length = self.length, self.length + n
        return [self.cell(start)] if n == 1 else self.cells(start, self.length)

    def truncate(self, length: int) -> None:
        """Rewind: forget all positions from `length` on."""
        keep = -(-length // self.size)
        self._release(self.blocks[keep:])
        del self.blocks[keep:]
        self._array = None
        self.length = length

    def fork(self) -> BlockTable:
        """A second sequence with the same past; blocks are shared until one of the two writes."""
        other = BlockTable(self.pool, self.kv)
        other.blocks, other.length = list(self.blocks), self.length
        for block in self.blocks:
            self.pool.retain(block)
        return other

    def spare_for_discard(self, start: int, n: int) -> int:
        """How many free blocks `discard` takes on its way: at most two, and one for each old block that is shared."""
        gone, free, least = start // self.size, 0, 0
        for block_start in range(gone * self.size, self.length - n, self.size):
            free -= 1
            least = min(least, free)
            stop = min(block_start + self.size, self.length - n)
            while gone < len(self.blocks) and (gone + 1) * self.size <= stop + n:
                free += not self.pool.is_shared(self.blocks[gone])
                gone += 1
        return -least

    def discard(self, start: int, n: int) -> None:
        """Context shift: drop positions start..start+n-1 and move what follows down by n.

        What follows is copied into fresh blocks with its keys rotated back, a block at a time, and old blocks are
        let go as soon as all of theirs is moved, so that two spare blocks are enough where nobody shares the old ones.
        """
        old, first = list(self.blocks), start // self.size
        new_length = self.length - n
        self.blocks, self._array = old[:first], None
        gone = first  # old blocks before this one are kept or already released
        for block_start in range(first * self.size, new_length, self.size):
            fresh = self.pool.allocate()
            stop = min(block_start + self.size, new_length)
            self._move(old, fresh, range(block_start, min(stop, start)), 0)
            self._move(old, fresh, range(max(block_start, start), stop), n)
            self.blocks.append(fresh)
            while gone < len(old) and (gone + 1) * self.size <= stop + n:
                self.pool.release(old[gone])
                gone += 1
        self._release(old[gone:])
        self.length = new_length

    def release(self) -> None:
        """Give all blocks back."""
        self._release(self.blocks)
        self.blocks, self.length, self._array = [], 0, None

    def _move(self, old: list[int], fresh: int, positions: range, n: int) -> None:
        """Copy the cells that will hold `positions` from where they lie now, `n` positions later."""
        if positions:
            source = [old[(p + n) // self.size] * self.size + (p + n) % self.size for p in positions]
            self.kv.shift(source, [fresh * self.size + p % self.size for p in positions], -n)

    def _writes_shared(self) -> bool:
        return self.length % self.size != 0 and self.pool.is_shared(self.blocks[-1])

    def _release(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self.pool.release(block)
