"""Kernels under Oclgrind, a simulator that sees races between items and memory that is not theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

OCLGRIND = shutil.which("oclgrind")
pytestmark = pytest.mark.skipif(OCLGRIND is None, reason="needs oclgrind (of Debian's package)")
pytest.importorskip("pyopencl", reason="needs pyopencl")

CONFORMANCE = """
import sys
from dataclasses import replace
from llamakit.gguf import GGMLType
from llamakit.gpu.device import GPUDevice
from llamakit.gpu.driver import Feature
from llamakit.registry import Registry
from llamakit.testing.conformance import cases, check, check_top
from llamakit.testing.training import check_training, training_cases

lanes, every, form = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
backend, reference = Registry.discover().backend("opencl"), Registry.discover().backend("reference")().open()
driver = backend(backend.Options(lanes=lanes)).open().driver
driver.traits = replace(driver.traits, packed=form == "packed")
if every > 1:
    driver.tried.add(Feature.GROUPS)  # what a device is tried with before its first use takes a minute here
device = GPUDevice(driver)
assert device.info.name == "Oclgrind Simulator", device.info.name
slow = lambda case: case.op == "experts" and case.n_in > 64
strange = lambda case: form == "packed" and case.mixed  # its Q8_0 is repacked by llvm.bitreverse, which Oclgrind lacks
found = [case for case in cases() if case.rows <= 6 and case.past <= 50 and case.type in (GGMLType.F32, GGMLType.Q4_K)]
found = [case for case in found if not strange(case)]
for case in [case for case in found if not slow(case) or every == 1][::every]:
    check(case, device, reference)
trained = [case for case in training_cases() if case.rows == 7 and "linear" not in case.name]
for case in trained[:: 27 if form == "packed" else 1]:  # others have Q8_0
    check_training(case, device, reference)
for case in [case for case in training_cases() if case.name == "linear_back-Q4_K"]:
    check_training(case, device, reference)
for case in trained:
    if "head_loss" in case.name or ("cross_entropy" in case.name and every == 1):
        check_training(case, device, reference)
check_top(device)
print("done")
"""
KERNEL = """
import sys
import numpy as np
from llamakit.gpu.driver import At
from llamakit.registry import Registry

driver = Registry.discover().backend("opencl")().open().driver
place = At(driver.allocate(32))
driver.write(place, np.zeros(8, np.int32))
driver.launch(driver.kernel(driver.build(sys.argv[1]), "try_it"), 1, 8, [place])
driver.finish()
"""


def under_oclgrind(tmp_path, code: str, *arguments: str) -> tuple[str, str]:
    """What it reports of a program, and what the program says."""
    log = tmp_path / "oclgrind.log"
    made = subprocess.run(
        [str(OCLGRIND), "--data-races", "--max-errors", "5", "--log", str(log), sys.executable, "-c", code, *arguments],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    return log.read_text() if log.exists() else "", made.stdout


@pytest.mark.parametrize(
    ("lanes", "every", "form"),
    [
        (8, 29, "packed"),
        pytest.param(8, 1, "raw", marks=pytest.mark.soak),
        pytest.param(1, 1, "raw", marks=pytest.mark.soak),
        pytest.param(8, 1, "packed", marks=pytest.mark.soak),
    ],
)
def test_no_races_and_no_memory_of_others(tmp_path, lanes, every, form):
    reported, said = under_oclgrind(tmp_path, CONFORMANCE, str(lanes), str(every), form)
    assert reported == ""
    assert "done" in said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("y[(get_local_id(0) + 1) % 8] = 1; y[get_local_id(0)] = 2;", "data race"),
        ("y[get_local_id(0) + 8] = 1;", "Invalid write"),
        ("int before = y[0]; barrier(CLK_LOCAL_MEM_FENCE); y[get_local_id(0)] = before;", "data race"),
    ],
)
def test_what_is_wrong_is_reported(tmp_path, body, said):
    kernel = f"__kernel void try_it(__global int *y, const long at) {{ {body} }}"
    reported, _ = under_oclgrind(tmp_path, KERNEL, kernel)
    assert said in reported
