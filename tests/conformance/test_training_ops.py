"""The ops of training on the cpu backend, on every instruction set that this machine has, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from llamakit.errors import LlamaKitError
from llamakit.gguf import GGMLType, quants
from llamakit.registry import Registry
from llamakit.testing.gradients import check_equal, gradient_cases
from llamakit.testing.training import (
    Setup,
    check_served_loss,
    check_training,
    run_training,
    served_case,
    training_cases,
)

REGISTRY = Registry.discover()
CPU = REGISTRY.backend("cpu")


def isas() -> list[str]:
    probe = CPU.probe()
    return list(probe.devices[0].details) if probe.available else []


@pytest.fixture(scope="module")
def reference():
    return REGISTRY.backend("reference")().open()


@pytest.fixture(scope="module", params=isas())
def device(request):
    return CPU(CPU.Options(isa=request.param, threads=2)).open()


@pytest.mark.parametrize("case", training_cases(), ids=str)
def test_training_ops(case, device, reference):
    check_training(case, device, reference)


@pytest.mark.parametrize("type_", quants.readable(), ids=lambda type_: type_.name)
def test_the_loss_is_that_of_the_logits_which_are_served(type_, device):
    check_served_loss(device, type_)


def test_the_served_loss_is_the_same_however_it_is_made():
    made = [
        run_training(served_case(GGMLType.Q4_K, rows=70), CPU(CPU.Options(threads=n, no_repack=n == 2)).open())
        for n in (1, 2, 3)
    ]
    assert all(np.array_equal(made[0][name], other[name]) for other in made[1:] for name in made[0])


@pytest.mark.parametrize("case", gradient_cases(), ids=str)
def test_gradients(case, device, reference):
    check_equal(case, device, reference, 1e-3)


@pytest.mark.parametrize("case", training_cases(), ids=str)
def test_neither_threads_nor_packing_change_a_bit(case):
    devices = [CPU(CPU.Options(threads=n, no_repack=n == 2)).open() for n in (1, 2, 3)]
    first, *others = (run_training(case, device) for device in devices)
    for other in others:
        assert all(np.array_equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("name", "input_name", "value"),
    [("scatter_rows-into", "indices", 11), ("head_loss", "targets", 75), ("head_loss", "targets", -2),
     ("attention_back", "positions", 1)],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(name, input_name, value, device):
    case = next(c for c in training_cases() if c.name == name and c.rows == 7)
    setup = Setup()
    case.build(setup)
    results = {f"r{i}": out for i, out in enumerate(setup.g.nodes[-1].outputs)}
    graph = setup.g.build(**results)
    uses = graph.uses()
    weights = {key: device.load(source, uses[key]) for key, source in setup.weights.items()}
    states = {key: device.state(tensor.shape, tensor.dtype) for key, tensor in graph.states.items()}
    program = device.compile(graph, weights, states=states)
    for key, values in setup.inputs.items():
        program.inputs[key][...] = values
    program.inputs[input_name][3] = value
    with pytest.raises(LlamaKitError, match="node"):
        program.run(dict.fromkeys(graph.dims(), 7))
