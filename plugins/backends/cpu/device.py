"""The host as a device: what it holds, and its programs."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from llamakit.plugins.backends.cpu import _cpu
from llamakit.plugins.backends.cpu.cores import over_nodes, parse_cores
from llamakit.plugins.backends.cpu.footprint import footprint, matrix_shape
from llamakit.plugins.backends.cpu.lower import PANEL_ROWS, Lowering, supported

from llamakit import system
from llamakit.backend import (
    AdapterTable,
    Buffer,
    Ceilings,
    Device,
    DeviceInfo,
    Executable,
    Footprint,
    InputLayout,
    KVCache,
    KVSpec,
    Memory,
    Precision,
    State,
    check_sizes,
    longest,
)
from llamakit.errors import BackendError, OutOfMemoryError, UsageError
from llamakit.gguf import GGMLType
from llamakit.graph.graph import Dim, DType
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llamakit.plugins.backends.cpu import CPUOptions

    from llamakit.backend import Adapter, TensorSource, Uses
    from llamakit.graph.attrs import RopeAttrs
    from llamakit.graph.graph import Graph, Node, Value

# By form of the activations, how far they are rounded. 1/254 of the largest value of a block of 32 is about 1/127 of
# the root mean square; the largest of 256 is about half again as far out.
ROUNDING = {"f32": 0.0, "bf16": 2.0**-8, "int8_32": 1 / 127, "int8_256": 1 / 85}
PIECE = 1 << 24  # bytes of a file that are packed at once


@contextmanager
def translated() -> Iterator[None]:
    """Native exceptions as LlamaKit's."""
    try:
        yield
    except ValueError as error:
        raise BackendError(f"cpu: {error}") from None
    except MemoryError:
        raise OutOfMemoryError(f"cpu: not enough memory; {system.free_memory() / 2**30:.2f} GiB are free") from None


