"""A GPU as the backend contract wants it, over the driver of a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit import system
from llamakit.backend import Ceilings, Device, Footprint, InputLayout, Precision
from llamakit.gpu.adapters import GPUAdapters
from llamakit.gpu.ceilings import measure
from llamakit.gpu.cells import GPUKV, cache_bytes
from llamakit.gpu.driver import Feature, does_not_fit
from llamakit.gpu.lower import plan_of, supported
from llamakit.gpu.memory import GPUState, GPUWeight, state_bytes, taken
from llamakit.gpu.program import GPUExecutable
from llamakit.gpu.source import Kernels
from llamakit.gpu.tuning import tune
from llamakit.graph.graph import DType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.backend import KVSpec, Memory, TensorSource, Uses
    from llamakit.gguf import GGMLType
    from llamakit.gpu.driver import Driver, Traits
    from llamakit.graph.graph import Graph, Node


class GPUDevice(Device):
    """One device. `traits`: how its kernels are shaped, to try that; else as is settled for all of its driver."""

    def __init__(self, driver: Driver, traits: Traits | None = None) -> None:
        self.driver, self.info, self.kernel_store = driver, driver.info, Kernels(driver)
        self._in_file, self._settled = False, traits is not None
        self.kernel_store.traits = traits or driver.traits

    def supports(self, node: Node) -> bool:
        """Whether there are kernels."""
        return supported(node)

    def precision(self, node: Node, weight_type: GGMLType | None) -> Precision:
        """Weights are unpacked to float32, and all sums are float32."""
        return Precision(operand=0.0, accumulator=2.0**-23)

    def memory(self) -> Memory:
        """The device's own."""
        return self.driver.memory()

    def footprint(self, graph: Graph, sources: Mapping[str, TensorSource], kv: KVSpec | None = None) -> Footprint:
        """Weights as they lie on the device, vectors as float32; the arena with what steps need for themselves."""
        types = {name: sources[name].type for name in graph.parameters}
        used = [sources[name] for name in graph.parameters]
        return Footprint(
            weights=sum(self.weight_size(source) for source in used),
            states=sum(state_bytes(tensor.shape, tensor.dtype) for tensor in graph.states.values()),
            program=4 * (plan_of(graph, types).total + InputLayout(graph.inputs).n_values),
        )

    def load(self, source: TensorSource, uses: Uses) -> GPUWeight:
        """The blocks of the file, piece by piece; packed there, if the device has it so."""
        self._prepare()
        weight = GPUWeight(self.kernel_store, source)
        self._in_file = self._in_file or weight.in_place
        return weight

    @property
    def cache_on_host(self) -> bool:
        """With `low_vram`."""
        return self.driver.traits.cache_on_host and self.info.kind != "cpu"

    def cache_room(self, taken: int) -> int:
        """With `low_vram` what the host has free, if the device holds the model."""
        room = super().cache_room(taken)
        return system.free_memory() if self.cache_on_host and room > 0 else room

    @property
    def in_file(self) -> bool:
        """Where the device uses the host's memory, and has weights as they lie in the file."""
        return self._in_file

    def _prepare(self) -> None:
        """Before anything depends on it: see that kernels are right, also in the shape that is found to be quickest."""
        if self._settled:
            return
        self.kernel_store.settle(Feature.GROUPS)
        tune(self.kernel_store)
        self.kernel_store.settle(Feature.GROUPS)
        self.kernel_store.traits = self.driver.traits  # another device of this driver may have settled it

    def state(self, shape: tuple[int, ...], dtype: DType = DType.F32) -> GPUState:
        """A zero tensor."""
        return GPUState(self.driver, shape, dtype)

    def weight_size(self, source: TensorSource) -> int:
        """In panels, as in the file, or nothing where the file itself is used; vectors as float32."""
        return taken(self.driver, source)

    def kv_size(self, spec: KVSpec) -> int:
        """Bytes of a cache."""
        return cache_bytes(spec)

    def kv_cache(self, spec: KVSpec) -> GPUKV:
        """A zero cache. OutOfMemoryError says how many positions there would be room for."""
        needed, memory = cache_bytes(spec), self.driver.memory()
        if needed > memory.free and not self.cache_on_host:
            n = spec.n_block * spec.block_size
            fits = n * memory.free // needed // spec.block_size * spec.block_size
            what = f"keys and values of {n:,} positions"
            options = f"{fits:,} positions fit: a smaller --ctx-size or --parallel; --low-vram, or --kv-type q8_0"
            raise does_not_fit(self.info.name, needed, memory, what, options)
        return GPUKV(self.kernel_store, spec)

    def adapter_table(self, targets: Mapping[str, tuple[int, ...]], n_slot: int) -> GPUAdapters:
        """Empty slots."""
        return GPUAdapters(self.driver, targets, n_slot)

    def compile(
        self, graph: Graph, weights: Mapping[str, Any], *, kv: Any = None, adapters: Any = None, states: Any = None
    ) -> GPUExecutable:
        """Plan memory, compile kernels."""
        self._prepare()
        return GPUExecutable(self.kernel_store, graph, weights, kv, adapters, dict(states or {}))

    def ceilings(self) -> Ceilings:
        """Reads and multiply-adds in float32, measured."""
        return measure(self.kernel_store)

    def kernels(self) -> dict[str, str]:
        """What is in use, and how weights lie."""
        return self.driver.describe() | {"weights": "in panels" if self.driver.traits.packed else "as in the file"}

    def reopen(self) -> None:
        """Drop what was compiled, free all that was held, whoever refers to it, and have the driver start again."""
        self.kernel_store.clear()
        self.driver.free_all()
        self.driver.reopen()

    def close(self) -> None:
        """Give everything back."""
        self.kernel_store.clear()
        self.driver.close()
