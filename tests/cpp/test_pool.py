"""The pool of threads: what a thread throws reaches the caller, and nobody waits for one that has not begun."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("check", ["pool_check", "pool_late"])
def test_pool(check, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources, program = [ROOT / f"tests/cpp/{check}.cpp", ROOT / "cpp/cpu/pool.cpp"], tmp_path / check
    subprocess.run(
        [compiler, "-std=c++20", "-O0", "-pthread", f"-I{ROOT / 'cpp'}", *sources, "-o", program], check=True
    )
    run = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
