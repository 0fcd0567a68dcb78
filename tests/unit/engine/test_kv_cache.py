"""The block bookkeeping, against a cache of plain labels: what a table says must be what was written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.backend import CacheLayer, KVSpec
from llamakit.engine.kv_cache import BlockPool, BlockTable
from llamakit.errors import OutOfMemoryError

SIZE = 4


class LabelCache:
    """Remembers one label a cell; a shift adds its delta to the label's position."""

    def __init__(self, n_block: int) -> None:
        self.spec = KVSpec(layers=(CacheLayer(1, 2, 2),), n_block=n_block, block_size=SIZE)
        self.labels: dict[int, tuple[str, int]] = {}

    def copy(self, source, destination):
        for a, b in zip(source, destination, strict=True):
            for i in range(SIZE):
                if a * SIZE + i in self.labels:
                    self.labels[b * SIZE + i] = self.labels[a * SIZE + i]

    def shift(self, source, destination, delta):
        moved = [self.labels[a] for a in source]
        for b, (name, position) in zip(destination, moved, strict=True):
            self.labels[b] = (name, position + delta)


class Model:
    """A table with, beside it, the list of what it should hold."""

    def __init__(self, table: BlockTable, expected: list[str] | None = None) -> None:
        self.table, self.expected = table, expected or []

    def extend(self, names: list[str]) -> None:
        start = self.table.length
        for i, cell in enumerate(self.table.extend(len(names))):
            self.table.kv.labels[cell] = (names[i], start + i)
        self.expected += names

    def check(self) -> None:
        assert self.table.length == len(self.expected)
        held = [self.table.kv.labels[self.table.cell(p)] for p in range(self.table.length)]
        assert held == [(name, p) for p, name in enumerate(self.expected)]


steps = st.lists(
    st.tuples(
        st.sampled_from(["extend", "truncate", "fork", "discard", "release"]), st.integers(0, 99), st.integers(0, 99)
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_any_schedule_keeps_every_sequence_and_every_block(operations):
    pool, kv = BlockPool(200), LabelCache(200)
    models = [Model(BlockTable(pool, kv))]
    for number, (what, a, b) in enumerate(operations):
        model = models[a % len(models)]
        if what == "extend":
            model.extend([f"{number}.{i}" for i in range(b % 11)])
        elif what == "truncate":
            n = b % (len(model.expected) + 1)
            model.table.truncate(n)
            del model.expected[n:]
        elif what == "fork" and len(models) < 6:
            models.append(Model(model.table.fork(), list(model.expected)))
        elif what == "discard" and len(model.expected) > 1:
            start = a % (len(model.expected) - 1)
            n = 1 + b % (len(model.expected) - start - 1) if len(model.expected) - start > 1 else 1
            model.table.discard(start, n)
            del model.expected[start : start + n]
        elif what == "release":
            model.table.release()
            model.expected.clear()
        for each in models:
            each.check()
    for each in models:
        each.table.release()
    assert pool.n_free == pool.n_block


@pytest.mark.parametrize("keep", [1, 3, 4, 5, 9])
def test_a_full_context_shifts_with_two_spare_blocks(keep):
    n_ctx = 32
    pool, kv = BlockPool(n_ctx // SIZE + 2), LabelCache(n_ctx // SIZE + 2)
    model = Model(BlockTable(pool, kv))
    model.extend([str(i) for i in range(n_ctx)])
    for start in range(keep, n_ctx - 1):
        before = list(model.expected)
        model.table.discard(start, 1)
        del model.expected[start]
        model.check()
        model.extend([f"again {start}"])
        assert len(before) == n_ctx


@pytest.mark.parametrize("shared", [set(), {1}, {2, 5}, set(range(8))])
@pytest.mark.parametrize(("keep", "n"), [(1, 15), (4, 9), (9, 3), (0, 32), (30, 1)])
def test_a_shift_takes_as_many_spare_blocks_as_it_says(keep, n, shared):
    pool, kv = BlockPool(24), LabelCache(24)
    model = Model(BlockTable(pool, kv))
    model.extend([str(i) for i in range(32)])
    for index in shared:
        pool.retain(model.table.blocks[index])
    spare = model.table.spare_for_discard(keep, n)
    assert spare <= 2 + len(shared)
    taken = [pool.allocate() for _ in range(pool.n_free - spare)]
    model.table.discard(keep, n)
    del model.expected[keep : keep + n]
    model.check()
    assert pool.n_free >= 0
    assert len(taken) == 16 - spare


def test_a_full_pool_says_so():
    pool = BlockPool(2)
    table = BlockTable(pool, LabelCache(2))
    with pytest.raises(OutOfMemoryError, match="all 2 blocks are in use"):
        table.extend(9)


def test_missing_counts_the_copy_of_a_shared_block():
    pool = BlockPool(8)
    model = Model(BlockTable(pool, LabelCache(8)))
    model.extend(["a", "b", "c"])
    fork = Model(model.table.fork(), list(model.expected))
    assert (model.table.missing(1), model.table.missing(2)) == (1, 2)
    free = pool.n_free
    fork.extend(["x"])
    assert pool.n_free == free - 1
    model.extend(["y"])
    fork.check()
    model.check()
