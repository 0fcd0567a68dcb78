"""The conformance suite for ops of training: results and changed states of a device, against the reference.

from llamakit.testing.training import training_cases, check_training

@pytest.mark.parametrize("case", training_cases(), ids=str)
def test_my_backend(case):
    check_training(case, my_device, reference_device)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.gguf import GGMLType, quants
from llamakit.graph import expression
from llamakit.graph.attrs import ACTIVATIONS
from llamakit.graph.graph import Dim, DType, GraphBuilder
from llamakit.graph.ops import (
    ActivationAttrs,
    AttentionAttrs,
    ExpertsAttrs,
    GatedAttrs,
    HeadLossAttrs,
    LinearAttrs,
    MapAttrs,
    MatmulAttrs,
    Op,
    ReduceAttrs,
    RMSNormAttrs,
)
from llamakit.testing.conformance import Source

if TYPE_CHECKING:
    import numpy.typing as npt

    from llamakit.backend import Device
    from llamakit.graph.graph import Tensor, Value

    Array = npt.NDArray[Any]

MAX_ROWS = 256
ROWS = Dim("rows", MAX_ROWS)


class Setup:
    """A graph in the making, with its tensors and inputs."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(23)
        self.g = GraphBuilder("training")
        self.states: dict[str, Array] = {}
        self.weights: dict[str, Source] = {}
        self.inputs: dict[str, Array] = {}

    def normal(self, *shape: int) -> Array:
        """Random numbers."""
        return self.rng.normal(size=shape).astype(np.float32)

    def state(self, name: str, *shape: int, dtype: DType = DType.F32) -> Tensor:
        """A state of random numbers."""
        self.states[name] = self.normal(*shape)
        return self.g.state(name, shape, dtype)

    def weight(self, name: str, type: GGMLType, *shape: int) -> Tensor:
        """A tensor of a file."""
        self.weights[name] = Source(name, type, self.normal(*shape))
        return self.g.parameter(name, shape)

    def floats(self, name: str, *sizes: int) -> Value:
        """An input (rows, *sizes)."""
        self.inputs[name] = self.normal(MAX_ROWS, *sizes)
        return self.g.input(name, (ROWS, *sizes), DType.F32)

    def integers(self, name: str, values: Any) -> Value:
        """An input of int32, one a row."""
        self.inputs[name] = np.asarray(values)
        return self.g.input(name, (ROWS,))


@dataclass(frozen=True)
class TrainingCase:
    """`build` adds one node; `tolerance` is relative to the root mean square of what it makes.

    That of inputs is 1, so results that should vanish are compared with a part of it.
    """

    name: str
    build: Callable[[Setup], object]
    rows: int = 7
    tolerance: float = 1e-5

    def __str__(self) -> str:
        return f"{self.name}-rows={self.rows}"


def training_cases() -> list[TrainingCase]:
    """All of them."""
    found = [
        TrainingCase(name, build, rows, _tolerance(name)) for rows in (1, 7, 130) for name, build in _CASES.items()
    ]
    for type_ in quants.readable():
        for rows in (1, 70):
            found.append(TrainingCase(f"linear-f32-{type_.name}", partial(_linear, type=type_), rows))
            found.append(TrainingCase(f"linear_back-{type_.name}", partial(_linear_back, type=type_), rows))
    return found


def _tolerance(name: str) -> float:
    """Logits here are as large as 50, and a softmax makes of their errors relative ones."""
    return 1e-4 if name.startswith("head_loss") else 1e-5


def _linear(s: Setup, type: GGMLType | None, n_in: int = 512, bias: bool = True) -> None:
    weight = s.state("w", 35, n_in) if type is None else s.weight("w", type, 35, n_in)
    tensors = (weight, s.state("b", 35) if bias else None)
    s.g.add(Op.LINEAR, "node", (s.floats("x", n_in), None), tensors=tensors, attrs=LinearAttrs("f32"))


def _linear_back(s: Setup, type: GGMLType | None, n_in: int = 512) -> None:
    weight = s.state("w", 35, n_in) if type is None else s.weight("w", type, 35, n_in)
    s.g.add(Op.LINEAR_BACK, "node", (s.floats("dy", 35),), tensors=(weight,))


