"""Gradients of every op, checked against central differences: for the tests of a backend that trains.

Each case is a small graph over states. What is differentiated is the sum of its result times random numbers, so that no
error cancels. `check_differences` compares a device's gradients with differences of its own values, which needs
float64 (`reference` with its option `float64`); `check_equal` compares a device's gradients with another's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.gguf import GGMLType
from llamakit.graph.attrs import ACTIVATIONS
from llamakit.graph.graph import Dim, DType, GraphBuilder
from llamakit.graph.ops import (
    ActivationAttrs,
    AttentionAttrs,
    ExpertsAttrs,
    GatedAttrs,
    HeadLossAttrs,
    LayerNormAttrs,
    LinearAttrs,
    MatmulAttrs,
    Op,
    ReshapeAttrs,
    RMSNormAttrs,
    RopeAttrs,
    ScaleAttrs,
    SoftCapAttrs,
)
from llamakit.passes.autodiff import GRADIENT, differentiate
from llamakit.passes.lora import AdapterShape, add_adapters
from llamakit.passes.pipeline import prepare
from llamakit.testing.conformance import Source

if TYPE_CHECKING:
    import numpy.typing as npt

    from llamakit.backend import Device
    from llamakit.graph.graph import Graph, Tensor, Value

    Array = npt.NDArray[Any]

MAX_ROWS = 128
ROWS = Dim("rows", MAX_ROWS)
N_VOCAB = 11


class Setup:
    """A graph in the making, with its tensors and inputs. `n` is how many rows a run has."""

    def __init__(self, n: int) -> None:
        self.n, self.rng = n, np.random.default_rng(11)
        self.g = GraphBuilder("gradients")
        self.states: dict[str, Array] = {}
        self.weights: dict[str, Source] = {}
        self.inputs: dict[str, Array] = {}
        self.frozen: set[str] = set()

    def state(self, name: str, *shape: int) -> Tensor:
        """A trainable tensor."""
        self.states[name] = self.rng.normal(size=shape)
        return self.g.state(name, shape)

    def rows(self, name: str, *sizes: int) -> Value:
        """A value (rows, *sizes) whose gradient is looked at: rows of a trainable table, each once, out of order."""
        table = self.state(name, MAX_ROWS, int(np.prod(sizes)))
        order = self.integers("order", np.random.default_rng(5).permutation(MAX_ROWS))
        value = self.g.add(Op.EMBEDDING, f"{name}.rows", (order,), tensors=(table,))
        return (
            value if len(sizes) == 1 else self.g.add(Op.RESHAPE, f"{name}.sizes", (value,), attrs=ReshapeAttrs(sizes))
        )

    def weight(self, name: str, type: GGMLType, *shape: int) -> Tensor:
        """A tensor of a file."""
        self.weights[name] = Source(name, type, self.rng.normal(size=shape).astype(np.float32))
        return self.g.parameter(name, shape)

    def integers(self, name: str, values: Any, dim: Dim = ROWS) -> Value:
        """An input of int32, one a row."""
        if name not in self.inputs:
            self.inputs[name] = np.asarray(values)
            self.g.input(name, (dim,))
        return self.g.inputs[name]

    def positions(self, segments: int) -> tuple[Value, Value]:
        """Positions and sequences of rows in so many segments, the last of them going on to the end."""
        length = -(-self.n // segments)
        sequence = np.minimum(np.arange(MAX_ROWS) // length, segments - 1)
        position = np.arange(MAX_ROWS) - sequence * length + 3
        return self.integers("positions", position), self.integers("sequences", sequence)


@dataclass(frozen=True)
class GradientCase:
    """`build` makes the value that is differentiated; a head's loss is its own."""

    name: str
    build: Callable[[Setup], Value | None]
    rows: int = 7

    def __str__(self) -> str:
        return self.name

    def graph(self) -> tuple[Graph, Setup]:
        """The graph with gradients, its result `out`, and the numbers."""
        setup = Setup(self.rows)
        made = self.build(setup)
        seeds, seed, value = {}, None, made
        if made is not None:
            seed = setup.g.input("seed", made.shape, DType.F32)
            shape = tuple(int(size) for size in made.shape)
            setup.inputs["seed"] = setup.rng.normal(size=shape).astype(np.float32)
            seeds[made.id] = seed
        else:
            value = setup.g.nodes[-1].output
        assert value is not None
        graph = differentiate(setup.g.build(out=value), setup.states.keys() - setup.frozen, seeds)
        return prepare(graph), setup


