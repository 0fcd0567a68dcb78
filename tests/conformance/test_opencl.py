"""The opencl backend against the reference, on whatever device there is: in CI, PoCL on the processor.

Every case runs with kernels as CPUs get them, one item a row; those of kernels that share rows run once more as GPUs
get them, with groups and barriers.
"""

from __future__ import annotations

import numpy as np
import pytest

from llamakit.gguf import GGMLType
from llamakit.registry import Registry
from llamakit.testing.conformance import Case, Setup, cases, check, check_top

pytest.importorskip("pyopencl", reason="needs pyopencl")
REGISTRY = Registry.discover()
OPENCL = REGISTRY.backend("opencl")
PROBE = OPENCL.probe()
pytestmark = pytest.mark.skipif(not PROBE.available, reason=PROBE.reason)
SHARED = ("linear", "experts", "rms_norm", "layer_norm", "attention")  # ops whose items work together
FEW_TYPES = (GGMLType.F32, GGMLType.Q4_0, GGMLType.Q4_K, GGMLType.Q8_0)


@pytest.fixture(scope="module")
def reference():
    return REGISTRY.backend("reference")().open()


@pytest.fixture(scope="module")
def device():
    return OPENCL().open()


@pytest.fixture(scope="module")
def grouped():
    return OPENCL(OPENCL.Options(lanes=32)).open()


@pytest.mark.parametrize("case", cases(), ids=str)
def test_conformance(case, device, reference):
    check(case, device, reference)


@pytest.mark.parametrize("case", [c for c in cases() if c.op in SHARED and c.type in FEW_TYPES], ids=str)
def test_items_that_share_a_row(case, grouped, reference):
    check(case, grouped, reference)


@pytest.mark.soak
@pytest.mark.parametrize("case", [c for c in cases() if c.op in SHARED and c.type not in FEW_TYPES], ids=str)
def test_items_that_share_a_row_of_other_types(case, grouped, reference):
    check(case, grouped, reference)


def test_the_likeliest_tokens_are_found(device):
    check_top(device)


def test_a_step_without_rows_does_nothing(device):
    setup = Setup(Case("attention"))
    program = device.compile(setup.build(), {}, kv=device.kv_cache(setup.kv))
    for longest in (0, 40):
        assert program.run({"rows": 0, "seqs": 0}, longest=longest)["out"].shape[0] == 0


def test_tensors_larger_than_a_block_of_memory_are_cut(device, reference, monkeypatch):
    """A tensor in many parts gives what one in one part gives."""
    from dataclasses import replace

    from llamakit.testing.conformance import run

    kinds = [
        Case("linear", rows=3, n_in=512, n_out=35, type=GGMLType.Q4_K),
        Case("linear", rows=101, n_in=512, n_out=19, type=GGMLType.Q4_K),
        Case("experts", rows=3, n_in=256, n_out=256, type=GGMLType.Q4_K),
        Case("embedding", n_in=512, type=GGMLType.Q4_K),
    ]
    whole = [run(case, device) for case in kinds]
    monkeypatch.setattr(device.driver, "traits", replace(device.driver.traits, most_bytes=4100))
    for case, expected in zip(kinds, whole, strict=True):
        assert np.array_equal(run(case, device), expected)
