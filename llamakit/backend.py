"""What a backend is: the contract between the model graphs and the plugins under `plugins/backends`.

    backend = BackendClass(options)          # the plugin; probe() said that it can run here
    device = backend.open(0)                 # owns memory; one engine thread uses it
    weights = {name: device.load(source, uses) for ...}      # one weight store serves every graph of the model
    kv = device.kv_cache(spec)               # state of the device, paged in blocks
    program = device.compile(graph, weights, kv=kv)          # once
    program.inputs["tokens"][:n] = ...       # views into one packed block, every step
    outputs = program.run({"rows": n, "out_rows": m}, longest=l)   # one call, GIL released
    logits = outputs["logits"].numpy()

Nothing outside a backend assumes that its buffers lie in host memory. Whatever a device holds can be made
again from the files: after a `DeviceLostError`, `reopen()` drops all state and handles, and the session loads again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import msgspec

from llamakit.adapter import Adapter as Adapter  # noqa: PLC0414  (part of this contract)
from llamakit.errors import BackendError
from llamakit.graph.cache import CacheLayer as CacheLayer  # noqa: PLC0414  (part of this contract)
from llamakit.graph.graph import DType
from llamakit.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from llamakit.gguf import GGMLType
    from llamakit.graph.graph import Graph, Node, Value
    from llamakit.graph.ops import Op

Uses = frozenset[tuple["Op", str]]


class DeviceInfo(msgspec.Struct, frozen=True):
    """One device as `llamakit doctor` shows it; sizes in bytes, 0 where unknown."""

    name: str
    kind: str  # "cpu", "gpu", ...
    memory: int = 0
    memory_free: int = 0
    details: tuple[str, ...] = ()  # such as instruction sets or driver version, for people


class Availability(msgspec.Struct, frozen=True):
    """Whether a backend can run here, and the reason why or why not."""

    available: bool
    reason: str
    devices: tuple[DeviceInfo, ...] = ()


class Memory(msgspec.Struct, frozen=True):
    """Bytes of a device: of all it has, and of what may still be taken."""

    total: int
    free: int


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that a graph takes: its tensors of files, its states, and the program with all that it works with.

    Weights and states are shared by all graphs of a model; a KV cache (`Device.kv_size`) and adapters come on top.
    """

    weights: int = 0
    states: int = 0
    program: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.states + self.program


class TensorSource(Protocol):
    """A tensor as it lies in a file, read in pieces."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    n_bytes: int

    def pieces(self, size: int = 1 << 24) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yield (offset, bytes) in order, each of at most `size` bytes."""

    def whole(self) -> npt.NDArray[np.uint8]:
        """All bytes; where they lie in a mapped file, if they do."""


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What a device does at best, measured: nothing that runs on it can be faster.

    `read_bandwidth`: bytes read from memory a second; `multiply_adds`: multiply-adds a second by type of the operands,
    such as "int8" or "f32"; `notes`: what matters beside, for people.
    """

    read_bandwidth: float
    multiply_adds: dict[str, float]
    notes: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Precision:
    """Unit round-offs with which a node is computed; the conformance kit derives its tolerances from them.

    `operand`: to which relative precision operands are rounded first (0: not at all; 2**-8 for bfloat16, about
    2**-8 of the largest of a block for int8). `accumulator`: of the sums (2**-24 for float32).
    """

    operand: float = 0.0
    accumulator: float = 2.0**-24


class KVSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of a KV cache: `n_block` blocks of `block_size` positions, the same block numbers for every layer.

    `type` is the GGUF name of the storage type: "f32", "f16", "bf16", "q8_0". Layers may differ.
    """

    layers: tuple[CacheLayer, ...]
    n_block: int
    block_size: int
    type: str = "f16"


