"""What a graph would take on the host: lowered with weights and states that have a form and no memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llamakit.plugins.backends.cpu import _cpu
from llamakit.plugins.backends.cpu.lower import Lowering

from llamakit.backend import Footprint, InputLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.plugins.backends.cpu import CPUOptions
    from llamakit.plugins.backends.cpu.device import CPUDevice

    from llamakit.backend import TensorSource
    from llamakit.graph.graph import Graph, Tensor


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int, bool]:
    """(n_out, n_in, whether it is a vector) of a tensor's shape."""
    *outer, inner = shape
    return math.prod(outer), inner, len(shape) == 1


class PlannedWeight:
    """What lowering asks of a weight."""

    def __init__(self, source: TensorSource, packed: bool) -> None:
        self.name, self.shape, self.type = source.name, source.shape, source.type
        self.native = _cpu.Weight.planned(int(source.type), *matrix_shape(source.shape), packed)


class PlannedState:
    """What lowering asks of a state."""

    def __init__(self, tensor: Tensor) -> None:
        n = math.prod(tensor.shape)
        self.n_bytes: int = _cpu.State.n_bytes(str(tensor.dtype), n)
        self.native = _cpu.State(str(tensor.dtype), n, planned=True)


def footprint(graph: Graph, sources: Mapping[str, TensorSource], positions: int, device: CPUDevice) -> Footprint:
    """Bytes of weights as the device's options have them, of states, and of the program.

    `positions`: the most of a sequence in the cache.
    """
    options, n_thread = device.options, max(device.n_thread, device.n_thread_batch)
    used = [sources[name] for name in graph.parameters]
    states = {name: PlannedState(tensor) for name, tensor in graph.states.items()}
    weights = {source.name: PlannedWeight(source, not options.no_repack) for source in used}
    layout = InputLayout(graph.inputs)
    lowering = Lowering(graph, layout, weights, states)
    steps, dims = lowering.steps(), list(lowering.dims.values())
    workspace: int = _cpu.workspace_bytes(device.isa, steps, dims, positions, n_thread)
    return Footprint(
        weights=sum(weight_bytes(source, options) for source in used),
        states=sum(state.n_bytes for state in states.values()),
        program=4 * (lowering.plan.total + layout.n_values) + workspace,
    )


def weight_bytes(source: TensorSource, options: CPUOptions) -> int:
    """Bytes that a weight takes when it is loaded."""
    *_, vector = shape = matrix_shape(source.shape)
    if options.no_repack and not vector:
        return source.n_bytes if options.no_mmap else 0
    n_bytes: int = _cpu.Weight.packed_bytes(int(source.type), *shape)
    return n_bytes