@dataclass
class Run:
    """A case on a device."""

    case: GradientCase
    device: Device

    def __post_init__(self) -> None:
        """Load and compile."""
        graph, self.setup = self.case.graph()
        uses = graph.uses()
        weights = {name: self.device.load(source, uses[name]) for name, source in self.setup.weights.items()}
        self.states = {name: self.device.state(tensor.shape, tensor.dtype) for name, tensor in graph.states.items()}
        for name, value in self.setup.states.items():
            self.states[name].write(value)
        self.program = self.device.compile(graph, weights, states=self.states)
        for name, values in self.setup.inputs.items():
            self.program.inputs[name][...] = values
        self.trained = sorted(self.setup.states.keys() - self.setup.frozen)

    def loss(self) -> float:
        """What is differentiated, in float64."""
        sizes = {"rows": self.case.rows, "out_rows": 3}
        out = np.asarray(self.program.run(sizes)["out"].numpy(), np.float64)
        if "seed" not in self.setup.inputs:
            return float(np.sum(out * self.setup.inputs["weights"][: len(out)]))
        return float(np.sum(out * self.setup.inputs["seed"][tuple(slice(n) for n in out.shape)]))

    def gradients(self) -> dict[str, Array]:
        """By the graph, for each trained tensor."""
        for name in self.trained:
            self.states[name + GRADIENT].write(np.zeros(self.states[name].shape))
        self.loss()
        return {name: np.asarray(self.states[name + GRADIENT].read(), np.float64) for name in self.trained}

    def differences(self, name: str, indices: Array, step: float = 1e-3) -> Array:
        """Central differences of four points at flat `indices` of a tensor: the error is of order step^4."""
        state, value = self.states[name], np.asarray(self.states[name].read(), np.float64)
        found = []
        for index in indices:
            at = []
            for steps in (-2, -1, 1, 2):
                moved = value.copy().reshape(-1)
                moved[index] += steps * step
                state.write(moved.reshape(value.shape))
                at.append(self.loss())
            found.append((at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step))
        state.write(value)
        return np.array(found)


def check_differences(case: GradientCase, device: Device, tolerance: float = 1e-6, most: int = 24) -> None:
    """AssertionError names the tensor whose gradient differs from differences by more than `tolerance`, relatively."""
    run = Run(case, device)
    rng = np.random.default_rng(3)
    for name, gradient in run.gradients().items():
        flat = gradient.reshape(-1)
        touched = np.flatnonzero(flat)
        chosen = rng.choice(touched, min(most, len(touched)), replace=False) if len(touched) else np.arange(1)
        chosen = np.unique(np.append(chosen, rng.integers(0, flat.size, 4)))  # and some that should be zero
        expected = run.differences(name, chosen)
        _compare(case, name, flat[chosen], expected, tolerance)


def check_equal(case: GradientCase, device: Device, reference: Device, tolerance: float) -> None:
    """AssertionError names the tensor whose gradient differs from the reference's."""
    expected = Run(case, reference).gradients()
    for name, found in Run(case, device).gradients().items():
        _compare(case, name, found, expected[name], tolerance)


def _compare(case: GradientCase, name: str, found: Array, expected: Array, tolerance: float) -> None:
    error = float(np.linalg.norm(found - expected))
    scale = float(np.linalg.norm(expected))
    if not error <= tolerance * max(scale, 1e-3):  # a gradient may be zero, as those of the only key
        worst = int(np.abs(found - expected).argmax())
        raise AssertionError(
            f"{case}: the gradient of {name!r} is off by {error / max(scale, 1e-12):.3g}, more than {tolerance:g};"
            f" at {worst} it is {found.reshape(-1)[worst]!r}, expected {expected.reshape(-1)[worst]!r}"
        )


def _linear(type: GGMLType | None, bias: bool = False, n_in: int = 256, n_out: int = 35) -> Callable[[Setup], Value]:
    def build(s: Setup) -> Value:
        weight = s.state("w", n_out, n_in) if type is None else s.weight("w", type, n_out, n_in)
        tensors = (weight, s.state("b", n_out) if bias else None)
        return s.g.add(Op.LINEAR, "node", (s.rows("x", n_in),), tensors=tensors, attrs=LinearAttrs("f32"))

    return build


