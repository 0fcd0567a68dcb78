"""The opencl backend against the reference, on whatever device there is: in CI, PoCL on the processor.

Kernels are as CPUs get them, an item a row; those whose items work together run once more as GPUs get them, with
groups and barriers. Compiling takes most of the time: what another case covers but for types and shapes is a soak.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llamakit.gguf import GGMLType
from llamakit.gpu import packed
from llamakit.gpu.device import GPUDevice
from llamakit.gpu.packings import PACKINGS
from llamakit.registry import Registry
from llamakit.testing.conformance import Case, Setup, Source, cases, check, check_top, run
from llamakit.testing.gradients import check_equal, gradient_cases
from llamakit.testing.training import check_served_loss, check_training, training_cases

pytest.importorskip("pyopencl", reason="needs pyopencl")
REGISTRY = Registry.discover()
OPENCL = REGISTRY.backend("opencl")
PROBE = OPENCL.probe()
pytestmark = pytest.mark.skipif(not PROBE.available, reason=PROBE.reason)
SHARED = ("linear", "experts", "rms_norm", "layer_norm", "attention", "step_attention")  # whose items work together
MULTIPLIED = (GGMLType.F16, GGMLType.Q4_0, GGMLType.Q6_K, GGMLType.Q8_0, GGMLType.IQ2_XS)
TWO = (GGMLType.F32, GGMLType.Q4_K)


def split(found, usual):
    """The cases; those that are not for every day marked as soaks."""
    return [pytest.param(case, id=str(case), marks=[] if usual(case) else [pytest.mark.soak]) for case in found]


def usual(case: Case) -> bool:
    """Every kernel, and every type's unpacking (embedding), which all that read weights share."""
    if case.op == "linear":
        return case.type in TWO or (case.rows == 2 and case.type in MULTIPLIED)
    if case.op == "experts":
        return case.type in TWO
    return case.op != "attention" or case.kv_type == "f32" or case.sinks


def usual_in_groups(case: Case) -> bool:
    """One or two of each kernel."""
    if case.op == "linear":
        return case.type is GGMLType.F32 and (case.rows, case.n_out) in ((1, 48), (3, 48), (9, 33), (6, 48))
    return case.n_in in (7, 129) or case.op == "step_attention" or (case.kv_type == "f16" and case.sinks)


def usual_in_panels(case: Case) -> bool:
    """Rows of all types, and products of some."""
    if case.op == "linear":
        return (case.rows == 2 and case.type in MULTIPLIED) or case.n_in < 512
    return case.op == "embedding" or (case.type is GGMLType.Q4_K and case.rows != 1)


def usual_in_panels_of_groups(case: Case) -> bool:
    """Products of few types, with tiles of all sizes; experts whose pairs run each for itself, and sorted."""
    if case.op == "experts":
        return case.type is GGMLType.Q4_0 and case.rows != 1
    if case.type in (GGMLType.Q4_K, GGMLType.Q4_0):
        return case.op == "linear" and case.rows in (1, 5, 9, 20)
    return case.op == "linear" and ((case.rows == 2 and case.type is GGMLType.Q6_K) or case.n_in < 512)


def usual_from_panels(case) -> bool:
    """Linears of two types, experts and heads."""
    return case.name.endswith(("-Q4_K", "-BF16")) or (case.rows == 7 and "linear" not in case.name)


def usual_in_training(case) -> bool:
    """Seven rows; attention of one shape of heads, linears of the types that the other tests multiply."""
    if "linear" in case.name:
        return case.rows == 7 or (case.rows == 70 and case.name.endswith(("-Q4_K", "-F32")))
    return case.rows == 7 and not case.name.endswith(("segments", "window"))


@pytest.fixture(scope="module")
def reference():
    return REGISTRY.backend("reference")().open()


@pytest.fixture(scope="module")
def device():
    return OPENCL().open()


@pytest.fixture(scope="module")
def grouped():
    return OPENCL(OPENCL.Options(lanes=32)).open()


def packing(lanes: int) -> GPUDevice:
    """A device that packs weights as GPUs do."""
    driver = OPENCL(OPENCL.Options(lanes=lanes)).open().driver
    driver.traits = replace(driver.traits, packed=True)
    return GPUDevice(driver)


@pytest.fixture(scope="module")
def in_panels():
    return packing(1)


