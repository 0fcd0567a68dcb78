"""The reference device and its programs: walk the nodes in order, one numpy function each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llamakit.plugins.backends.reference.footprint import footprint
from llamakit.plugins.backends.reference.gradients import ALL
from llamakit.plugins.backends.reference.memory import (
    ReferenceAdapters,
    ReferenceBuffer,
    ReferenceKV,
    ReferenceState,
    load_weight,
    row_bytes,
)
from llamakit.plugins.backends.reference.ops import Step

from llamakit import system
from llamakit.backend import Device, DeviceInfo, Executable, InputLayout, Memory, Precision, check_sizes, longest
from llamakit.errors import BackendError
from llamakit.gguf import GGMLType
from llamakit.graph.graph import Dim, DType
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.plugins.backends.reference import ReferenceOptions

    from llamakit.backend import Footprint, KVSpec, TensorSource, Uses
    from llamakit.graph.graph import Graph, Node, Value


class ReferenceDevice(Device):
    """Host memory and numpy. `kept`: the type of values between ops, and of states."""

    info = DeviceInfo("numpy", "cpu")

    def __init__(self, options: ReferenceOptions) -> None:
        self.kept = np.float64 if options.float64 else np.float32

    def supports(self, node: Node) -> bool:
        """Every op: it defines them."""
        return True

    def precision(self, node: Node, weight_type: GGMLType | None) -> Precision:
        """Float64 sums, rounded once to what is kept."""
        return Precision(operand=0.0, accumulator=float(np.finfo(self.kept).epsneg))

    def memory(self) -> Memory:
        """The host's."""
        return Memory(system.total_memory(), system.free_memory())

    def footprint(self, graph: Graph, sources: Mapping[str, TensorSource], kv: KVSpec | None = None) -> Footprint:
        """Weights are float32 whatever the file has, values stay to the end of a run, a node computes in float64."""
        return footprint(graph, longest(graph, kv), np.dtype(self.kept).itemsize)

    def load(self, source: TensorSource, uses: Uses) -> Any:
        """Dequantise."""
        return load_weight(source)

    def state(self, shape: tuple[int, ...], dtype: DType = DType.F32) -> ReferenceState:
        """A zero array."""
        return ReferenceState(shape, dtype, self.kept)

    def kv_size(self, spec: KVSpec) -> int:
        """Bytes of the canonical layout."""
        return len(spec.layers) * spec.n_block * spec.block_size * row_bytes(spec)

    def kv_cache(self, spec: KVSpec) -> ReferenceKV:
        """A zero cache."""
        return ReferenceKV(spec)

    def adapter_table(self, targets: Mapping[str, tuple[int, ...]], n_slot: int) -> ReferenceAdapters:
        """Empty slots."""
        return ReferenceAdapters(targets, n_slot)

    def compile(
        self, graph: Graph, weights: Mapping[str, Any], *, kv: Any = None, adapters: Any = None, states: Any = None
    ) -> ReferenceExecutable:
        """Nothing to lower: the nodes are walked as they are."""
        data = {name: weights[name].data for name in graph.parameters}
        return ReferenceExecutable(graph, Step(data, kv, adapters, dict(states or {})), self.kept)


class ReferenceExecutable(Executable):
    """A graph, its weights, and its packed input block."""

    def __init__(self, graph: Graph, step: Step, kept: Any) -> None:
        self.graph, self.step, self.kept = graph, step, kept
        self.maxima = graph.dims()
        layout = InputLayout(graph.inputs)
        self.block = np.zeros(layout.n_values, np.int32)
        self.inputs = layout.views(self.block)

    def run(self, sizes: Mapping[str, int], *, longest: int = 0) -> dict[str, ReferenceBuffer]:
        """Walk the nodes."""
        check_sizes(self.maxima, sizes)
        values: dict[int, Any] = {}
        for name, value in self.graph.inputs.items():
            values[value.id] = self.inputs[name][self._cut(value, sizes)]
        self._check(values)
        for node in self.graph.nodes:
            inputs = [None if v is None else values[v.id] for v in node.inputs]
            made = ALL[node.op](self.step, node, *inputs)
            results = made if isinstance(made, tuple) else (made,)
            for value, result in zip(node.outputs, results, strict=False):
                # A state's memory stays what it is; all else is rounded once.
                same = node.op in (Op.READ_STATE, Op.RESHAPE)
                values[value.id] = result if same else np.ascontiguousarray(result, self.kept)
        return {name: ReferenceBuffer(values[value.id]) for name, value in self.graph.outputs.items()}

    @staticmethod
    def _cut(value: Value, sizes: Mapping[str, int]) -> tuple[slice, ...]:
        return tuple(slice(0, sizes[size.name] if isinstance(size, Dim) else size) for size in value.shape)

    def _check(self, values: dict[int, Any]) -> None:
        """Refuse indices that point outside of what they index."""
        for node in self.graph.nodes:
            ints = {name: values.get(value.id) for name, value in node.named_inputs() if value is not None}
            if node.op is Op.EMBEDDING and node.tensors[0] is not None:
                self._check_range(node, "token", ints["tokens"], node.tensors[0].shape[0])
            elif node.op is Op.ATTENTION and self.step.kv is not None and node.attrs.layer is not None:
                spec = self.step.kv.spec
                self._check_range(node, "cell", ints["cells"], spec.n_block * spec.block_size)
            elif node.op in (Op.HEAD_LOSS, Op.CROSS_ENTROPY, Op.CROSS_ENTROPY_GRAD):
                tensor = node.tensors[0] if node.tensors else None
                n_vocab = int(node.inputs[0].shape[-1]) if tensor is None else tensor.shape[0]  # type: ignore[union-attr]
                self._check_range(node, "target", ints["targets"], n_vocab, least=-1)
            elif node.op is Op.SCATTER_ROWS and node.tensors[0] is not None:
                self._check_range(node, "row", ints["indices"], node.tensors[0].shape[0])

    @staticmethod
    def _check_range(node: Node, what: str, found: Any, n: int, least: int = 0) -> None:
        if found.size and (found.min() < least or found.max() >= n):
            raise BackendError(f"node {node.name}: {what} {found.min()}..{found.max()} is outside {least}..{n - 1}")
