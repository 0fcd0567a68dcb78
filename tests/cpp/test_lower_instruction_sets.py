"""The kernels on other processors: under emulation, with the interpreter or alone, and the symbols that could leak."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llamakit import system

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="emulates x86-64 processors"),
]
ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, sys
sys.path[:0] = json.loads(os.environ["LK_PATH"])
import site
for folder in list(sys.path):
    if folder.endswith("site-packages"):
        site.addsitedir(folder)
from llamakit.registry import Registry
from llamakit.testing.conformance import Case, check
from llamakit.gguf import GGMLType
registry = Registry.discover()
cls = registry.backend("cpu")
device, reference = cls(cls.Options(threads=1, isa=os.environ["LK_ISA"])).open(), registry.backend("reference")().open()
print(device.isa)
for type_ in (GGMLType.F32, GGMLType.F16, GGMLType.BF16, GGMLType.Q4_0, GGMLType.Q8_0, GGMLType.Q4_K, GGMLType.Q6_K):
    check(Case("linear", rows=5, n_in=256, n_out=20, type=type_), device, reference)
for kv_type in ("f16", "q8_0"):
    check(Case("attention", rows=3, past=9, head_dim=32, kv_type=kv_type), device, reference)
for op in ("rms_norm", "rope", "silu", "cross_entropy"):
    check(Case(op), device, reference)
print("passed")
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("cpu", "isa"), [("Haswell", "generic"), ("Haswell", "avx2")])
def test_kernels_under_emulation(cpu, isa):
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("qemu-x86_64 is not installed")
    python = Path(sys.executable).resolve()
    path = [sysconfig.get_path("purelib")]
    env = os.environ | {"LK_PATH": json.dumps(path), "OPENBLAS_NUM_THREADS": "1", "LK_ISA": isa}
    run = subprocess.run(
        [qemu, "-cpu", cpu, python, "-c", SCRIPT], capture_output=True, text=True, env=env, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == [isa, "passed"]


def test_an_old_processor_gets_the_generic_kernels():
    """Numpy itself need not run there, so only the native module is asked."""
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("qemu-x86_64 is not installed")
    spec = importlib.util.find_spec("llamakit.plugins.backends.cpu._cpu")
    assert spec is not None
    script = "import importlib.util as u, sys; s = u.spec_from_file_location('_cpu', sys.argv[1])\n"
    script += "m = u.module_from_spec(s); s.loader.exec_module(m); print(m.supported_isas())"
    command = [qemu, "-cpu", "Nehalem", Path(sys.executable).resolve(), "-c", script, str(spec.origin)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "['generic']", run.stderr


def test_kernel_objects_export_one_symbol():
    """Anything weak in an AVX-512 object could become everybody's copy."""
    objects = sorted((ROOT / "build").rglob("lk_kernels_*.dir/kernels.cpp.o"))
    if not objects or shutil.which("nm") is None:
        pytest.skip("no objects of a build here, or no nm")
    for path in objects:
        lines = subprocess.check_output(["nm", "-C", "--defined-only", path], text=True).splitlines()
        kinds = [line.split()[1] for line in lines if len(line.split()) > 2]
        assert not {"W", "V", "u"} & set(kinds), path
        assert kinds.count("T") == 1, path


def check_kernels(name: str, *options: str, emulator: Sequence[str] = (), isas: Sequence[str]) -> None:
    """Build `kernels_check` with CMake and run it; quickly built, since only what it computes matters.

    One job at a time: other tests run beside this one.
    """
    tools = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    cmake = shutil.which("cmake", path=tools["PATH"])
    if cmake is None or shutil.which("ninja", path=tools["PATH"]) is None:
        pytest.skip("cmake or ninja is not installed")
    build = ROOT / "build" / name
    configure = [cmake, "-S", ROOT, "-B", build, "-G", "Ninja", "-DLLAMAKIT_PYTHON=OFF", "-DLLAMAKIT_KERNEL_FLAGS=-O1"]
    for command in ([*configure, *options], [cmake, "--build", build, "-j", "1", "--target", "kernels_check"]):
        made = subprocess.run(command, capture_output=True, text=True, env=tools, check=False)
        assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    program = build / "cpp" / "cpu" / "kernels_check"
    run = subprocess.run([*emulator, program, *isas], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert int(run.stdout.split()[-3]) > 300 * len(isas)


@pytest.mark.timeout(600)
def test_arm_kernels_under_emulation():
    compiler, qemu = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or qemu is None:
        pytest.skip("aarch64-linux-gnu-g++ or qemu-aarch64 is not installed")
    options = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}")
    emulator = (qemu, "-cpu", "max", "-L", "/usr/aarch64-linux-gnu")
    check_kernels("check-aarch64", *options, emulator=emulator, isas=("generic", "dotprod", "i8mm"))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_avx_vnni_kernels_with_an_emulated_instruction():
    if "AVX2" not in system.cpu_flags():
        pytest.skip("this processor has no AVX2")
    flags = f"-march=x86-64-v3 -include {ROOT}/tests/cpp/emulated_avx_vnni.h"
    options = ("-DLLAMAKIT_ISAS=avxvnni;avx2;generic", f"-DLLAMAKIT_AVXVNNI_FLAGS={flags}")
    check_kernels("check-avxvnni", *options, isas=("generic", "avx2", "avxvnni"))
