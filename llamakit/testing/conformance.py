"""The conformance suite of backends: every op, tensor type and remainder of shapes, against the reference.

    from llamakit.testing.conformance import cases, check

    @pytest.mark.parametrize("case", cases(), ids=str)
    def test_my_backend(case):
        check(case, my_device, reference_device)

Tolerances follow from the operands' norms and the precision that the device declares for the node; a failure names the
worst cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.backend import Adapter, CacheLayer, KVSpec, LogitEdits
from llamakit.gguf import GGMLType, native, quants
from llamakit.graph.attrs import ACTIVATIONS
from llamakit.graph.graph import Dim, DType, Graph, GraphBuilder, Tensor
from llamakit.graph.ops import (
    ActivationAttrs,
    AttentionAttrs,
    ExpertsAttrs,
    GatedAttrs,
    LayerNormAttrs,
    MatmulAttrs,
    Op,
    ReshapeAttrs,
    RMSNormAttrs,
    RopeAttrs,
    ScaleAttrs,
    SoftCapAttrs,
)
from llamakit.testing.blocks import random_blocks
from llamakit.weights import MemoryTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from llamakit.backend import Device

MANY_ROWS = 101  # more than any backend takes at once, and no multiple of what it may take
MAX_ROWS = 128
N_VOCAB = 37
BLOCK = 16


@dataclass(frozen=True)
class Case:
    """One op with its sizes. `type` is that of the weight, `kv_type` that of the cache."""

    op: str
    rows: int = 3
    n_in: int = 64
    n_out: int = 48
    type: GGMLType = GGMLType.F32
    kv_type: str = "f32"
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 16
    window: int | None = None
    pairs: str = "adjacent"
    bias: bool = False
    adapters: bool = False
    past: int = 0
    n_expert: int = 6
    n_used: int = 3
    normalise: bool = True
    activation: str = "silu"
    mixed: bool = False  # whether gate and up are of different types
    n_rot: int = 0  # dimensions that rope turns; 0: all of a head
    soft_cap: float = 0.0  # of attention's scores
    slopes: bool = False  # whether attention's scores have a bias by distance
    sinks: bool = False  # whether attention's heads have sinks
    ties: bool = False  # whether all scores of a row are the same

    def __str__(self) -> str:
        default = Case(self.op)
        changed = [f"{k}={v}" for k, v in self.__dict__.items() if k != "op" and v != getattr(default, k)]
        return "-".join([self.op, *changed])


def cases() -> list[Case]:
    """All of them."""
    found = [Case("linear", rows=rows, n_out=n_out) for rows in (*range(1, 10), 17) for n_out in (1, 16, 33)]
    for type_ in quants.readable():
        for rows in (1, 2, 5, 8, 9):
            found.append(Case("linear", rows=rows, n_in=512, n_out=35, type=type_))
        found.append(Case("linear", rows=MANY_ROWS, n_in=512, n_out=19, type=type_))
        found.append(Case("embedding", n_in=512, type=type_))
    found += [Case("linear", n_in=n_in) for n_in in (1, 3, 31, 65)]
    found += [Case("linear", rows=rows, n_in=65, n_out=35, type=GGMLType.F16) for rows in (3, MANY_ROWS)]
    found.append(Case("linear", rows=20, n_in=96, n_out=35, type=GGMLType.Q4_0))
    found += [
        Case("linear", bias=True),
        Case("linear", rows=6, adapters=True),
        Case("linear", n_in=512, type=GGMLType.Q8_0, adapters=True),
    ]
    for type_ in (GGMLType.F32, GGMLType.BF16, GGMLType.Q4_0, GGMLType.Q8_0, GGMLType.Q4_K):
        found += [Case("experts", rows=rows, n_in=256, n_out=256, type=type_) for rows in (1, 3, MANY_ROWS)]
    found.append(Case("experts", rows=5, n_in=256, n_out=256, type=GGMLType.Q4_K, mixed=True))
    found += [Case("experts", rows=4, n_expert=n, n_used=used) for n, used in ((1, 1), (5, 5), (40, 8))]
    found += [
        Case("experts", rows=4, n_in=32, n_out=64, normalise=False),
        Case("experts", rows=4, activation="gelu"),
        Case("experts", rows=4, ties=True),
    ]
    found += [Case("rms_norm", n_in=n, adapters=a) for n in (1, 7, 64, 129) for a in (False, True)]
    found += [Case("layer_norm", n_in=n, bias=b) for n in (1, 7, 64, 129) for b in (False, True)]
    found += [Case("embedding", adapters=True)]
    found += [Case("rope", head_dim=d, pairs=p) for d in (2, 16, 18) for p in ("adjacent", "halves")]
    found += [Case("rope", head_dim=16, n_rot=6, pairs=p) for p in ("adjacent", "halves")]
    for kv_type in ("f32", "f16", "bf16", "q8_0"):
        found.append(
            Case("attention", rows=5, head_dim=32, kv_type=kv_type, past=300, soft_cap=1.5, slopes=True, sinks=True)
        )
        for heads, kv in ((4, 4), (4, 2), (8, 1)):
            found.append(Case("attention", rows=5, n_head=heads, n_head_kv=kv, head_dim=32, kv_type=kv_type, past=11))
    found += [Case("attention", rows=r, past=p) for r in (1, 20) for p in (0, 40, 300)]
    found += [Case("attention", rows=9, past=30, window=w) for w in (1, 8, 100)]
    for cap, slopes, sinks in ((0.7, False, False), (0.0, True, False), (0.0, False, True)):
        for rows, past in ((1, 0), (20, 290)):
            found.append(Case("attention", rows=rows, past=past, soft_cap=cap, slopes=slopes, sinks=sinks))
    found.append(Case("attention", rows=9, past=30, window=8, slopes=True, sinks=True))
    found += [Case("step_attention", rows=12), Case("select_rows"), Case("reshape")]
    found += [
        Case(op, n_in=n)
        for op in ("add", "mul", "scale", "silu", "gelu", "cross_entropy", "cross_entropy_grad", "soft_cap")
        for n in (1, 16, 47)
    ]
    found += [Case("activation", n_in=47, activation=a) for a in ACTIVATIONS]
    found += [Case(f"matmul{t}", n_in=13) for t in ("", "_a", "_b", "_ab")]
    return found


class Source(MemoryTensor):
    """A tensor for `Device.load`."""

    def __init__(self, name: str, type: GGMLType, values: npt.NDArray[np.float32]) -> None:
        known = type in quants.supported()
        raw = native.quantize(type, values) if known else random_blocks(type, values.size // type.block_size)
        super().__init__(name, type, tuple(values.shape), raw)

    def pieces(self, size: int = 1000) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Odd pieces, on purpose."""
        return super().pieces(size)