class KVCache(ABC):
    """Keys and values of all layers. A cell is a position's place: block * block_size + offset."""

    spec: KVSpec

    @abstractmethod
    def copy(self, source: Sequence[int], destination: Sequence[int]) -> None:
        """Copy whole blocks, all layers (copy on write)."""

    @abstractmethod
    def shift(self, source: Sequence[int], destination: Sequence[int], delta: int) -> None:
        """Copy cells to cells, all layers, with the keys rotated by `delta` positions (context shift)."""

    @abstractmethod
    def export(self, cells: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The cells in canonical form: (layers, n_cells, bytes of K + bytes of V).

        Heads lie in order, values in GGUF blocks of `spec.type`, whatever the device packs. The last size is that of
        the layer with most; rows of others end in zeros.
        """

    @abstractmethod
    def restore(self, cells: Sequence[int], data: npt.NDArray[np.uint8]) -> None:
        """Write cells that `export` gave."""

    def close(self) -> None:
        """Give the memory back."""


class AdapterTable(ABC):
    """Adapters by slot, 1..n_slot; slot 0 means none. Filled and changed at run time without recompiling."""

    n_slot: int

    @abstractmethod
    def set(self, slot: int, adapters: Mapping[str, Adapter]) -> None:
        """Put adapters, by tensor name, into a slot, replacing what was there."""

    @abstractmethod
    def clear(self, slot: int) -> None:
        """Empty a slot."""


class State(ABC):
    """A tensor of the device that graphs read and change, row-major; on the host always float32.

    Of the types of `DType`, F32 holds values as they are, BF16 and I8 round them when they are written.
    """

    shape: tuple[int, ...]
    dtype: DType

    @abstractmethod
    def read(self) -> npt.NDArray[Any]:
        """A copy of the value."""

    @abstractmethod
    def write(self, value: npt.NDArray[Any]) -> None:
        """Replace the value; UsageError if it has another shape."""


class Weight(Protocol):
    """A loaded, packed, read-only tensor: an opaque handle with its size in bytes."""

    name: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class LogitEdits:
    """Changes of one row of logits, made where it lies: those of samplers that come before all that choose.

    For each of `ids` (n,) in order, x / repeat if x > 0, else x * repeat, then x + value; ids may occur several times.
    Then all times `scale`. Then, with a `mask` of (ceil(n_vocab / 32),) words, minus infinity where the bit is not set.
    All in float32, a rounding each.
    """

    ids: npt.NDArray[np.int32]
    repeats: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    scale: float = 1.0
    mask: npt.NDArray[np.uint32] | None = None


class Top(NamedTuple):
    """The likeliest of m rows: `ids` and `values` (m, k), values falling, of equal ones the lower id first.

    `log_sum_exp` (m,), of all values of a row, is NaN where one of them is NaN or infinite, or all are minus infinity;
    what stands in the row's other fields then means nothing. The largest value is the first.
    """

    ids: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    log_sum_exp: npt.NDArray[np.float64]


class Buffer(ABC):
    """An output of a run, valid until the next run of the same program."""

    shape: tuple[int, ...]
    on_host: ClassVar[bool] = True  # whether `numpy` costs nothing: if not, callers ask for rows, or what is on top

    @abstractmethod
    def numpy(self) -> npt.NDArray[np.float32]:
        """The values on the host, read-only; a view where the device shares memory with it."""

    def rows(self, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """Some rows on the host, (m, ...)."""
        return self.numpy()[list(rows)]

    def top(self, rows: Sequence[int], k: int, edits: Sequence[LogitEdits | None] | None = None) -> Top:
        """The `k` likeliest of each of `rows` of (n, n_vocab), after the row's edits; all of them if there are fewer.

        A device that keeps logits to itself does this there, and then its values are those of `rows`.
        """
        import numpy as np

        from llamakit import _sampling

        if not rows or k < 1:
            raise BackendError(f"the {k} likeliest of {len(rows)} rows: one at least of one row is possible")
        n_vocab, found = self.shape[-1], []
        for row, edit in zip(self.rows(rows), edits or [None] * len(rows), strict=True):
            change = None
            if edit is not None:
                mask = np.zeros(0, np.uint32) if edit.mask is None else edit.mask
                change = _sampling.Edits(n_vocab, edit.ids, edit.repeats, edit.values, edit.scale, mask)
            found.append(_sampling.top_of(np.ascontiguousarray(row, np.float32), k, change))
        ids, values, sums = zip(*found, strict=True)
        return Top(np.stack(ids), np.stack(values), np.array(sums, np.float64))


class InputLayout:
    """Where each input lies in the packed block of 32-bit words: fixed when the graph is compiled.

    Inputs follow one another in the graph's order, each at its maximal size, each aligned to 16 words. A block has 16
    words at least, so that a graph without inputs has one too.
    """

    def __init__(self, inputs: Mapping[str, Value]) -> None:
        self.offsets: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._dtypes = {name: str(value.dtype) for name, value in inputs.items()}
        n = 0
        for name, value in inputs.items():
            shape = tuple(int(size) for size in value.shape)
            self.offsets[name] = (n, shape)
            n += -(-math.prod(shape) // 16) * 16
        self.n_values = max(n, 16)

    def views(self, block: npt.NDArray[np.int32]) -> dict[str, npt.NDArray[Any]]:
        """A named view for each input into the packed block, of its own type."""
        views = {}
        for name, (offset, shape) in self.offsets.items():
            words = block[offset : offset + math.prod(shape)]
            views[name] = (words.view("float32") if self._dtypes[name] == "f32" else words).reshape(shape)
        return views


def check_sizes(maxima: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    """BackendError unless every free size is given, and is at most its compiled maximum."""
    for name, maximum in maxima.items():
        n = sizes.get(name)
        if n is None or not 0 <= n <= maximum:
            raise BackendError(f"{name} = {n} was asked for; the graph is compiled for 0 to {maximum} {name}")


def longest(graph: Graph, kv: KVSpec | None) -> int:
    """The most positions that a sequence of the graph may have in the cache; 0 without one."""
    tables = graph.inputs.get("block_tables")
    return 0 if kv is None or tables is None else kv.block_size * int(tables.shape[1])


class Executable(ABC):
    """A compiled graph. `inputs` are views into its packed block, int32 or float32; write them, then run."""

    inputs: Mapping[str, npt.NDArray[Any]]

    @abstractmethod
    def run(self, sizes: Mapping[str, int], *, longest: int = 0) -> Mapping[str, Buffer]:
        """Run one step and return the graph's outputs, cut to `sizes`.

        `sizes`: each free size (`Dim`) of the graph by name, at most its compiled maximum. `longest`: the largest
        position + 1 in the step, for graphs with a KV cache. BackendError names what is missing or too large.
        """

    def receive(self, name: str, made: Buffer) -> bool:
        """Take an input of the next run, as large as `made` is, from where another program left it on a device.

        False: it cannot be had from there; whoever asks then writes it into `inputs`.
        """
        return False

    def close(self) -> None:
        """Give the memory back."""


class Device(ABC):
    """An opened device: makes handles and programs. Used by one thread at a time."""

    info: DeviceInfo

    @abstractmethod
    def supports(self, node: Node) -> bool:
        """Whether this device can run the node; asked when a graph is placed."""

    @abstractmethod
    def precision(self, node: Node, weight_type: GGMLType | None) -> Precision:
        """How exactly it computes the node with a weight of that type; of attention, with a cache of that type."""

    @abstractmethod
    def memory(self) -> Memory:
        """How much memory the device has, now."""

    @abstractmethod
    def footprint(self, graph: Graph, sources: Mapping[str, TensorSource], kv: KVSpec | None = None) -> Footprint:
        """What loading, compiling and running the graph would take; nothing is allocated or read.

        `sources`: where the graph's tensors of files come from; `kv`: the cache that it uses, which is not counted
        (see `kv_size`). Runs are those of the largest sizes.
        """

    @abstractmethod
    def load(self, source: TensorSource, uses: Uses) -> Weight:
        """Bring a tensor onto the device, packed for its uses."""

    @abstractmethod
    def state(self, shape: tuple[int, ...], dtype: DType = DType.F32) -> State:
        """A new state tensor, zero."""

    def weight_size(self, source: TensorSource) -> int:
        """Bytes of a tensor of a file once it is loaded; those of the file, unless the device says otherwise."""
        return source.n_bytes

    @abstractmethod
    def kv_size(self, spec: KVSpec) -> int:
        """Bytes that a KV cache of this shape would take."""

    @abstractmethod
    def kv_cache(self, spec: KVSpec) -> KVCache:
        """A new KV cache."""

    @abstractmethod
    def adapter_table(self, targets: Mapping[str, tuple[int, ...]], n_slot: int) -> AdapterTable:
        """An empty table for adapters of the tensors in `targets` (name -> shape)."""

    @abstractmethod
    def compile(
        self,
        graph: Graph,
        weights: Mapping[str, Weight],
        *,
        kv: KVCache | None = None,
        adapters: AdapterTable | None = None,
        states: Mapping[str, State] | None = None,
    ) -> Executable:
        """Lower, fuse, plan memory; the result runs with any sizes up to the graph's maxima."""

    @property
    def cache_on_host(self) -> bool:
        """Whether its keys and values lie in the host's main memory, though the device has memory of its own."""
        return False

    def cache_room(self, taken: int) -> int:
        """Bytes that keys and values may take beside `taken` bytes for the model; below 0 where it does not fit."""
        return self.memory().free - taken

    @property
    def in_file(self) -> bool:
        """Whether programs read weights where their file is mapped, so that changing the file would change answers.

        Then they have read them when `run` returns: whoever looks at the file after that, before using what was made,
        knows that it was made of the file's weights.
        """
        return False

    def kernels(self) -> Mapping[str, str]:
        """What is in use, for `doctor` and `-v`: such as {"isa": "avx512", "threads": "2"}."""
        return {}

    def ceilings(self) -> Ceilings | None:
        """Measure, in about a second, what the device does at best; None: it does not say."""
        return None

    def operands(self, weight_type: GGMLType) -> str:
        """The key of `Ceilings.multiply_adds` that holds for linears with a weight of this type."""
        return "f32"

    def reopen(self) -> None:
        """After a `DeviceLostError`: be usable again. All weights, states, caches, tables and programs are gone.

        Raises BackendError while the device cannot be had.
        """

    def close(self) -> None:
        """Give everything back."""


@dataclass(frozen=True, slots=True)
class Part:
    """The graph of one device of several, and what it needs there.

    `received`: those of its inputs that earlier parts make, which are outputs of theirs by the same names.
    """

    device: Device
    graph: Graph
    weights: Mapping[str, Weight]
    kv: KVCache | None
    adapters: AdapterTable | None
    received: tuple[str, ...]


class Backend(ABC):
    """A plugin's backend. Making one opens nothing."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any = None) -> None:
        self.options: Any = options if options is not None else self.Options()

    @classmethod
    @abstractmethod
    def probe(cls) -> Availability:
        """Whether it can run here. Never raises."""

    @classmethod
    def is_likely(cls) -> bool:
        """Whether a probe is worth its time when nobody asked for this backend: cheap, and never raises."""
        return True

    @abstractmethod
    def open(self, index: int = 0) -> Device:
        """Open device number `index` of those that `probe` listed."""

    def compile(self, parts: Sequence[Part]) -> Executable:
        """One program of the graphs of several devices of this backend, in order. Its outputs are those of all parts.

        Unless a backend knows better, they run one after the other, and what they hand on passes through the host.
        """
        from llamakit.devices.relay import compile_parts

        return compile_parts(parts)
