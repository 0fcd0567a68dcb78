"""The conformance cases of `linear` and `rms_norm` on an OpenCL device."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from llamakit.registry import Registry
from llamakit.testing.conformance import Setup, cases, check

cl = pytest.importorskip("pyopencl", reason="needs pyopencl")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SPEC = importlib.util.spec_from_file_location("opencl_backend", Path(__file__).with_name("opencl_backend.py"))
assert SPEC is not None
assert SPEC.loader is not None
opencl_backend = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(opencl_backend)


@pytest.fixture(scope="module")
def devices():
    device = opencl_backend.first_device()
    if device is None:
        pytest.skip("no OpenCL device: install a driver such as pocl-opencl-icd")
    return opencl_backend.OpenCLDevice(device), Registry.discover().backend("reference")().open()


def test_linear_and_rms_norm_conform(devices):
    device, reference = devices
    chosen = [c for c in cases() if c.op in ("linear", "rms_norm", "embedding") and not c.adapters]
    supported = [c for c in chosen if all(device.supports(n) for n in Setup(c).build().nodes)]
    assert len(supported) > 60
    for case in supported:
        check(case, device, reference)


def test_what_it_cannot_do_it_says(devices):
    graph = Setup(next(c for c in cases() if c.op == "attention")).build()
    assert not all(devices[0].supports(node) for node in graph.nodes)
