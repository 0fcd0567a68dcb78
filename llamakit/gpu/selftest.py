"""What drivers may get wrong, tried before it is used: a feature against the plain way to the same numbers.

OpenCL's compilers are of many makers, and recorded steps and other people's libraries can be wrong without an error. A
feature that is wrong is switched off, and that is said. What was found is kept beside the compiled kernels, by device,
versions and the kernels' text, so that a device is tried once.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llamakit.errors import BackendError, DeviceLostError, OutOfMemoryError
from llamakit.gpu.driver import At, Feature
from llamakit.gpu.source import text_key
from llamakit.gpu.steps.values import multiply_here
from llamakit.gpu.top import top

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from llamakit.gpu.driver import Driver
    from llamakit.gpu.source import Kernels

log = logging.getLogger("llamakit.gpu")
RIGHT, WRONG = b"right", b"wrong"
INSTEAD = {
    Feature.GROUPS: "those for processors run instead, slower",
    Feature.TAPES: "each kernel is launched by itself",
    Feature.PRODUCTS: "LlamaKit's own kernels multiply",
}


def settle(kernels: Kernels, feature: Feature) -> None:
    """Before a feature is used: try it, once, if the driver has it, and switch it off where it is wrong.

    Groups are tried in the shape that the driver has now; who gives it another takes them out of `tried`.
    """
    driver = kernels.driver
    if feature not in driver.features or feature in driver.tried:
        return
    driver.tried.add(feature)
    try:
        reason = _verdict(kernels, feature)
    except BaseException:
        driver.tried.remove(feature)  # by a device that was lost, for instance
        raise
    if reason:
        driver.switch_off(feature)
        kernels.traits = driver.traits
        log.warning("%s: %s %s; %s", driver.info.name, feature.value, reason, INSTEAD[feature])


def _verdict(kernels: Kernels, feature: Feature) -> str:
    """What is wrong with it, as it was found now or before; nothing if it is right."""
    kept, wrong = kernels.driver.compiled, "give wrong values with this driver"
    key = "" if kept is None else kept.key("self-test", feature, *kernels.driver.identity(), text_key())
    found = None if kept is None else kept.get(key)
    if found not in (RIGHT, WRONG):
        try:
            right = TRIALS[feature](kernels)
        except (DeviceLostError, OutOfMemoryError):
            raise
        except BackendError as error:  # it cannot be used, which may be otherwise at the next start
            return f"fail ({error})"
        if right is None:
            return ""
        found = RIGHT if right else WRONG
        if kept is not None:
            kept.put(key, found)
    return wrong if found == WRONG else ""


def _groups(kernels: Kernels) -> bool:
    """Whether items that share a row, and panels, give what an item gives that reads a row as it is in the file.

    The likeliest of rows are found by groups anywhere, so that they are held against sorting.
    """
    from llamakit.gpu import trials
    from llamakit.gpu.device import GPUDevice

    driver = kernels.driver
    grouped = trials.outputs(GPUDevice(driver, driver.traits))
    plain = trials.outputs(GPUDevice(driver, replace(driver.traits, lanes=1, packed=False)))
    return all(_near(grouped[name], plain[name]) for name in plain) and _top(kernels)


def _top(kernels: Kernels) -> bool:
    """Whether the likeliest of rows with ties are those that sorting finds."""
    n_row, n_vocab, k, driver = 3, 301, 40, kernels.driver
    values = np.random.default_rng(2).integers(-20, 20, (n_row, n_vocab)).astype(np.float32)
    place = At(driver.allocate(values.nbytes))
    try:
        driver.write(place, values)
        found = top(kernels, place, n_vocab, list(range(n_row)), k, [None] * n_row)
    finally:
        _free([place])
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    sums = np.log(np.exp(values, dtype=np.float64).sum(axis=1))
    return np.array_equal(found.ids, order) and bool(np.abs(found.log_sum_exp - sums).max() <= 1e-4)


def _near(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> bool:
    """Whether two ways to add up float32 may differ so much."""
    return bool(np.abs(found - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1e-30))


def _tapes(kernels: Kernels) -> bool | None:
    """Whether steps that were recorded do what they do one by one, each time with what memory holds then.

    None: the driver does not record them.
    """
    driver, n = kernels.driver, 257
    places = x, y, z = [At(driver.allocate(4 * n)) for _ in range(3)]
    scale, add = kernels.get("scale"), kernels.get("add")

    def steps() -> None:
        kernels.items(scale, n, x, y, n, 3.0)
        kernels.items(add, n, x, y, z, n)

    def result(run: Callable[[], None], factor: int) -> npt.NDArray[np.float32]:
        driver.write(x, np.arange(n, dtype=np.float32) * np.float32(factor))
        driver.zero(z, 4 * n)
        run()
        return _floats(driver, z, n)

    try:
        expected = [result(steps, factor) for factor in (1, 2)]
        tape = driver.record(steps)
        if tape is None:
            return None
        try:
            found = [result(tape.play, factor) for factor in (1, 2)]
        finally:
            tape.close()
    finally:
        _free(places)
    return np.array_equal(found, expected)


def _products(kernels: Kernels) -> bool | None:
    """Whether the driver's library multiplies as our kernel does; None: it does not.

    Whole numbers of 12 bits times small ones, so that sums are exact in any order, and not in less than float32.
    """
    driver, rng, (m, n, k) = kernels.driver, np.random.default_rng(1), (33, 20, 24)
    places = a, b, c = [At(driver.allocate(4 * size)) for size in (m * k, k * n, m * n)]
    for place, size, most in ((a, m * k, 4096), (b, k * n, 4)):
        driver.write(place, rng.integers(-most, most, size).astype(np.float32))
    before, right = rng.integers(-9, 9, m * n).astype(np.float32), True
    try:
        for a_steps, b_steps, add in (((k, 1), (1, k), False), ((1, m), (n, 1), True)):
            given = (a, b, c, (m, n, k), (*a_steps, *b_steps, n))
            driver.write(c, before)
            if not driver.multiply(*given, add=add):
                return None
            found = _floats(driver, c, m * n)
            driver.write(c, before)
            multiply_here(kernels, *given, add=add)
            right = right and np.array_equal(found, _floats(driver, c, m * n))
    finally:
        _free(places)
    return right


def _floats(driver: Driver, place: At, n: int) -> npt.NDArray[np.float32]:
    """What lies there."""
    found = np.empty(n, np.float32)
    driver.read(place, found)
    return found


def _free(places: Sequence[At]) -> None:
    for place in places:
        place.block.free()


TRIALS: dict[Feature, Callable[[Kernels], bool | None]] = {
    Feature.GROUPS: _groups,
    Feature.TAPES: _tapes,
    Feature.PRODUCTS: _products,
}
