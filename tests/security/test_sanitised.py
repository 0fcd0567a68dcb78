"""The native code under sanitizers: the pool of threads with every run, all modules with `make soak`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What calls native code: of the kernels the conformance kit and its training ops, of the rest their unit tests.
TESTS = (
    "conformance/test_backends.py", "conformance/test_training_ops.py", "golden/test_stories.py", "unit/gguf",
    "unit/tokenizer", "unit/grammar", "unit/samplers", "unit/chat", "unit/test_cpu_overflow.py",
    "unit/test_cpu_products.py", "unit/test_cpu_threads.py",
)  # fmt: skip
PYTEST = """
import sys
sys.meta_path[:] = [each for each in sys.meta_path if "ScikitBuild" not in type(each).__name__]  # the editable install
sys.path.insert(0, sys.argv.pop(1))
import pytest, llamakit
assert llamakit.__file__.startswith(sys.path[0]), llamakit.__file__
sys.exit(pytest.main(sys.argv[1:]))
"""


def compiled(tmp_path: Path, *flags: str) -> Path:
    """The check of the pool, compiled with a sanitizer."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler found")
    target = tmp_path / "pool_order"
    sources = [ROOT / "tests/cpp/pool_order.cpp", ROOT / "cpp/cpu/pool.cpp"]
    done = subprocess.run(
        [compiler, "-std=c++20", "-O1", "-g", "-pthread", *flags, f"-I{ROOT / 'cpp'}", *sources, "-o", target],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and "cannot find" in done.stderr:
        pytest.skip(f"the compiler has no such sanitizer: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
def test_the_pool_orders_what_its_threads_do(tmp_path):
    program = compiled(tmp_path, "-fsanitize=thread")
    done = subprocess.run([program, "20"], capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:  # more random addresses than this sanitizer knows
        done = subprocess.run(["setarch", "-R", program, "20"], capture_output=True, text=True, check=False)
    if "memory mapping" in done.stderr or "personality" in done.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert (done.returncode, done.stdout) == (0, "ordered\n"), done.stderr[-3000:]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_all_native_modules_under_sanitizers(tmp_path):
    """Built anew with AddressSanitizer and UBSan, installed into a folder of their own, under the tests that call them.

    One instruction set, and little optimised: four minutes of a processor to build, as many to run.
    """
    libraries = [
        subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(each).is_absolute() for each in libraries):
        pytest.skip("the compiler has no AddressSanitizer")
    install = [
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation",
        "--target", tmp_path / "root", "-C", "cmake.define.LLAMAKIT_SANITIZE=ON",
        "-C", "cmake.define.LLAMAKIT_ISAS=generic", "-C", f"build-dir={tmp_path / 'build'}", ROOT,
    ]  # fmt: skip
    subprocess.run(install, check=True, cwd=tmp_path)
    told = tmp_path / "told"  # else what they say is in the output that pytest keeps, and goes with the process
    environment = os.environ | {
        "LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": f"detect_leaks=0:halt_on_error=1:log_path={told}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:halt_on_error=1:log_path={told}", "PYTHONMALLOC": "malloc",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PYTEST, tmp_path / "root", "-q", "-x", "-p", "no:cacheprovider", "-n", "0",
         "-m", "not slow and not soak", "-o", "timeout=1200", "--rootdir", ROOT,
         *(ROOT / "tests" / each for each in TESTS)],
        env=environment, capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    reports = "".join(each.read_text() for each in tmp_path.glob("told*"))
    assert not reports, reports[:6000]
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