class CPUWeight:
    """A tensor: packed, or as it lies in the file."""

    def __init__(self, source: TensorSource, pool: Any, options: CPUOptions) -> None:
        n_out, n_in, vector = matrix_shape(source.shape)
        self.name, self.shape, self.type = source.name, source.shape, source.type
        if options.no_repack and not vector:
            rows = source.whole()
            self.native = _cpu.Weight.in_place(int(source.type), n_out, n_in, rows.copy() if options.no_mmap else rows)
            self.n_bytes: int = source.n_bytes
            return
        self.native = _cpu.Weight(int(source.type), n_out, n_in, vector)
        panel = PANEL_ROWS * source.n_bytes // n_out  # pieces of whole panels are packed without a copy
        for _, piece in source.pieces(max(PIECE // panel, 1) * panel):
            self.native.append(piece, pool)
        self.native.finish(pool)
        self.n_bytes = self.native.n_bytes


class CPUState(State):
    """A tensor that programs change."""

    def __init__(self, shape: tuple[int, ...], dtype: DType) -> None:
        self.shape, self.dtype = shape, dtype
        self.native = _cpu.State(str(dtype), math.prod(shape))

    def read(self) -> Any:
        """A copy of the value."""
        return self.native.read().reshape(self.shape)

    def write(self, value: Any) -> None:
        """Replace the value."""
        if np.shape(value) != self.shape:
            raise UsageError(f"a state of shape {self.shape} cannot take a value of shape {np.shape(value)}")
        self.native.write(np.ascontiguousarray(value, np.float32).reshape(-1))


def _shapes(spec: KVSpec) -> list[tuple[int, int, int]]:
    return [(layer.n_head_kv, layer.head_dim_k, layer.head_dim_v) for layer in spec.layers]


def _rope(rope: RopeAttrs | None) -> Any:
    return None if rope is None else _cpu.Rope(list(rope.inv_freq), rope.pairs == "adjacent", rope.magnitude)


class CPUKVCache(KVCache):
    """Keys and values of all layers."""

    def __init__(self, spec: KVSpec, isa: str) -> None:
        if spec.type == "q8_0" and any(n % 32 for layer in spec.layers for n in layer.n_values):
            raise UsageError("KV type q8_0 stores blocks of 32 values; this model's keys are not a multiple: use f16")
        self.spec, self._isa = spec, isa
        self.native = _cpu.KVCache(spec.type, _shapes(spec), spec.n_block, spec.block_size)
        self._ropes = [_rope(layer.rope) for layer in spec.layers]

    def copy(self, source: Sequence[int], destination: Sequence[int]) -> None:
        """Copy whole blocks."""
        with translated():
            self.native.copy(list(source), list(destination))

    def shift(self, source: Sequence[int], destination: Sequence[int], delta: int) -> None:
        """Copy cells with their keys rotated."""
        with translated():
            self.native.shift(self._isa, list(source), list(destination), self._ropes, float(delta))

    def export(self, cells: Sequence[int]) -> Any:
        """Cells in canonical form."""
        with translated():
            return self.native.export(list(cells))

    def restore(self, cells: Sequence[int], data: Any) -> None:
        """Write cells in canonical form."""
        with translated():
            self.native.restore(list(cells), np.ascontiguousarray(data))


def _matrix(values: Any) -> Any:
    """Part of an adapter in panels (a vector as it is), in the smallest float type that holds every value exactly."""
    if values is None:
        return None
    x = np.ascontiguousarray(values, np.float32)
    type_, raw = GGMLType.F32, x
    if x.ndim == 2:
        with np.errstate(over="ignore", under="ignore"):
            half = x.astype(np.float16)
        bits = x.view(np.uint32)
        if np.array_equal(half, x):
            type_, raw = GGMLType.F16, half
        elif not (bits & 0xFFFF).any():
            type_, raw = GGMLType.BF16, (bits >> 16).astype(np.uint16)
    weight = _cpu.Weight(int(type_), *(x.shape if x.ndim == 2 else (1, len(x))), x.ndim == 1)
    alone = _cpu.Pool(1)
    weight.append(raw.view(np.uint8).reshape(-1), alone)
    weight.finish(alone)
    return weight


class CPUAdapters(AdapterTable):
    """Adapters by slot."""

    def __init__(self, targets: Mapping[str, tuple[int, ...]], n_slot: int) -> None:
        self.targets, self.n_slot = dict(targets), n_slot
        self.native = _cpu.AdapterTable(n_slot)

    def set(self, slot: int, adapters: Mapping[str, Adapter]) -> None:
        """Fill a slot."""
        if not 1 <= slot <= self.n_slot:
            raise UsageError(f"adapter slot {slot}: there are slots 1 to {self.n_slot}")
        for name, adapter in adapters.items():
            self._check(name, adapter)
        with translated():
            self.native.set(slot, {name: (_matrix(a.A), _matrix(a.B), a.scale) for name, a in adapters.items()})

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        self.set(slot, {})

    def _check(self, name: str, adapter: Adapter) -> None:
        if name not in self.targets:
            raise UsageError(f"adapter for {name!r}: the model has no such tensor to adapt")
        shape = self.targets[name]
        found = np.shape(adapter.B) if adapter.A is None else (np.shape(adapter.B)[0], np.shape(adapter.A)[1])
        if tuple(found) != tuple(shape) or (adapter.A is not None and np.shape(adapter.A)[0] != np.shape(adapter.B)[1]):
            raise UsageError(f"adapter for {name!r} makes {tuple(found)}, the tensor is {tuple(shape)}")


class CPUBuffer(Buffer):
    """An output, where the program left it."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.shape: tuple[int, ...] = tuple(data.shape)

    def numpy(self) -> Any:
        """A read-only view."""
        return self.data


class CPUExecutable(Executable):
    """A program and its packed input block."""

    def __init__(self, device: CPUDevice, graph: Graph, weights: Any, kv: Any, adapters: Any, states: Any) -> None:
        layout = InputLayout(graph.inputs)
        self._block = np.zeros(layout.n_values, np.int32)
        self.inputs = layout.views(self._block)
        lowering = Lowering(graph, layout, weights, states)
        tables = graph.inputs.get("block_tables")
        blocks = int(tables.shape[1]) if tables is not None else 0
        self.maxima = lowering.dims
        sizes = (list(self.maxima.values()), self.maxima.get("seqs", 0), blocks)
        parts = (None if kv is None else kv.native, None if adapters is None else adapters.native)
        isa = device.options.isa
        self._native = _cpu.Program(
            device.pool, isa, lowering.steps(), lowering.plan.total, self._block, *parts, *sizes
        )
        self._native.use_threads(device.n_thread, device.n_thread_batch)
        self._native.use_pairs(device.options.train_bf16)
        self._outputs = {name: (value, lowering.value(value)) for name, value in graph.outputs.items()}

    def run(self, sizes: Mapping[str, int], *, longest: int = 0) -> dict[str, CPUBuffer]:
        """One call, the GIL released."""
        check_sizes(self.maxima, sizes)
        with translated():
            self._native.run([sizes[name] for name in self.maxima], longest)
        return {
            name: CPUBuffer(_cpu.output(self._native, place, _cut(value, sizes)))
            for name, (value, place) in self._outputs.items()
        }


def _cut(value: Value, sizes: Mapping[str, int]) -> list[int]:
    """A value's shape at this run."""
    return [sizes[size.name] if isinstance(size, Dim) else size for size in value.shape]


class CPUDevice(Device):
    """Host memory, a pool of threads, and the kernels for this processor."""

    def __init__(self, options: CPUOptions) -> None:
        known = _cpu.supported_isas()
        if options.isa and options.isa not in known:
            raise UsageError(f"backend.cpu.isa is {options.isa!r}; this processor has: {', '.join(known)}")
        self.options = options
        self.isa: str = options.isa or known[0]
        self.n_thread = options.threads or system.cpu_count()
        self.n_thread_batch = options.threads_batch or self.n_thread
        self.cores = parse_cores(options.affinity) or (over_nodes() if options.numa else [])
        self.info = DeviceInfo(system.cpu_name(), "cpu", system.total_memory(), system.free_memory(), tuple(known))
        self.reopen()

    @property
    def in_file(self) -> bool:
        """With `no_repack`, unless the file is read into memory."""
        return self.options.no_repack and not self.options.no_mmap

    def kernels(self) -> dict[str, str]:
        """Instruction set, threads, and where weights lie if they are not packed."""
        found = {"isa": self.isa, "threads": str(self.n_thread)}
        if self.n_thread_batch != self.n_thread:
            found["threads for prompts"] = str(self.n_thread_batch)
        if self.options.no_repack:
            found["weights"] = "read into memory" if self.options.no_mmap else "in the file"
        return found | ({"cores": ",".join(map(str, self.cores))} if self.cores else {})

    def ceilings(self) -> Ceilings:
        """Measured with all threads, and this instruction set."""
        rates = {type_: _cpu.multiply_rate(self.isa, self.pool, type_) for type_ in ("int8", "bf16", "f32")}
        pages = f"{system.huge_pages() or 'unknown'}, {system.huge_bytes() / 2**20:,.0f} MiB in use"
        return Ceilings(
            read_bandwidth=_cpu.read_bandwidth(self.isa, self.pool), multiply_adds=rates, notes={"huge pages": pages}
        )

    def operands(self, weight_type: GGMLType) -> str:
        """Quantised weights meet activations of eight bits."""
        form: str = _cpu.activations(int(weight_type))
        return form.partition("_")[0]

    def supports(self, node: Node) -> bool:
        """Whether there is a kernel."""
        return supported(node)

    def precision(self, node: Node, weight_type: GGMLType | None) -> Precision:
        """Activations are rounded to the form that meets the weight; all else is float32."""
        operand = 0.0
        plain = node.op in (Op.LINEAR, Op.HEAD_LOSS) and node.attrs.activations == "f32"
        if node.op in (Op.LINEAR, Op.EXPERTS, Op.HEAD_LOSS) and weight_type is not None and not plain:
            operand = ROUNDING[_cpu.activations(int(weight_type))]
            if node.op is Op.EXPERTS:
                operand *= 2  # inputs are rounded twice, before the gate and behind it
        if node.op is Op.ATTENTION and weight_type is GGMLType.BF16 and self.isa == "avx512":
            operand = 2.0**-8  # queries and weights are rounded as keys and values are
        return Precision(operand=operand, accumulator=2.0**-23)

    def memory(self) -> Memory:
        """The host's."""
        return Memory(system.total_memory(), system.free_memory())

    def footprint(self, graph: Graph, sources: Mapping[str, TensorSource], kv: KVSpec | None = None) -> Footprint:
        """Panels, or nothing where the file's own memory is used; the arena and what steps need beside it."""
        with translated():
            return footprint(graph, sources, longest(graph, kv), self)

    def load(self, source: TensorSource, uses: Uses) -> CPUWeight:
        """Pack a tensor."""
        with translated():
            return CPUWeight(source, self.pool, self.options)

    def state(self, shape: tuple[int, ...], dtype: DType = DType.F32) -> CPUState:
        """A zero tensor."""
        with translated():
            return CPUState(shape, dtype)

    def kv_size(self, spec: KVSpec) -> int:
        """Bytes of a cache."""
        with translated():
            size: int = _cpu.KVCache.bytes(spec.type, _shapes(spec), spec.n_block * spec.block_size)
        return size

    def kv_cache(self, spec: KVSpec) -> CPUKVCache:
        """A zero cache."""
        with translated():
            return CPUKVCache(spec, self.isa)

    def adapter_table(self, targets: Mapping[str, tuple[int, ...]], n_slot: int) -> CPUAdapters:
        """Empty slots."""
        return CPUAdapters(targets, n_slot)

    def compile(
        self, graph: Graph, weights: Mapping[str, Any], *, kv: Any = None, adapters: Any = None, states: Any = None
    ) -> CPUExecutable:
        """Lower and plan memory."""
        with translated():
            return CPUExecutable(self, graph, weights, kv, adapters, dict(states or {}))

    def reopen(self) -> None:
        """Nothing is lost on the host; a fresh pool."""
        self.pool = _cpu.Pool(max(self.n_thread, self.n_thread_batch), self.cores)
