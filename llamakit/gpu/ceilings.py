"""What a device does at best, measured in about a second: reads, multiply-adds, copies, launches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from llamakit.backend import Ceilings
from llamakit.gpu.driver import At

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.gpu.driver import Driver
    from llamakit.gpu.source import Kernels

MOST_BYTES = 1 << 28  # that are read; more than caches hold
SUMS = 64  # of an item of `multiply_adds`
EACH = 64  # floats that an item reads, where many do
LEAST_SECONDS = 0.05
ROUNDS = 3


def measure(kernels: Kernels) -> Ceilings:
    """All of them; a device with little memory reads less of it."""
    driver = kernels.driver
    n_bytes = min(MOST_BYTES, driver.memory().free // 8, driver.traits.most_bytes) // 4096 * 4096
    space, out = At(driver.allocate(n_bytes)), At(driver.allocate(max(n_bytes // EACH, 1 << 20)))
    host = np.zeros(min(n_bytes, 1 << 26), np.uint8)
    driver.zero(space, n_bytes)
    try:
        up, down = (
            host.nbytes / seconds(driver, copy)
            for copy in (lambda: driver.write(space, host), lambda: driver.read(space, host))
        )
        scale = kernels.get("scale")
        launch = seconds(driver, lambda: kernels.items(scale, 1, out, out.plus(4), 1, 1.0))
        notes = {
            "copies": f"{up / 1e9:.1f} GB/s to the device, {down / 1e9:.1f} GB/s from it",
            "launches": f"{launch * 1e6:.1f} us each",
        }
        return Ceilings(
            read_bandwidth=_read_rate(kernels, space, out, n_bytes),
            multiply_adds={"f32": _multiply_rate(kernels, out)}, notes=notes,
        )  # fmt: skip
    finally:
        space.block.free()
        out.block.free()


def _read_rate(kernels: Kernels, space: At, out: At, n_bytes: int) -> float:
    kernel, n_float = kernels.get("read_all", "ceilings"), n_bytes // 4
    each = EACH if kernels.traits.lanes > 1 else max(n_float // 1024 // 16 * 16, 16)
    n_item = n_float // each
    return 4 * n_item * each / seconds(kernels.driver, lambda: kernels.items(kernel, n_item, space, out, each, n_item))


def _multiply_rate(kernels: Kernels, out: At) -> float:
    kernel, n_item, n = kernels.get("multiply_adds", "ceilings"), 1 << (16 if kernels.traits.lanes > 1 else 10), 1024
    return n_item * SUMS * n / seconds(kernels.driver, lambda: kernels.items(kernel, n_item, out, n, n_item, 0.5))


def seconds(driver: Driver, run: Callable[[], object]) -> float:
    """Of one run at best, of so many that a round takes long enough to be measured."""
    run()
    driver.finish()
    n, best = 1, float("inf")
    for _ in range(ROUNDS):
        while True:
            start = time.perf_counter()
            for _ in range(n):
                run()
            driver.finish()
            seconds = time.perf_counter() - start
            if seconds >= LEAST_SECONDS:
                break
            n *= 4
        best = min(best, seconds / n)
    return best
