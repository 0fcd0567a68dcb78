"""Optimizers step by step beside torch's: the same gradients, the same rates, forty steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from llamakit.plugins.backends.cpu import CPUBackend
from llamakit.plugins.backends.reference import ReferenceBackend, ReferenceOptions
from llamakit.plugins.optimizers.adam.adamw import AdamW, AdamWOptions
from llamakit.plugins.optimizers.adam.eight_bit import LEAST_OF_8BIT, AdamW8Bit
from llamakit.plugins.optimizers.adam.muon import A, B, C, Muon, MuonOptions
from llamakit.plugins.optimizers.sgd import SGD, SGDOptions

from llamakit.graph.graph import GraphBuilder
from llamakit.optimizer import CLIP, LR
from llamakit.passes.autodiff import GRADIENT
from llamakit.passes.pipeline import prepare
from llamakit.train.graphs import SCALARS, build_update

STEPS = 40
MATRIX, TALL, VECTOR, HEAD = "blk.0.attn_q.weight", "blk.0.ffn_up.weight", "blk.0.attn_norm.weight", "output.weight"
SHAPES = {MATRIX: (24, 40), TALL: (56, 24), VECTOR: (40,), HEAD: (30, 20)}


@pytest.fixture(params=["reference", "cpu"])
def device(request):
    return (
        ReferenceBackend(ReferenceOptions(float64=True)).open() if request.param == "reference" else CPUBackend().open()
    )


def rate(step: int) -> float:
    return 0.02 * (0.3 + math.cos(step / 20) ** 2)


def gradients(shapes) -> list[dict[str, np.ndarray]]:
    """A direction that stays, noise, sizes that change from step to step; one step has none at all."""
    rng = np.random.default_rng(4)
    steady = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    sizes = [0.0 if step == 7 else 10.0 ** rng.uniform(-2, 0.5) for step in range(STEPS)]
    return [
        {name: ((steady[name] + rng.normal(size=shape)) * size).astype(np.float32) for name, shape in shapes.items()}
        for size in sizes
    ]


def first_values(shapes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


class Updates:
    """The update graph of an optimizer on a device, its states, and no model."""

    def __init__(self, device, optimizer, shapes) -> None:
        self.optimizer = optimizer
        trained = {name: GraphBuilder("states").state(name, shape) for name, shape in shapes.items()}
        graph, self.names = build_update(trained, optimizer)
        graph = prepare(graph)
        self.states = {name: device.state(each.shape, each.dtype) for name, each in graph.states.items()}
        self.program = device.compile(graph, {}, states=self.states)
        for name, values in first_values(shapes).items():
            self.states[name].write(values)

    def step(self, number: int, found: dict[str, np.ndarray]) -> None:
        for name, values in found.items():
            self.states[name + GRADIENT].write(values)
        scalars = {LR: rate(number), CLIP: 1.0, **self.optimizer.scalars(number + 1)}
        self.program.inputs[SCALARS][:] = [scalars[name] for name in self.names]
        self.program.run({})

    def all(self, shapes) -> dict[str, np.ndarray]:
        for number, found in enumerate(gradients(shapes)):
            self.step(number, found)
        return {name: self.states[name].read().astype(np.float64) for name in shapes}


def of_torch(make, shapes) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch", reason="needs torch as an oracle")
    weights = {name: torch.tensor(values.astype(np.float64)) for name, values in first_values(shapes).items()}
    optimizers = make(torch, weights)
    for number, found in enumerate(gradients(shapes)):
        for name, weight in weights.items():
            weight.grad = torch.tensor(found[name].astype(np.float64))
        for each in optimizers:
            for group in each.param_groups:
                group["lr"] = rate(number)
            each.step()
    return {name: weight.numpy() for name, weight in weights.items()}


def error(found, expected, shapes) -> float:
    """Of how far the weights came, as a share of it."""
    first = first_values(shapes)
    moved = math.sqrt(sum(float(((expected[name] - first[name]) ** 2).sum()) for name in shapes))
    assert moved > 1
    return math.sqrt(sum(float(((found[name] - expected[name]) ** 2).sum()) for name in shapes)) / moved


@pytest.mark.parametrize("options", [
    {"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True}, {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.0, "weight_decay": 0.1}, {"momentum": 0.7, "nesterov": True, "weight_decay": 0.02},
], ids=str)  # fmt: skip
def test_sgd(device, options):
    found = Updates(device, SGD(SGDOptions(**options)), SHAPES).all(SHAPES)
    expected = of_torch(lambda torch, weights: [torch.optim.SGD(weights.values(), lr=1, **options)], SHAPES)
    assert error(found, expected, SHAPES) < 1e-6


@pytest.mark.parametrize("options", [
    {}, {"weight_decay": 0.1}, {"weight_decay": 1.0, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}, {"beta1": 0.0},
    {"weight_decay": 0.5, "decay_min_ndim": 0},
], ids=str)  # fmt: skip
def test_adamw(device, options):
    """Vectors do not decay, unless it is asked for."""
    o = AdamWOptions(**options)

    def make(torch, weights):
        known = {"lr": 1, "betas": (o.beta1, o.beta2), "eps": o.eps}
        decay = {name: o.weight_decay if len(SHAPES[name]) >= o.decay_min_ndim else 0.0 for name in SHAPES}
        return [torch.optim.AdamW([weight], weight_decay=decay[name], **known) for name, weight in weights.items()]

    found = Updates(device, AdamW(o), SHAPES).all(SHAPES)
    assert error(found, of_torch(make, SHAPES), SHAPES) < 1e-5


def by_formula(options: MuonOptions) -> dict[str, np.ndarray]:
    """Muon of hidden matrices in float64, as the paper writes it."""
    weights = {name: values.astype(np.float64) for name, values in first_values(SHAPES).items()}
    momenta = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for number, found in enumerate(gradients(SHAPES)):
        for name in (MATRIX, TALL):
            g = found[name].astype(np.float64)
            momenta[name] = options.momentum * momenta[name] + g
            x = g + options.momentum * momenta[name]
            x = x / (np.linalg.norm(x) + 1e-7)
            for _ in range(options.iterations):
                gram = x @ x.T
                x = A * x + (B * gram + C * gram @ gram) @ x
            step = 0.2 * math.sqrt(max(x.shape)) * x
            weights[name] = weights[name] * (1 - rate(number) * options.weight_decay) - rate(number) * step
    return {name: weights[name] for name in (MATRIX, TALL)}


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"momentum": 0.8, "iterations": 3}], ids=str)
def test_muon(device, options):
    """Matrices by the formula to rounding, and beside torch, which multiplies in bfloat16; the rest is AdamW's."""
    o, hidden = MuonOptions(**options), {name: SHAPES[name] for name in (MATRIX, TALL)}
    found = Updates(device, Muon(o), SHAPES).all(SHAPES)
    assert error({name: found[name] for name in hidden}, by_formula(o), hidden) < 1e-4

    def make(torch, weights):
        matrices = [weights[name] for name in hidden]
        known = {"momentum": o.momentum, "ns_steps": o.iterations, "adjust_lr_fn": "match_rms_adamw"}
        return [torch.optim.Muon(matrices, lr=1, weight_decay=o.weight_decay, **known)]

    torch_ = of_torch(make, SHAPES)
    beside = error({name: found[name] for name in hidden}, {name: torch_[name] for name in hidden}, hidden)
    print(f"beside torch: {beside:.2e}")
    assert beside < 0.01
    plain = {"weight_decay": o.weight_decay}
    rest = Updates(device, AdamW(AdamWOptions(**plain)), SHAPES).all(SHAPES)
    assert all(np.array_equal(found[name], rest[name]) for name in (VECTOR, HEAD))


