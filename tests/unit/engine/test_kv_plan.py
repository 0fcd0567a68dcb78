"""How the memory for keys and values is shared out."""

from __future__ import annotations

import pytest

from llamakit.backend import Footprint
from llamakit.engine.kv_plan import plan_kv
from llamakit.engine.runner import BLOCK_SIZE, blocks_for
from llamakit.errors import OutOfMemoryError
from llamakit.session import Settings

BLOCK = 1 << 20  # bytes
MODEL = Footprint(weights=1 << 30, program=1 << 20)
CONTEXT = 64 * BLOCK_SIZE


def size(n_block):
    return n_block * BLOCK


def plan(free, **settings):
    return plan_kv(Settings(**settings), CONTEXT, size, MODEL, free)


def test_a_most_of_memory_is_no_demand():
    """The share of each of several models, worked out before any was loaded: what is left may be less."""
    with pytest.raises(OutOfMemoryError, match=r"200\.00 MiB for keys and values were asked for, \d+\.\d\d MiB may"):
        plan(100 * BLOCK, kv_memory=200 * BLOCK, n_seq=4)
    assert plan(100 * BLOCK, kv_most=200 * BLOCK, n_seq=4) == plan(100 * BLOCK, n_seq=4)


def test_no_more_than_the_most_is_taken():
    free = 10_000 * BLOCK
    assert plan(free, n_seq=4).n_block == 4 * blocks_for(CONTEXT)
    capped = plan(free, kv_most=128 * BLOCK, n_seq=4)
    assert (capped.n_ctx, size(capped.n_block) <= 128 * BLOCK) == (CONTEXT, True)
    tight = plan(free, kv_most=32 * BLOCK, n_seq=4)
    assert tight.n_ctx < CONTEXT
    assert size(tight.n_block) <= 32 * BLOCK


@pytest.mark.parametrize("n_seq", [1, 4])
def test_a_context_that_was_asked_for_may_exceed_the_most(n_seq):
    asked = plan(10_000 * BLOCK, kv_most=32 * BLOCK, ctx_size=CONTEXT, n_seq=n_seq)
    assert (asked.n_ctx, asked.n_block) == (CONTEXT, blocks_for(CONTEXT))
