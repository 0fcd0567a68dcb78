"""The room of the KV cache: who holds which blocks, which beginnings of texts are known, how a full context moves on.

`KVSpace` joins the pool of blocks and the prefix tree: what one evaluates is found again by the next, and goes when
room is needed. Not thread-safe: the engine's thread owns it.
"""

from __future__ import annotations

from contextlib import suppress
from ctypes import c_int64
from typing import TYPE_CHECKING

from llamakit.engine.kv_cache import BlockPool, BlockTable
from llamakit.engine.prefix_tree import PrefixTree
from llamakit.errors import OutOfMemoryError
from llamakit.system import free_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from llamakit.backend import KVCache
    from llamakit.engine.prefix_tree import Node
    from llamakit.engine.sequence import Track


ASIDE_SHARE = 0.5  # of the cache: as much again may be put aside
MOST_OF_FREE = 0.25  # of the machine's free memory that is taken for it at once
MOST_COPIED = 1 << 25  # bytes of keys and values that are copied out or in within one step, about 20 ms


class KVSpace:
    """The blocks of one KV cache. `pool`: who holds them; `tree`: the beginnings that are known, by key."""

    def __init__(self, kv: KVCache) -> None:
        self.kv = kv
        self.size = kv.spec.block_size
        self._n_matched = c_int64()  # changed in place, as the numbers of `stats.Counters` are
        self._n_copied = c_int64()  # bytes that were put aside and brought back in this step
        self.reset()

    @property
    def n_matched(self) -> int:
        """Tokens that were found in the tree so far, which is work."""
        return self._n_matched.value

    def begin_step(self) -> None:
        """Nothing is copied yet in this step."""
        self._n_copied.value = 0

    @property
    def copied_enough(self) -> bool:
        """Whether enough was put aside and brought back for one step."""
        return self._n_copied.value >= MOST_COPIED

    def reset(self) -> None:
        """Nothing is held, nothing known."""
        self.pool = BlockPool(self.kv.spec.n_block)
        self.tree = PrefixTree(self.pool, self.size)

    def new_table(self) -> BlockTable:
        """A table without blocks."""
        return BlockTable(self.pool, self.kv)

    def find_room(self, n_block: int) -> bool:
        """Whether so many blocks are free, after forgetting old prefixes if need be."""
        if self.pool.n_free < n_block:
            self.tree.evict(n_block)
        return self.pool.n_free >= n_block

    def no_room(self) -> OutOfMemoryError:
        """What a request is told that is alone and still finds no room."""
        n = self.kv.spec.n_block * self.size
        return OutOfMemoryError(
            f"the KV cache is full: one request needs more than the {n:,} positions that there are",
            hint="more memory for it (--kv-memory), or a shorter context (-c)",
        )

    # -- beginnings that are known ------------------------------------------------------------------------------

    def known(self, key: Hashable, tokens: Sequence[int]) -> tuple[Node, int]:
        """Where in the tree the whole blocks end that are known of a beginning, and how many these are."""
        path, length = self._match(key, tokens)
        return self._last_whole(key, path, length)

    def recall(self, key: Hashable, track: Track, *, known: bool = True) -> None:
        """Give a track the blocks of the longest beginning that is known; at least one token stays to be evaluated.

        `known=False`: none, since logits are wanted for all of it. One of which something was put aside gets none.
        """
        track.table.release()
        if track.aside is not None:
            return
        path, length = self._match(key, track.tokens[:-1]) if known else ([], 0)
        track.table.share([node.block for node in path], length)
        track.node, track.n_known = self._last_whole(key, path, length)

    def _match(self, key: Hashable, tokens: Sequence[int]) -> tuple[list[Node], int]:
        path, length = self.tree.match(key, tokens)
        self._n_matched.value += length
        return path, length

    def _last_whole(self, key: Hashable, path: list[Node], length: int) -> tuple[Node, int]:
        n = length // self.size  # the last of a path may be known in part
        return (path[n - 1] if n else self.tree.root(key)), n

    def remember(self, track: Track, *, whole: bool = True) -> None:
        """Put the blocks that are complete into the prefix tree; with `whole=False` also the part of the last one."""
        size, table, node = self.size, track.table, track.node
        n_left = table.length - track.n_known * size
        if node is None or n_left < (size if whole else 1):
            return
        if track.n_known and node.block != table.blocks[track.n_known - 1]:
            track.node = None  # pruned for a shift that found no room after all; it may be another's by now
            return
        while n_left >= size:
            start = track.n_known * size
            node = self.tree.insert(node, track.tokens[start : start + size], table.blocks[track.n_known])
            table.adopt(track.n_known, node.block)
            track.node, track.n_known, n_left = node, track.n_known + 1, n_left - size
        if n_left and not whole:
            rest = track.tokens[track.n_known * size : table.length]
            node = self.tree.insert(node, rest, table.blocks[track.n_known])
        self.tree.use(node)

    # -- what tokens do not give again --------------------------------------------------------------------------

    @staticmethod
    def is_changed(track: Track) -> bool:
        """Whether the tokens of a track alone would give something else than it has: after a shift of its context."""
        return track.node is None and track.table.length > 0

    def put_aside(self, track: Track, held: int) -> int:
        """Keep what a changed track has evaluated; the number of its tokens, or 0.

        `held`: tokens that are put aside by then. Beyond `ASIDE_SHARE` they are evaluated again, but for the first, and
        all are where memory is short.
        """
        n = track.table.length
        if held and held + n > ASIDE_SHARE * self.pool.n_block * self.size:
            return 0
        cells = track.table.cells(0, n)
        with suppress(OutOfMemoryError, MemoryError):  # of the device too, where a copy is made on the way
            if n * self.kv.export(cells[:1]).nbytes <= MOST_OF_FREE * free_memory():
                track.aside = self.kv.export(cells)
                self._n_copied.value += track.aside.nbytes
                return n
        return 0

    def bring_back(self, track: Track) -> None:
        """What was put aside is in blocks again. Where these, or memory, are missing, it is evaluated again instead."""
        data, track.aside = track.aside, None
        if data is None:
            return
        n = data.shape[1]
        if not self.find_room(track.table.missing(n)):
            return
        try:
            self.kv.restore(track.table.extend(n), data)
            self._n_copied.value += data.nbytes
        except (OutOfMemoryError, MemoryError):
            track.table.release()

    # -- a context that is full ---------------------------------------------------------------------------------

    def shift(self, track: Track, keep: int, n: int, free_more: Callable[[], bool]) -> bool:
        """Drop the `n` tokens after the first `keep`; False if blocks are missing on the way, and nothing was done.

        `free_more` takes blocks from somebody else, and says whether there was anybody.
        """
        if not self._room_to_shift(track, keep, n, free_more):
            return False
        track.table.discard(keep, n)
        del track.tokens[keep : keep + n]
        track.node = None
        return True

    def _room_to_shift(self, track: Track, keep: int, n: int, free_more: Callable[[], bool]) -> bool:
        """Find the blocks that a shift takes on its way, at the cost of the known prefix, then of others.

        Blocks that the prefix tree holds too do not get free as the text moves out of them.
        """
        pruned = track.node is None
        while not self.find_room(track.table.spare_for_discard(keep, n)):
            if not pruned and track.node is not None:
                self.tree.prune(track.node, track.n_known - keep // self.size)
                pruned = True
            elif not free_more():
                return False
        return True
