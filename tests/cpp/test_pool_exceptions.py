"""What a thread of the pool throws reaches the caller; it never ends the process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_exceptions_of_threads_reach_the_caller(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources = [ROOT / "tests/cpp/pool_check.cpp", ROOT / "cpp/cpu/pool.cpp"]
    program = tmp_path / "pool_check"
    subprocess.run(
        [compiler, "-std=c++20", "-O0", "-pthread", f"-I{ROOT / 'cpp'}", *sources, "-o", program], check=True
    )
    run = subprocess.run([program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