@pytest.fixture(scope="module")
def panels_of_groups():
    return packing(64)


@pytest.mark.parametrize("case", split(cases(), usual))
def test_conformance(case, device, reference):
    check(case, device, reference)


@pytest.mark.parametrize("case", split([c for c in cases() if c.op in SHARED], usual_in_groups))
def test_items_that_share_a_row(case, grouped, reference):
    check(case, grouped, reference)


@pytest.mark.parametrize("case", split([c for c in cases() if c.type in PACKINGS], usual_in_panels))
def test_weights_in_panels(case, in_panels, reference):
    check(case, in_panels, reference)


@pytest.mark.parametrize("case", split([c for c in cases() if c.type in PACKINGS], usual_in_panels_of_groups))
def test_weights_in_panels_of_groups(case, panels_of_groups, reference):
    check(case, panels_of_groups, reference)


@pytest.mark.parametrize("type_", PACKINGS, ids=lambda type_: type_.name)
def test_panels_made_on_the_device_are_those_of_numpy(type_, in_panels):
    shape = (3, 11, 512 if type_.block_size > 32 else 288)
    source = Source("w", type_, np.random.default_rng(3).normal(size=shape).astype(np.float32))
    weight = in_panels.load(source, frozenset())
    made = np.empty(weight.n_bytes, np.uint8)
    in_panels.driver.read(weight.place, made)
    assert np.array_equal(made, packed.pack(type_, source.whole(), shape))


@pytest.mark.parametrize("case", split(training_cases(), usual_in_training))
def test_training_ops(case, device, reference):
    check_training(case, device, reference)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=pytest.mark.soak)
        for case in training_cases()
        if "linear" not in case.name
    ],
)
def test_training_ops_of_items_that_share_a_row(case, grouped, reference):
    check_training(case, grouped, reference)


@pytest.mark.parametrize("case", split(gradient_cases(), lambda case: case.rows < 100))
def test_gradients(case, device, reference):
    check_equal(case, device, reference, 1e-3)


READING = ("linear-f32-", "linear_back-", "experts_back", "head_loss")  # training ops that read weights of files


@pytest.mark.parametrize("case", split([c for c in training_cases() if c.name.startswith(READING)], usual_from_panels))
def test_training_ops_from_panels(case, panels_of_groups, reference):
    check_training(case, panels_of_groups, reference)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=str(c), marks=pytest.mark.soak) for c in training_cases() if c.name.startswith(READING)]
)
def test_training_ops_from_panels_of_items(case, in_panels, reference):
    check_training(case, in_panels, reference)


WEIGHING = ("linear-", "experts", "head", "adapt")  # those whose gradients read weights


@pytest.mark.parametrize("case", [c for c in gradient_cases() if c.name.startswith(WEIGHING)], ids=str)
def test_gradients_from_panels(case, panels_of_groups, reference):
    check_equal(case, panels_of_groups, reference, 1e-3)


@pytest.mark.parametrize("type_", TWO, ids=lambda type_: type_.name)
def test_the_loss_is_that_of_the_logits_which_are_served(type_, device):
    check_served_loss(device, type_)


def test_the_likeliest_tokens_are_found(device):
    check_top(device)


def test_a_step_without_rows_does_nothing(device):
    setup = Setup(Case("attention"))
    program = device.compile(setup.build(), {}, kv=device.kv_cache(setup.kv))
    for longest in (0, 40):
        assert program.run({"rows": 0, "seqs": 0}, longest=longest)["out"].shape[0] == 0


def test_tensors_larger_than_a_block_of_memory_are_cut(device, panels_of_groups, monkeypatch):
    """A tensor in many parts gives what one in one part gives."""
    kinds = [
        Case("linear", rows=3, n_in=512, n_out=35, type=GGMLType.Q4_K),
        Case("linear", rows=101, n_in=512, n_out=19, type=GGMLType.Q4_K),
        Case("experts", rows=3, n_in=256, n_out=256, type=GGMLType.Q4_K),
        Case("embedding", n_in=512, type=GGMLType.Q4_K),
    ]
    for each in (device, panels_of_groups):
        whole = [run(case, each) for case in kinds]
        monkeypatch.setattr(each.driver, "traits", replace(each.driver.traits, most_bytes=8192))
        for case, expected in zip(kinds, whole, strict=True):
            assert np.array_equal(run(case, each), expected)