class Setup:
    """A case's graph, weights and inputs."""

    def __init__(self, case: Case) -> None:
        self.case, self.rng = case, np.random.default_rng(7)
        self.g = GraphBuilder(case.op)
        self.rows = Dim("rows", MAX_ROWS)
        self.weights: dict[str, Source] = {}
        self.inputs: dict[str, Any] = {}
        self.adapters: dict[int, dict[str, Adapter]] = {}
        self.kv: KVSpec | None = None
        self.magnitude = 1.0

    def floats(self, name: str, *sizes: int) -> Any:
        """A value of random floats, (rows, *sizes)."""
        self.inputs[name] = self.normal(MAX_ROWS, *sizes)
        return self.g.input(name, (self.rows, *sizes), DType.F32)

    def integers(self, name: str, values: Any, *sizes: int | Dim) -> Any:
        """An integer input, (rows,) or of the given sizes."""
        self.inputs[name] = np.asarray(values)
        return self.g.input(name, sizes or (self.rows,), DType.I32)

    def weight(self, name: str, type: GGMLType, shape: tuple[int, ...]) -> Tensor:
        """A random tensor."""
        self.weights[name] = Source(name, type, self.rng.normal(size=shape).astype(np.float32))
        return self.g.parameter(name, shape)

    def normal(self, *shape: int) -> npt.NDArray[np.float32]:
        """Random numbers."""
        return self.rng.normal(size=shape).astype(np.float32)

    def slots(self, name: str, shape: tuple[int, ...]) -> Any:
        """Adapter slots that differ by row: none, one, two; both adapters for the tensor `name`."""
        if not self.case.adapters:
            return None
        for slot, rank in ((1, 3), (2, 8)):
            a = self.normal(rank, shape[1]) if len(shape) == 2 else None
            b = self.normal(shape[0], rank) if len(shape) == 2 else self.normal(shape[0])
            self.adapters[slot] = {name: Adapter(A=a, B=b, scale=0.5 * slot)}
        return self.integers("slots", np.arange(MAX_ROWS) % 3)

    def build(self) -> Graph:
        """The graph of the case."""
        c = self.case
        makers = {
            "linear": self._linear,
            "experts": self._experts,
            "embedding": self._embedding,
            "rms_norm": self._rms_norm,
            "layer_norm": self._layer_norm,
            "rope": self._rope,
            "attention": self._attention,
            "step_attention": self._step_attention,
        }
        return self.g.build(out=makers.get(c.op, self._other)())

    def _linear(self) -> Any:
        c = self.case
        x, weight = self.floats("x", c.n_in), self.weight("w", c.type, (c.n_out, c.n_in))
        bias = self.weight("b", GGMLType.F32, (c.n_out,)) if c.bias else None
        self.magnitude = np.sqrt(c.n_in)
        return self.g.add(Op.LINEAR, "node", (x, self.slots("w", (c.n_out, c.n_in))), tensors=(weight, bias))

    def _experts(self) -> Any:
        c, n = self.case, self.case.n_expert
        inner, outer = (n, c.n_out, c.n_in), (n, c.n_in, c.n_out)
        other = GGMLType.Q8_0 if c.mixed else c.type
        kinds = (("gate", c.type, inner), ("up", other, inner), ("down", c.type, outer))
        weights = tuple(self.weight(*each) for each in kinds)
        scores = self.floats("scores", n)
        if c.ties:
            scores = self.g.add(Op.SCALE, "equal", (scores,), attrs=ScaleAttrs(0.0))
        attrs = ExpertsAttrs(c.n_used, c.normalise, c.activation)
        return self.g.add(Op.EXPERTS, "node", (self.floats("x", c.n_in), scores), tensors=weights, attrs=attrs)

    def _embedding(self) -> Any:
        c = self.case
        tokens = self.integers("tokens", np.arange(MAX_ROWS) * 5 % N_VOCAB)
        weight = self.weight("w", c.type, (N_VOCAB, c.n_in))
        return self.g.add(Op.EMBEDDING, "node", (tokens, self.slots("w", (N_VOCAB, c.n_in))), tensors=(weight,))

    def _rms_norm(self) -> Any:
        c = self.case
        weight = self.weight("w", GGMLType.F32, (c.n_in,))
        inputs = (self.floats("x", c.n_in), self.slots("w", (c.n_in,)))
        return self.g.add(Op.RMS_NORM, "node", inputs, tensors=(weight,), attrs=RMSNormAttrs(1e-5))

    def _layer_norm(self) -> Any:
        c = self.case
        names = ("w", "b") if c.bias else ("w",)
        tensors = tuple(self.weight(name, GGMLType.F32, (c.n_in,)) for name in names)
        x = self.floats("x", c.n_in)
        return self.g.add(Op.LAYER_NORM, "node", (x,), tensors=tensors, attrs=LayerNormAttrs(1e-5))

    def _rope(self) -> Any:
        c = self.case
        n_rot = c.n_rot or c.head_dim
        positions = self.integers("positions", np.arange(MAX_ROWS) * 1001)
        attrs = RopeAttrs(tuple(10000.0 ** -np.linspace(0, 1, n_rot // 2)), c.pairs, 1.25)
        return self.g.add(Op.ROPE, "node", (self.floats("x", c.n_head, c.head_dim), positions), attrs=attrs)

    def _attention(self) -> Any:
        c = self.case
        n_block = -(-(c.past + MAX_ROWS) // BLOCK)
        table = self.rng.permutation(n_block)
        layer = CacheLayer(c.n_head_kv, c.head_dim, c.head_dim)
        self.kv = KVSpec(layers=(layer,), n_block=n_block, block_size=BLOCK, type=c.kv_type)
        positions = c.past + np.arange(MAX_ROWS)
        paged = (
            self.integers("cells", table[positions // BLOCK] * BLOCK + positions % BLOCK),
            self.integers("block_tables", table[None], Dim("seqs", 1), n_block),
        )
        slopes = tuple(2.0 ** -(i + 1) for i in range(c.n_head)) if c.slopes else ()
        attrs = AttentionAttrs(c.head_dim**-0.5, 0, c.window, soft_cap=c.soft_cap, slopes=slopes)
        return self._attend(attrs, positions, np.zeros(MAX_ROWS), paged)

    def _step_attention(self) -> Any:
        c = self.case
        sequences = (np.arange(MAX_ROWS) >= c.rows // 2).astype(int)
        positions = np.concatenate([np.arange(c.rows // 2), np.arange(MAX_ROWS)])[:MAX_ROWS]
        return self._attend(AttentionAttrs(c.head_dim**-0.5), positions, sequences, ())

    def _attend(self, attrs: AttentionAttrs, positions: Any, sequences: Any, paged: tuple[Any, ...]) -> Any:
        c = self.case
        q, k, v = (self.floats(n, h, c.head_dim) for n, h in (("q", c.n_head), ("k", c.n_head_kv), ("v", c.n_head_kv)))
        where = (self.integers("positions", positions), self.integers("sequences", sequences))
        sinks = (self.weight("sinks", GGMLType.F32, (c.n_head,)),) if c.sinks else ()
        return self.g.add(Op.ATTENTION, "node", (q, k, v, *where, *paged), tensors=sinks, attrs=attrs)

    def _other(self) -> Any:
        c, x = self.case, self.floats("x", self.case.n_in)
        if c.op == "select_rows":
            chosen = self.integers("chosen", [2, 0], Dim("out_rows", 2))
            return self.g.add(Op.SELECT_ROWS, "node", (x, chosen))
        if c.op == "reshape":
            return self.g.add(Op.RESHAPE, "node", (x,), attrs=ReshapeAttrs((8, 8)))
        if c.op == "scale":
            return self.g.add(Op.SCALE, "node", (x,), attrs=ScaleAttrs(-0.3))
        if c.op == "soft_cap":
            return self.g.add(Op.SOFT_CAP, "node", (x,), attrs=SoftCapAttrs(1.3))
        if c.op == "activation":
            return self.g.add(Op.ACTIVATION, "node", (x,), attrs=ActivationAttrs(c.activation))
        if c.op.startswith("cross_entropy"):
            targets = self.integers("targets", np.arange(MAX_ROWS) % c.n_in)
            return self.g.add(Op(c.op), "node", (x, targets))
        if c.op.startswith("matmul"):
            return self._matmul(c.op.partition("_")[2])
        y = self.floats("y", c.n_in)
        if c.op in ("silu", "gelu"):
            return self.g.add(Op.GATED, "node", (x, y), attrs=GatedAttrs(c.op))
        return self.g.add(Op(c.op), "node", (x, y))

    def _matmul(self, transposed: str) -> Any:
        shapes = {"a": (5, 6), "b": (6, 5)}
        a, b = (self.g.read(self.g.state(n, shapes[n][:: -1 if n in transposed else 1])) for n in "ab")
        attrs = MatmulAttrs("a" in transposed, "b" in transposed)
        return self.g.add(Op.MATMUL, "node", (a, b), attrs=attrs)


def run(case: Case, device: Device) -> npt.NDArray[np.float32]:
    """The case's output on a device."""
    setup = Setup(case)
    graph = setup.build()
    uses = graph.uses()
    weights = {name: device.load(source, uses[name]) for name, source in setup.weights.items()}
    states = {}
    for name, tensor in graph.states.items():
        states[name] = device.state(tensor.shape, tensor.dtype)
        states[name].write(setup.rng.normal(size=states[name].shape).astype(np.float32))
    kv = device.kv_cache(setup.kv) if setup.kv is not None else None
    table = None
    if setup.adapters:
        table = device.adapter_table({name: setup.weights[name].shape for name in setup.adapters[1]}, 2)
        for slot, adapters in setup.adapters.items():
            table.set(slot, adapters)
    if kv is not None and case.past:
        _fill(kv, setup)
    program = device.compile(graph, weights, kv=kv, adapters=table, states=states)
    for name, values in setup.inputs.items():
        program.inputs[name][...] = values
    sizes = {"rows": case.rows, "out_rows": 2, "seqs": 1}
    return np.array(program.run(sizes, longest=case.past + case.rows)["out"].numpy())


def _fill(kv: Any, setup: Setup) -> None:
    """Put a past into the cache, through its canonical form."""
    spec, table = kv.spec, setup.inputs["block_tables"][0]
    positions = np.arange(setup.case.past)
    type_ = GGMLType[spec.type.upper()]
    rows = setup.rng.normal(size=(len(positions), sum(spec.layers[0].n_values))).astype(np.float32)
    data = native.quantize(type_, rows).reshape(1, len(positions), -1)
    kv.restore((table[positions // BLOCK] * BLOCK + positions % BLOCK).tolist(), data)


def check(case: Case, device: Device, reference: Device) -> None:
    """Compare with the reference; AssertionError names the worst cell."""
    expected, found = run(case, reference), run(case, device)
    setup = Setup(case)
    node = next(n for n in setup.build().nodes if n.name == "node")
    stored = GGMLType[setup.kv.type.upper()] if setup.kv is not None else None
    precision = device.precision(node, case.type if case.op in ("linear", "experts") else stored)
    if found.shape != expected.shape:
        raise AssertionError(f"{case}: shape {found.shape}, the reference has {expected.shape}")
    # Rounding errors add up like a random walk over the terms of a sum: sqrt(n) of them, at most 4 deviations.
    terms = max(case.n_in, case.past + case.rows, case.head_dim)
    scale = float(np.sqrt(np.mean(expected.astype(np.float64) ** 2))) + 1e-3
    tolerance = scale * (4 * precision.operand + 8 * np.sqrt(terms) * precision.accumulator + 1e-6)
    error = np.abs(found.astype(np.float64) - expected)
    worst = np.unravel_index(error.argmax(), error.shape)
    if not error[worst] <= tolerance:
        raise AssertionError(
            f"{case}: cell {tuple(map(int, worst))} is {found[worst]!r}, the reference has {expected[worst]!r};"
            f" the error {error[worst]:.3g} is above {tolerance:.3g}"
        )


def check_top(device: Device) -> None:
    """AssertionError unless `Buffer.top` and `Buffer.rows` of the device are what sorting the same values gives.

    Values with ties, edits of every kind in some rows, more asked for than there are, and a row that is not numbers.
    """
    n_row, n_vocab, rng = 5, 301, np.random.default_rng(3)
    g = GraphBuilder("top")
    x = g.input("x", (Dim("rows", 8), n_vocab), DType.F32)
    program = device.compile(g.build(out=g.add(Op.SCALE, "node", (x,), attrs=ScaleAttrs(1.0))), {})
    values = np.round(rng.normal(size=(n_row, n_vocab)) * 3).astype(np.float32)
    values[4, 7] = np.nan
    program.inputs["x"][:n_row] = values
    found = program.run({"rows": n_row})["out"]
    mask = rng.integers(0, 1 << 32, -(-n_vocab // 32), dtype=np.uint32)
    ids, repeats = np.array([4, 9, 4, 11], np.int32), np.array([1.5, 1, 1, 0.5], np.float32)
    edits = LogitEdits(ids, repeats, np.array([0.25, -np.inf, 2, 0], np.float32), 0.3, mask)
    if not np.array_equal(found.rows([2, 0]), values[[2, 0]]):
        raise AssertionError("rows are not those of the output")
    for k in (1, 40, n_vocab + 1):
        top = found.top([3, 0, 1], k, [None, edits, edits])
        for i, row in enumerate((values[3], _edited(values[0], edits), _edited(values[1], edits))):
            order = np.lexsort((np.arange(n_vocab), -row))[:k]
            if not (np.array_equal(top.ids[i], order) and np.array_equal(top.values[i], row[order])):
                raise AssertionError(f"the {k} likeliest of row {i} are others: {top.ids[i]}, expected {order}")
            total = float(np.log(np.exp(row, dtype=np.float64).sum()))
            if not abs(top.log_sum_exp[i] - total) < 1e-5 * max(1.0, abs(total)):
                raise AssertionError(f"the log-sum-exp of row {i} is {top.log_sum_exp[i]}, expected {total}")
    if not np.isnan(found.top([4], 3).log_sum_exp[0]):
        raise AssertionError("the log-sum-exp of a row with NaN must be NaN")


def _edited(row: npt.NDArray[np.float32], edits: LogitEdits) -> npt.NDArray[np.float32]:
    """A row after edits, in float32 as they are defined."""
    row = row.copy()
    for token, repeat, value in zip(edits.ids, edits.repeats, edits.values, strict=True):
        row[token] = (row[token] / repeat if row[token] > 0 else row[token] * repeat) + value
    row *= np.float32(edits.scale)
    assert edits.mask is not None
    row[np.unpackbits(edits.mask.view(np.uint8), bitorder="little")[: len(row)] == 0] = -np.inf
    return row