def _matmul(s: Setup, a: bool, b: bool) -> None:
    left = s.g.read(s.state("a", *((6, 5) if a else (5, 6))))
    right = s.g.read(s.state("b", *((70, 6) if b else (6, 70))))
    s.g.add(Op.MATMUL, "node", (left, right), attrs=MatmulAttrs(a, b))


def _outer(s: Setup, n_left: int, n_right: int) -> None:
    into = s.state("into", n_left, n_right)
    inputs = (s.floats("dy", n_left), s.floats("x", n_right))
    s.g.add_all(Op.MATMUL, "node", inputs, tensors=(into,), attrs=MatmulAttrs(transpose_a=True))


def _rms_norm_back(s: Setup, sizes: tuple[int, ...], grad: bool) -> None:
    tensors = (s.weight("w", GGMLType.F32, sizes[-1]), s.state("grad", sizes[-1]) if grad else None)
    inputs = (s.floats("x", *sizes), s.floats("dy", *sizes))
    s.g.add(Op.RMS_NORM_BACK, "node", inputs, tensors=tensors, attrs=RMSNormAttrs(1e-5))


def _attention(
    s: Setup, heads: tuple[int, int], dim: int, segments: int = 1, window: int | None = None, back: bool = False
) -> None:
    n_head, n_head_kv = heads
    q, k, v = s.floats("q", n_head, dim), s.floats("k", n_head_kv, dim), s.floats("v", n_head_kv, dim)
    sequence = np.arange(MAX_ROWS) % segments  # rows of several lie among each other
    where = (s.integers("positions", np.arange(MAX_ROWS) // segments + 3), s.integers("sequences", sequence))
    attrs = AttentionAttrs(dim**-0.5, None, window, log_sum_exp=True)
    out, log_sum_exp = s.g.add_all(Op.ATTENTION, "node", (q, k, v, *where, None, None), attrs=attrs)
    if back:
        inputs = (q, k, v, out, log_sum_exp, s.floats("d_out", n_head, dim), *where)
        s.g.add_all(Op.ATTENTION_BACK, "back", inputs, attrs=attrs)


def _gated_back(s: Setup, activation: str) -> None:
    inputs = (s.floats("gate", 37), s.floats("up", 37), s.floats("dy", 37))
    s.g.add_all(Op.GATED_BACK, "node", inputs, attrs=GatedAttrs(activation))


def _activation_back(s: Setup, kind: str) -> None:
    x, dy = s.floats("x", 37), s.floats("dy", 37)
    s.g.add(Op.MUL, "node", (dy, s.g.add(Op.ACTIVATION, "slope", (x,), attrs=ActivationAttrs(kind, slope=True))))


def experts_back(
    s: Setup,
    type: GGMLType,
    normalise: bool = True,
    activation: str = "silu",
    shape: tuple[int, int, int, int] = (5, 256, 256, 32),
) -> None:
    """Gradients of a mixture of experts of `shape` (n_expert, n_in, n_ff, n_out)."""
    n_expert, n_in, n_ff, n_out = shape
    sizes = (("gate", n_ff, n_in), ("up", n_ff, n_in), ("down", n_out, n_ff))
    tensors = tuple(s.weight(name, type, n_expert, *shape) for name, *shape in sizes)
    for name in ("gate", "up"):  # so that hidden values are about 1, and activations not on their flat parts
        s.weights[name] = Source(name, type, (s.normal(n_expert, n_ff, n_in) / 16).astype(np.float32))
    inputs = (s.floats("x", n_in), s.floats("scores", n_expert), s.floats("dy", n_out))
    s.g.add_all(Op.EXPERTS_BACK, "node", inputs, tensors=tensors, attrs=ExpertsAttrs(2, normalise, activation))


def _scatter_rows(s: Setup, into: bool) -> None:
    dy, indices = s.floats("dy", 19), s.integers("indices", np.arange(MAX_ROWS) * 5 % (11 if into else 1))
    like = None if into else s.floats("like", 19)
    tensors = (s.state("into", 11, 19) if into else None,)
    s.g.add_all(Op.SCATTER_ROWS, "node", (dy, indices, like), tensors=tensors)


def _head_loss(s: Setup, type: GGMLType | None, low_rank: bool, trained: bool, chunk: int = 32) -> None:
    n_vocab, n_embd, rank = 75, 256, 4
    weight = s.state("w", n_vocab, n_embd) if type is None else s.weight("w", type, n_vocab, n_embd)
    x, h = s.floats("x", n_embd), s.floats("h", rank) if low_rank else None
    targets = s.integers("targets", np.where(np.arange(MAX_ROWS) % 5 == 2, -1, np.arange(MAX_ROWS) * 7 % n_vocab))
    weights = s.floats("weights")
    s.inputs["weights"][::4] = 0
    b = s.state("b", n_vocab, rank) if low_rank else None
    grads = (s.state("dw", n_vocab, n_embd), s.state("db", n_vocab, rank) if low_rank else None)
    tensors = (weight, b, *(grads if trained else (None, None)))
    s.g.add_all(
        Op.HEAD_LOSS,
        "node",
        (x, targets, weights, h),
        tensors=tensors,
        attrs=HeadLossAttrs(chunk, "f32", gradients=True),
    )


def _map(s: Setup, dtype: DType) -> None:
    """A step of Adam, all other operations, and two states that change places."""
    shape = (3, 1000)
    w, m = s.state("w", *shape), s.state("m", *shape, dtype=dtype)
    v, g = s.state("v", *shape, dtype=dtype), s.state("g", *shape)
    s.states["v"] = s.states["v"] ** 2
    scalars = s.g.input("scalars", (3,), DType.F32)
    s.inputs["scalars"] = np.array([0.1, 0.25, -0.5], np.float32)
    old_w, old_m, old_v, old_g, other = (expression.state(i) for i in range(5))
    rate = expression.scalar(0) * 2 / (1 - expression.scalar(1))
    new_m, new_v = 0.9 * old_m + 0.1 * old_g, 0.99 * old_v + 0.01 * old_g * old_g
    kept = expression.maximum(expression.minimum(old_w, 1.5), expression.scalar(2))
    new_w = kept - rate * (new_m / (expression.sqrt(new_v) + 1e-3)) + expression.absolute(other) * 0.25
    attrs = MapAttrs(((0, new_w), (1, new_m), (2, new_v), (3, other), (4, expression.sign(old_g) + old_g)))
    s.g.add_all(Op.MAP, "node", (scalars,), tensors=(w, m, v, g, s.state("other", *shape)), attrs=attrs)


def _reduce(s: Setup, kind: str, dtype: DType) -> None:
    s.g.add(Op.REDUCE, "node", tensors=(s.state("x", 5, 4001, dtype=dtype),), attrs=ReduceAttrs(kind))


_CASES: dict[str, Callable[[Setup], object]] = {
    "linear-state": partial(_linear, type=None, n_in=70),
    "linear-state-no-bias": partial(_linear, type=None, n_in=600, bias=False),
    "linear_back-state": partial(_linear_back, type=None, n_in=70),
    **{f"matmul{'_a' * a}{'_b' * b}": partial(_matmul, a=a, b=b) for a in (False, True) for b in (False, True)},
    "outer": partial(_outer, n_left=70, n_right=100),
    "outer-few-left": partial(_outer, n_left=4, n_right=300),
    "outer-few-right": partial(_outer, n_left=300, n_right=4),
    "rms_norm_back": partial(_rms_norm_back, sizes=(129,), grad=True),
    "rms_norm_back-heads": partial(_rms_norm_back, sizes=(3, 16), grad=True),
    "rms_norm_back-frozen": partial(_rms_norm_back, sizes=(7,), grad=False),
    "attention": partial(_attention, heads=(4, 2), dim=32),
    "attention-segments": partial(_attention, heads=(6, 1), dim=24, segments=3),
    "attention-window": partial(_attention, heads=(4, 4), dim=16, window=9),
    "attention_back": partial(_attention, heads=(4, 2), dim=32, back=True),
    "attention_back-segments": partial(_attention, heads=(8, 1), dim=24, segments=3, back=True),
    "attention_back-window": partial(_attention, heads=(4, 4), dim=16, window=9, back=True),
    "silu_back": partial(_gated_back, activation="silu"),
    "gelu_back": partial(_gated_back, activation="gelu"),
    **{f"activation-{kind}": partial(_activation_back, kind=kind) for kind in ACTIVATIONS},
    "experts_back": partial(experts_back, type=GGMLType.F32),
    "experts_back-gelu": partial(experts_back, type=GGMLType.Q8_0, activation="gelu"),
    "experts_back-all": partial(experts_back, type=GGMLType.Q4_K, normalise=False),
    "scatter_rows": partial(_scatter_rows, into=False),
    "scatter_rows-into": partial(_scatter_rows, into=True),
    "sum_rows": lambda s: s.g.add_all(Op.SUM_ROWS, "node", (s.floats("x", 70),), tensors=(s.state("into", 70),)),
    "head_loss": partial(_head_loss, type=GGMLType.Q4_0, low_rank=False, trained=False),
    "head_loss-low-rank": partial(_head_loss, type=GGMLType.Q6_K, low_rank=True, trained=True),
    "head_loss-trained": partial(_head_loss, type=None, low_rank=False, trained=True, chunk=128),
    **{f"map-{dtype}": partial(_map, dtype=dtype) for dtype in (DType.F32, DType.BF16, DType.I8)},
    **{
        f"reduce-{kind}-{dtype}": partial(_reduce, kind=kind, dtype=dtype)
        for kind in ("sum", "sum_squares", "max_abs")
        for dtype in (DType.F32, DType.I8)
    },
}


def _served(s: Setup, type: GGMLType) -> None:
    """The loss of a head, and the logits that a linear makes of the same rows."""
    x, weight = s.floats("x", 256), s.weight("w", type, 75, 256)
    targets = s.integers("targets", np.arange(MAX_ROWS) * 7 % 75)
    s.inputs["weights"] = np.ones(MAX_ROWS, np.float32)
    inputs = (x, targets, s.g.input("weights", (ROWS,), DType.F32))
    s.g.add_all(Op.HEAD_LOSS, "loss", inputs, tensors=(weight,), attrs=HeadLossAttrs(32))
    s.g.add(Op.LINEAR, "logits", (x, None), tensors=(weight, None))


def served_case(type: GGMLType, rows: int) -> TrainingCase:
    """A head with native activations beside a linear with the same weight."""
    return TrainingCase(f"served-{type.name}", partial(_served, type=type), rows)


def check_served_loss(device: Device, type: GGMLType, rows: int = 70) -> None:
    """With native activations the loss is that of the logits which `linear` makes; AssertionError tells how far not."""
    found = run_training(served_case(type, rows), device)
    logits = found["logits.0"].astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    error = np.abs(found["loss.0"] + log_p[np.arange(rows), np.arange(rows) * 7 % 75]).max()
    if not error <= 1e-6 * np.abs(logits).max():
        raise AssertionError(f"{type.name}: the loss is {error:.3g} from that of the served logits")


def run_training(case: TrainingCase, device: Device) -> dict[str, Array]:
    """What the case's nodes make, and the states after it, by name."""
    setup = Setup()
    case.build(setup)
    results = {f"{node.name}.{i}": value for node in setup.g.nodes for i, value in enumerate(node.outputs)}
    graph = setup.g.build(**results)
    uses = graph.uses()
    weights = {name: device.load(source, uses[name]) for name, source in setup.weights.items()}
    states = {name: device.state(tensor.shape, tensor.dtype) for name, tensor in graph.states.items()}
    for name, state in states.items():
        state.write(setup.states[name])
    program = device.compile(graph, weights, states=states)
    for name, values in setup.inputs.items():
        program.inputs[name][...] = values
    made = program.run(dict.fromkeys(graph.dims(), case.rows))
    found = {name: np.array(buffer.numpy()) for name, buffer in made.items()}
    return found | {name: np.array(state.read()) for name, state in states.items()}


def check_training(case: TrainingCase, device: Device, reference: Device) -> None:
    """AssertionError names the worst cell."""
    expected, found = run_training(case, reference), run_training(case, device)
    for name, right in expected.items():
        error = np.abs(np.float64(found[name]) - right)
        bound = case.tolerance * (float(np.sqrt(np.mean(np.square(right, dtype=np.float64)))) + 0.3)
        if name in ("m", "v") and case.name == f"map-{DType.I8}":
            bound += float(np.abs(right).max()) / 127  # one code more or less where a value lies between two
        if name in ("m", "v") and case.name == f"map-{DType.BF16}":
            bound += float(np.abs(right).max()) / 128
        worst = np.unravel_index(int(error.argmax()), error.shape) if error.size else None
        if worst is not None and not error[worst] <= bound:
            raise AssertionError(
                f"{case}: {name} at {tuple(map(int, worst))} is {found[name][worst]!r}, the reference has"
                f" {right[worst]!r}; the error {error[worst]:.3g} is above {bound:.3g}"
            )
