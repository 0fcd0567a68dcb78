"""What kernels are tried with: one graph of what depends on how they are shaped, and its numbers.

Weights of a type that GPUs have in panels and of one that they have as in the file; few rows and more than meet weights
directly; experts with pairs by themselves and sorted; attention over a past that is long enough to be split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.backend import CacheLayer, KVSpec
from llamakit.gguf import GGMLType, native
from llamakit.graph.graph import Dim, DType, GraphBuilder
from llamakit.graph.ops import AttentionAttrs, ExpertsAttrs, Op, RMSNormAttrs
from llamakit.weights import MemoryTensor

if TYPE_CHECKING:
    import numpy.typing as npt

    from llamakit.gpu.device import GPUDevice
    from llamakit.graph.graph import Graph, Tensor

ROWS = (3, 20)  # of steps: few, and more than meet weights directly
WIDTH, OUT, N_EXPERT, N_FF = 288, 35, 6, 64  # no multiples of what groups take at once, where types allow it
HEADS, HEADS_KV, HEAD_DIM = 4, 2, 16
PAST, BLOCK = 300, 16
N_BLOCK = -(-(PAST + ROWS[-1]) // BLOCK)
CACHE = KVSpec(layers=(CacheLayer(HEADS_KV, HEAD_DIM, HEAD_DIM),), n_block=N_BLOCK, block_size=BLOCK, type="f16")
TYPES = {"packed": GGMLType.Q4_0, "plain": GGMLType.F32, "norm": GGMLType.F32}
TYPES |= dict.fromkeys(("gate", "up", "down"), GGMLType.Q4_0)


def outputs(device: GPUDevice) -> dict[str, npt.NDArray[np.float32]]:
    """What each node makes of the same numbers, by its name and the rows of the step."""
    rng, graph = np.random.default_rng(5), _graph()
    found: dict[str, npt.NDArray[np.float32]] = {}
    uses = graph.uses()
    weights = {
        name: device.load(_random(name, tensor.shape, rng), uses[name]) for name, tensor in graph.parameters.items()
    }
    kv = device.kv_cache(CACHE)
    past = rng.normal(size=(PAST, 2 * HEADS_KV * HEAD_DIM)).astype(np.float32)
    kv.restore(list(range(PAST)), native.quantize(GGMLType.F16, past).reshape(1, PAST, -1))
    program = device.compile(graph, weights, kv=kv)
    try:
        _fill(program.inputs, rng)
        for n in ROWS:
            made = program.run({"rows": n, "seqs": 1}, longest=PAST + n)
            found |= {f"{name}, {n} rows": np.array(buffer.numpy()) for name, buffer in made.items()}
    finally:
        program.close()
    return found


def _random(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> MemoryTensor:
    """A weight of random numbers."""
    raw = native.quantize(TYPES[name], rng.normal(size=shape).astype(np.float32))
    return MemoryTensor(name, TYPES[name], shape, raw)


def _fill(inputs: Any, rng: np.random.Generator) -> None:
    """Rows of one sequence, behind the past."""
    for name in ("x", "scores", "q", "k", "v"):
        inputs[name][...] = rng.normal(size=inputs[name].shape)
    inputs["positions"][...] = inputs["cells"][...] = PAST + np.arange(ROWS[-1])
    inputs["sequences"][...] = 0
    inputs["block_tables"][...] = np.arange(CACHE.n_block)


def _graph() -> Graph:
    """Each node an output of its own."""
    g, rows = GraphBuilder("trial"), Dim("rows", ROWS[-1])

    def floats(name: str, *sizes: int) -> Any:
        return g.input(name, (rows, *sizes), DType.F32)

    def tensor(name: str, *shape: int) -> Tensor:
        return g.parameter(name, shape)

    x, packed = floats("x", WIDTH), tensor("packed", OUT, WIDTH)
    made = {"linear": g.add(Op.LINEAR, "linear", (x, None), tensors=(packed, None))}
    made["back"] = g.add(Op.LINEAR_BACK, "back", (made["linear"],), tensors=(packed,))
    made["plain"] = g.add(Op.LINEAR, "plain", (x, None), tensors=(tensor("plain", OUT, WIDTH), None))
    made["norm"] = g.add(Op.RMS_NORM, "norm", (x, None), tensors=(tensor("norm", WIDTH),), attrs=RMSNormAttrs(1e-5))
    inner, outer = (N_EXPERT, N_FF, WIDTH), (N_EXPERT, WIDTH, N_FF)
    experts, attrs = (tensor("gate", *inner), tensor("up", *inner), tensor("down", *outer)), ExpertsAttrs(2)
    made["experts"] = g.add(Op.EXPERTS, "experts", (x, floats("scores", N_EXPERT)), tensors=experts, attrs=attrs)
    where = [g.input(name, (rows,), DType.I32) for name in ("positions", "sequences", "cells")]
    tables = g.input("block_tables", (Dim("seqs", 1), CACHE.n_block), DType.I32)
    heads = (floats("q", HEADS, HEAD_DIM), floats("k", HEADS_KV, HEAD_DIM), floats("v", HEADS_KV, HEAD_DIM))
    made["attention"] = g.add(Op.ATTENTION, "attention", (*heads, *where, tables), attrs=AttentionAttrs(0.25, 0))
    return g.build(**made)
