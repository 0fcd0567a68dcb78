"""How kernels are shaped for a family of devices: the usual values, and which of a few is the quickest here.

The first of a family is what runs unless another is measured to be quicker, when a model is first loaded. What was
found is kept beside the compiled kernels. How many items share a row decides the order of sums, so that logits of
devices with other shapes, or found by other measurements, may differ in the last bits.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llamakit.errors import BackendError, DeviceLostError, LlamaKitError, OutOfMemoryError
from llamakit.gguf import GGMLType
from llamakit.gpu.ceilings import seconds
from llamakit.gpu.driver import Feature
from llamakit.gpu.source import text_key
from llamakit.graph.graph import Dim, DType, GraphBuilder
from llamakit.graph.ops import Op
from llamakit.weights import MemoryTensor

if TYPE_CHECKING:
    from llamakit.backend import DeviceInfo
    from llamakit.gpu.driver import Driver, Traits
    from llamakit.gpu.source import Kernels

log = logging.getLogger("llamakit.gpu")
SIDE = 4096  # rows and columns of the weight that is measured with, as those of models of some size
GAIN = 0.95  # of the usual shape's time that another must stay below, so that noise decides nothing


class Shape(NamedTuple):
    """Items that share a row of a weight, and items of a group that have nothing to do with one another."""

    lanes: int
    items: int


# The usual shape first. GPUs run 16, 32 or 64 items side by side; a panel of weights has four times the items of a row.
FAMILIES: dict[str, tuple[Shape, ...]] = {
    "cpu": (Shape(1, 16), Shape(1, 4), Shape(1, 64)),
    "cuda": (Shape(64, 128), Shape(32, 128), Shape(16, 128)),
    "gpu": (Shape(64, 64), Shape(32, 64), Shape(16, 64)),
}


def shapes_of(info: DeviceInfo, most: int) -> tuple[Shape, ...]:
    """Those of a device of OpenCL, the usual one first; `most`: the items that its groups may have."""
    found = FAMILIES["cpu" if info.kind == "cpu" else "gpu"]
    most = 1 << most.bit_length() - 1  # a power of two, as lanes are
    small = [Shape(min(lanes, most), min(items, most)) for lanes, items in found]
    return tuple(dict.fromkeys(small))


def tune(kernels: Kernels) -> None:
    """Shape the kernels of a device as it was found to be quickest, once; as usual where nothing can be measured.

    Another shape than the one before has not been tried: see selftest.py. Where groups are wrong, all stays as it is.
    """
    driver = kernels.driver
    if driver.tuned or len(driver.shapes) < 2 or driver.without_groups:
        return
    driver.tuned = True
    kept = driver.compiled
    key = "" if kept is None else kept.key("tuning", *driver.identity(), repr(driver.shapes), text_key())
    shape = None if kept is None else _read(kept.get(key))
    if shape not in driver.shapes:
        try:
            shape = _quickest(kernels)
        except DeviceLostError:
            driver.tuned = False
            raise
        except LlamaKitError as error:  # such as memory that is short: the next start measures again
            log.debug("%s: shapes of kernels are not measured: %s", driver.info.name, error)
            return
        if kept is not None:
            kept.put(key, json.dumps(shape).encode())
    if shape.lanes != driver.traits.lanes:
        driver.tried.discard(Feature.GROUPS)
    driver.traits = kernels.traits = shaped(driver, shape)


def shaped(driver: Driver, shape: Shape) -> Traits:
    """How kernels are then."""
    return replace(driver.traits, lanes=shape.lanes, items=shape.items)


def _read(data: bytes | None) -> Shape | None:
    """What was kept, if it is a shape."""
    try:
        return Shape(*json.loads(data or b"[]"))
    except (ValueError, TypeError):
        return None


def _quickest(kernels: Kernels) -> Shape:
    usual, *others = kernels.driver.shapes
    least, found = measure(kernels, usual) * GAIN, usual
    for shape in others:
        try:
            taken = measure(kernels, shape)
        except (DeviceLostError, OutOfMemoryError):
            raise
        except BackendError as error:  # its groups are too large for a kernel, for instance
            log.debug("%s: %s is not possible: %s", kernels.driver.info.name, shape, error)
            continue
        log.debug("%s: %s takes %.1f us", kernels.driver.info.name, shape, taken * 1e6)
        if taken < least:
            least, found = taken, shape
    return found


def measure(kernels: Kernels, shape: Shape) -> float:
    """Seconds of a product with one row of activations, as generating consists of, at best."""
    from llamakit.gpu.device import GPUDevice

    device, g = GPUDevice(kernels.driver, shaped(kernels.driver, shape)), GraphBuilder("tuning")
    x = g.input("x", (Dim("rows", 1), SIDE), DType.F32)
    graph = g.build(y=g.add(Op.LINEAR, "w", (x, None), tensors=(g.parameter("w", (SIDE, SIDE)), None)))
    weight: Any = device.load(zeros(), graph.uses()["w"])
    program = device.compile(graph, {"w": weight})
    try:
        return seconds(kernels.driver, lambda: program.run({"rows": 1}))
    finally:
        program.close()
        for part in weight.parts:
            part.place.block.free()


def zeros() -> MemoryTensor:
    """A weight to measure with, of the type that is used most."""
    raw = np.zeros(GGMLType.Q4_0.n_bytes(SIDE * SIDE), np.uint8)
    return MemoryTensor("w", GGMLType.Q4_0, (SIDE, SIDE), raw)
