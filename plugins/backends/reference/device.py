"""The reference device and its programs: walk the nodes in order, one numpy function each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llamakit.plugins.backends.reference.memory import (
    KV_TYPES,
    ReferenceAdapters,
    ReferenceBuffer,
    ReferenceKV,
    ReferenceState,
    load_weight,
)
from llamakit.plugins.backends.reference.ops import OPS, Step

from llamakit.backend import Device, DeviceInfo, Executable, InputLayout, Precision
from llamakit.errors import BackendError
from llamakit.gguf import GGMLType
from llamakit.graph.graph import Dim

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.backend import KVSpec, RunSizes, TensorSource, Uses
    from llamakit.graph.graph import Graph, Node, Value


class ReferenceDevice(Device):
    """Host memory and numpy."""

    info = DeviceInfo("numpy", "cpu")

    def supports(self, node: Node) -> bool:
        """Every op: it defines them."""
        return True

    def precision(self, node: Node, weight_type: GGMLType | None) -> Precision:
        """Float64 sums, rounded to float32 once."""
        return Precision(operand=0.0, accumulator=2.0**-24)

    def packed_size(self, source: TensorSource, uses: Uses) -> int:
        """Everything is float32 here."""
        return 4 * int(np.prod(source.shape))

    def load(self, source: TensorSource, uses: Uses) -> Any:
        """Dequantise."""
        return load_weight(source)

    def state(self, shape: tuple[int, ...]) -> ReferenceState:
        """A zero array."""
        return ReferenceState(shape)

    def kv_size(self, spec: KVSpec) -> int:
        """Bytes of the canonical layout."""
        k, v = spec.row_bytes({name: (t.block_size, t.type_size) for name, t in KV_TYPES.items()})
        return spec.n_layer * spec.n_block * spec.block_size * (k + v)

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
        return ReferenceExecutable(graph, Step(data, kv, adapters, dict(states or {})))


class ReferenceExecutable(Executable):
    """A graph, its weights, and its packed input block."""

    def __init__(self, graph: Graph, step: Step) -> None:
        self.graph, self.step = graph, step
        layout = InputLayout(graph.inputs)
        self.block = np.zeros(layout.n_values, np.int32)
        self.inputs = layout.views(self.block)

    def run(self, sizes: RunSizes) -> dict[str, ReferenceBuffer]:
        """Walk the nodes."""
        actual = {"rows": sizes.rows, "out_rows": sizes.out_rows, "seqs": sizes.seqs}
        values: dict[int, Any] = {}
        for name, value in self.graph.inputs.items():
            values[value.id] = self.inputs[name][self._cut(value, actual)]
        self._check(values)
        for node in self.graph.nodes:
            inputs = [None if v is None else values[v.id] for v in node.inputs]
            result = OPS[node.op](self.step, node, *inputs)
            values[node.output.id] = np.ascontiguousarray(result, np.float32)
        return {name: ReferenceBuffer(values[value.id]) for name, value in self.graph.outputs.items()}

    @staticmethod
    def _cut(value: Value, actual: dict[str, int]) -> tuple[slice, ...]:
        cuts = []
        for size in value.shape:
            n = actual.get(size.name, size.maximum) if isinstance(size, Dim) else size
            if n > int(size):
                raise BackendError(f"input {value.name!r}: {n} {size} asked for, compiled for at most {int(size)}")
            cuts.append(slice(0, n))
        return tuple(cuts)

    def _check(self, values: dict[int, Any]) -> None:
        """Refuse indices that point outside of what they index."""
        for node in self.graph.nodes:
            if node.op == "embedding" and node.inputs[0] is not None:
                n_vocab = self.step.weights[str(node.weights[0])].shape[0]
                self._check_range(node, "token", values[node.inputs[0].id], n_vocab)
            elif node.op == "attention" and self.step.kv is not None and node.attrs.layer is not None:
                spec = self.step.kv.spec
                self._check_range(node, "cell", values[node.inputs[5].id], spec.n_block * spec.block_size)  # type: ignore[union-attr]

    @staticmethod
    def _check_range(node: Node, what: str, found: Any, n: int) -> None:
        if found.size and (found.min() < 0 or found.max() >= n):
            raise BackendError(f"node {node.name}: {what} {found.min()}..{found.max()} is outside 0..{n - 1}")