def _attention(n_head: int, n_head_kv: int, segments: int = 1, window: int | None = None) -> Callable[[Setup], Value]:
    def build(s: Setup) -> Value:
        q, k, v = (s.rows(name, n, 8) for name, n in (("q", n_head), ("k", n_head_kv), ("v", n_head_kv)))
        attrs = AttentionAttrs(8**-0.5, None, window, log_sum_exp=True)
        return s.g.add_all(Op.ATTENTION, "node", (q, k, v, *s.positions(segments)), attrs=attrs)[0]

    return build


def _activation(kind: str) -> Callable[[Setup], Value]:
    return lambda s: s.g.add(Op.ACTIVATION, "node", (s.rows("x", 9),), attrs=ActivationAttrs(kind))


def _rope(pairs: str) -> Callable[[Setup], Value]:
    attrs = RopeAttrs((1.0, 0.3, 0.02), pairs, 1.25)
    return lambda s: s.g.add(Op.ROPE, "node", (s.rows("x", 2, 8), s.positions(1)[0]), attrs=attrs)


def _matmul(transposed: str) -> Callable[[Setup], Value]:
    def build(s: Setup) -> Value:
        a, b = (s.g.read(s.state(n, *((5, 6) if (n == "a") != (n in transposed) else (6, 5)))) for n in "ab")
        return s.g.add(Op.MATMUL, "node", (a, b), attrs=MatmulAttrs("a" in transposed, "b" in transposed))

    return build


def _experts(normalise: bool, activation: str, n_used: int = 3) -> Callable[[Setup], Value]:
    def build(s: Setup) -> Value:
        x, scores = s.rows("x", 32), s.rows("scores", 6)
        sizes = (("gate", 48, 32), ("up", 48, 32), ("down", 16, 48))
        tensors = tuple(s.weight(name, GGMLType.F32, 6, *shape) for name, *shape in sizes)
        attrs = ExpertsAttrs(n_used, normalise, activation)
        return s.g.add(Op.EXPERTS, "node", (x, scores), tensors=tensors, attrs=attrs)

    return build


def _norm(s: Setup) -> Value:
    x, weight = s.rows("x", 3, 10), s.state("w", 10)
    return s.g.add(Op.RMS_NORM, "node", (x,), tensors=(weight,), attrs=RMSNormAttrs(1e-5))


def _layer_norm(s: Setup) -> Value:
    x, weight, bias = s.rows("x", 10), s.state("w", 10), s.state("b", 10)
    return s.g.add(Op.LAYER_NORM, "node", (x,), tensors=(weight, bias), attrs=LayerNormAttrs(1e-5))


def _layer_norm_of_heads(s: Setup) -> Value:
    x, weight = s.rows("x", 3, 10), s.state("w", 10)
    return s.g.add(Op.LAYER_NORM, "node", (x,), tensors=(weight,), attrs=LayerNormAttrs(1e-5))


def _head(s: Setup, type: GGMLType | None = None, low_rank: bool = False) -> None:
    targets = np.arange(MAX_ROWS) * 7 % (N_VOCAB + 1) - 1  # some are -1
    inputs = [s.rows("x", 32), s.integers("targets", targets), s.g.input("weights", (ROWS,), DType.F32)]
    s.inputs["weights"] = np.where(np.arange(MAX_ROWS) % 3 == 1, 0, s.rng.uniform(0.2, 2, MAX_ROWS)).astype(np.float32)
    weight = s.state("w", N_VOCAB, 32) if type is None else s.weight("w", type, N_VOCAB, 32)
    tensors = [weight]
    if low_rank:
        inputs.append(s.rows("h", 4))
        tensors.append(s.state("b", N_VOCAB, 4))
    s.g.add_all(
        Op.HEAD_LOSS, "node", tuple(inputs), tensors=tuple(tensors), attrs=HeadLossAttrs(4, "f32", gradients=True)
    )


def _adapted(s: Setup) -> Value:
    """An embedding and a linear, both with adapters."""
    tokens = s.integers("tokens", np.arange(MAX_ROWS) * 5 % N_VOCAB)
    x = s.g.add(Op.EMBEDDING, "e", (tokens,), tensors=(s.weight("e", GGMLType.F32, N_VOCAB, 32),))
    weight = s.weight("w", GGMLType.Q8_0, 12, 32)
    y = s.g.add(Op.LINEAR, "w", (x,), tensors=(weight,), attrs=LinearAttrs("f32"))
    graph = add_adapters(s.g.build(), {"e": AdapterShape(3, 0.5), "w": AdapterShape(2, 1.5)})
    s.g = GraphBuilder.of(graph)
    for name, tensor in graph.states.items():
        s.state(name, *tensor.shape)
    return y