EIGHT = {MATRIX: (64, 96), VECTOR: (40,)}


def test_moments_in_eight_bits_follow_those_in_float32(device):
    """Over forty steps the weights stay within 2.5 % of the way that they come; small tensors are the very same."""
    assert math.prod(EIGHT[MATRIX]) >= LEAST_OF_8BIT > math.prod(EIGHT[VECTOR])
    found, expected = (
        Updates(device, each(AdamWOptions(weight_decay=0.1)), EIGHT).all(EIGHT) for each in (AdamW8Bit, AdamW)
    )
    off = error(found, expected, EIGHT)
    print(f"eight bits: off by {off:.2%} of the way")
    assert 1e-5 < off < 0.025  # eight bits are felt, and not much
    assert found[VECTOR] == pytest.approx(expected[VECTOR], abs=1e-5)


def test_a_byte_is_off_by_half_a_step_of_its_256_values(device):
    """Roots are stored, in steps of the largest of 256 values by 127."""
    shapes = {MATRIX: (64, 96)}
    updates = Updates(device, AdamW8Bit(), shapes)
    g = gradients(shapes)[0]
    updates.step(0, g)
    g = g[MATRIX].astype(np.float64).ravel()
    m, v = 0.1 * g, 0.001 * g * g
    for name, exact in (("m_root", np.sign(m) * np.sqrt(np.abs(m))), ("v_root", v**0.25)):
        stored = updates.states[f"{MATRIX}.{name}"].read().astype(np.float64).ravel()
        steps = np.repeat(np.abs(exact).reshape(-1, 256).max(1) / 127, 256)
        off = np.abs(stored - exact) / steps
        assert off.max() <= 0.5 + 1e-3
        assert off.max() > 0.3


def test_what_eight_bits_lose_makes_no_step_longer_than_adam_s(device):
    """After one large gradient the squares of small ones are rounded to nothing, their means are not."""
    shapes = {MATRIX: (64, 96)}
    updates = Updates(device, AdamW8Bit(), shapes)
    before, longest = first_values(shapes)[MATRIX].astype(np.float64), 0.0
    for number in range(STEPS):
        g = np.full(shapes[MATRIX], 1e-3, np.float32)
        g[:, ::32] = 0.0 if number else 100.0
        updates.step(number, {MATRIX: g})
        after = updates.states[MATRIX].read().astype(np.float64)
        longest = max(longest, float(np.abs(after - before).max()) / rate(number))
        before = after
    bound = (1 - 0.9) / math.sqrt(1 - 0.999)  # Kingma and Ba 2014, section 2.1
    assert 0.9 * bound < longest < 1.001 * bound
