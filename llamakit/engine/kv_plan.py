"""How much memory keys and values take: blocks of the pool, and the context of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llamakit.engine.runner import BLOCK_SIZE, SPARE_BLOCKS, blocks_for
from llamakit.errors import OutOfMemoryError
from llamakit.units import size_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from llamakit.backend import Footprint

    class Settings(Protocol):
        """What is asked of a session (`session.Settings`)."""

        @property
        def ctx_size(self) -> int:
            """Positions of a sequence; 0: not asked."""

        @property
        def kv_memory(self) -> int:
            """Bytes for the cache; 0: not asked."""

        @property
        def kv_most(self) -> int:
            """Bytes that the cache should not take more than where nobody asked; 0: as many as there are."""

        @property
        def n_seq(self) -> int:
            """Sequences at once."""

        @property
        def kv_type(self) -> str:
            """GGUF name of the storage type."""


MEMORY_SHARE = 0.8  # of the free memory that the cache of one sequence may take
SHARED_SHARE = 0.5  # and that of many: prefixes are kept in it too, but nobody asked for all memory


class KVPlan(msgspec.Struct, frozen=True):
    """`n_ctx`: positions that a sequence may have; `n_block`: blocks that all of them share."""

    n_ctx: int
    n_block: int


def plan_kv(settings: Settings, n_ctx_train: int, size: Callable[[int], int], model: Footprint, free: int) -> KVPlan:
    """Fit the cache into the `free` bytes that the device has beside the model: `size(n_block)` is in bytes.

    A context that was asked for and does not fit is an `OutOfMemoryError`; the model's own is cut to what does.
    `kv_most` is not a demand: what is asked for may exceed it, and it may exceed what is free.
    """
    if free <= 0:
        raise OutOfMemoryError(
            f"not enough memory: the model needs {size_text(model.total)},"
            f" {size_text(max(0, model.total + free))} are free",
            found=f"weights {size_text(model.weights)}, steps {size_text(model.program)}",
            hint="a file of smaller weights: llamakit quantize", param="model",
        )  # fmt: skip
    most = int(free * MEMORY_SHARE)
    asked, budget = settings.ctx_size, settings.kv_memory
    n_ctx = asked or n_ctx_train
    if budget > most:
        raise OutOfMemoryError(
            f"not enough memory: {size_text(budget)} for keys and values were asked for,"
            f" {size_text(most)} may be taken",
            found=f"weights {size_text(model.weights)}",
            hint=f"--kv-memory {max(1, most >> 30)}G",
            param="kv_memory",
        )
    capped = min(most, settings.kv_most or most)
    room = _blocks_in(budget or (most if asked else capped), size)
    if blocks_for(n_ctx) > room:
        if asked:
            raise _too_large(settings, n_ctx, size(blocks_for(n_ctx)), budget or most, model.weights)
        n_ctx = max(1, room) * BLOCK_SIZE
    wanted = settings.n_seq * blocks_for(n_ctx)
    if budget:
        return KVPlan(n_ctx, max(1, room))
    if settings.n_seq > 1:
        capped = min(capped, int(free * SHARED_SHARE))
        room = max(blocks_for(n_ctx), _blocks_in(capped, size))
    return KVPlan(n_ctx, max(1, min(wanted, room)))


def _blocks_in(n_bytes: int, size: Callable[[int], int]) -> int:
    """Blocks that so many bytes hold, the spare ones not counted."""
    per_block = (size(1024) - size(0)) / 1024
    return max(0, int(n_bytes / per_block) - SPARE_BLOCKS)


def _too_large(settings: Settings, n_ctx: int, kv: int, room: int, weights: int) -> OutOfMemoryError:
    """The error for a context that does not fit; says what each setting would save."""
    smaller = {"f32": ("f16", 0.5), "f16": ("q8_0", 0.47), "bf16": ("q8_0", 0.47)}.get(settings.kv_type)
    other = f"\n--kv-type {smaller[0]} saves {size_text(int(kv * smaller[1]))}" if smaller else ""
    return OutOfMemoryError(
        f"not enough memory: a context of {n_ctx:,} tokens needs {size_text(kv)}, {size_text(room)} may be taken",
        found=f"weights {size_text(weights)}, KV {size_text(kv)} (1 x {n_ctx:,}, {settings.kv_type})",
        hint=f"-c {n_ctx // 2} saves {size_text(kv // 2)}" + other,
        param="ctx_size",
    )