def _adapted_norm(s: Setup) -> Value:
    x = s.rows("x", 12)
    y = s.g.add(Op.RMS_NORM, "n", (x,), tensors=(s.weight("n", GGMLType.F32, 12),), attrs=RMSNormAttrs(1e-5))
    graph = add_adapters(s.g.build(), {"n": AdapterShape(2, 0.7)})
    s.g = GraphBuilder.of(graph)
    s.inputs["zeros"] = np.zeros(MAX_ROWS, np.int32)
    for name, tensor in graph.states.items():
        if name != "x":
            s.state(name, *tensor.shape)
    s.states["n.ones"] = np.ones(12)
    s.frozen.add("n.ones")
    return y


def _two(op: Op, attrs: Any = None) -> Callable[[Setup], Value]:
    return lambda s: s.g.add(op, "node", (s.rows("a", 9), s.rows("b", 9)), attrs=attrs)


def _twice(s: Setup) -> Value:
    """A value that two ops use, and a sum of a value with itself."""
    x = s.rows("x", 9)
    y = s.g.add(Op.MUL, "squared", (x, x))
    return s.g.add(Op.ADD, "node", (y, s.g.add(Op.SCALE, "scaled", (x,), attrs=ScaleAttrs(-0.3))))


def _select(s: Setup) -> Value:
    chosen = s.integers("chosen", [4, 1, 4], Dim("out_rows", 3))
    return s.g.add(Op.SELECT_ROWS, "node", (s.rows("x", 6), chosen))


def gradient_cases() -> list[GradientCase]:
    """All of them."""
    types = (GGMLType.F32, GGMLType.F16, GGMLType.BF16, GGMLType.Q4_0, GGMLType.Q8_0, GGMLType.Q4_K, GGMLType.Q6_K)
    found = [GradientCase(f"linear-{type.name}", _linear(type)) for type in types]
    found += [GradientCase(f"linear-state-{n}", _linear(None, bias=True, n_in=31), rows=n) for n in (1, 7, 101)]
    for n_head, n_head_kv in ((4, 4), (4, 2), (4, 1), (8, 1)):
        found.append(GradientCase(f"attention-{n_head}-{n_head_kv}", _attention(n_head, n_head_kv), rows=9))
    found += [
        GradientCase("attention-window", _attention(4, 2, window=3), rows=11),
        GradientCase("attention-segments", _attention(4, 2, segments=3), rows=13),
        GradientCase("attention-long", _attention(2, 1, segments=2), rows=101),
        GradientCase("attention-one", _attention(2, 1), rows=1),
        GradientCase("experts", _experts(True, "silu")),
        GradientCase("experts-all", _experts(False, "silu")),
        GradientCase("experts-gelu", _experts(True, "gelu", n_used=1)),
        *(GradientCase(f"rope-{pairs}", _rope(pairs)) for pairs in ("adjacent", "halves")),
        *(GradientCase(f"matmul-{t}", _matmul(t)) for t in ("", "a", "b", "ab")),
        *(GradientCase(f"rms_norm-{n}", _norm, rows=n) for n in (1, 7, 101)),
        *(GradientCase(f"layer_norm-{n}", _layer_norm, rows=n) for n in (1, 7, 101)),
        GradientCase("layer_norm-heads", _layer_norm_of_heads, rows=7),
        GradientCase("soft_cap", lambda s: s.g.add(Op.SOFT_CAP, "node", (s.rows("x", 9),), attrs=SoftCapAttrs(1.3))),
        GradientCase("head", _head, rows=13),
        GradientCase("head-many", _head, rows=101),
        GradientCase("head-low-rank", lambda s: _head(s, low_rank=True), rows=13),
        GradientCase("head-quantised", lambda s: _head(s, GGMLType.Q8_0, low_rank=True), rows=13),
        GradientCase("adapters", _adapted, rows=9),
        GradientCase("adapted-norm", _adapted_norm, rows=9),
        GradientCase("add", _two(Op.ADD)),
        GradientCase("mul", _two(Op.MUL)),
        *(GradientCase(f"activation-{kind}", _activation(kind)) for kind in ACTIVATIONS),
        *(GradientCase(f"gated-{name}", _two(Op.GATED, GatedAttrs(name))) for name in ("silu", "gelu")),
        GradientCase("twice", _twice),
        GradientCase("select_rows", _select),
    ]
    return found
