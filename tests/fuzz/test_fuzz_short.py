"""A short run of the GGUF fuzzer; `make fuzz` is the long one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_mutated_files_are_parsed_or_refused():
    script = Path(__file__).with_name("run.py")
    run = subprocess.run([sys.executable, script, "--count", "3000"], capture_output=True, text=True, check=False)
    if "cannot find -lasan" in run.stderr or "libclang_rt" in run.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert run.returncode == 0, run.stderr[-3000:]
    assert "3000 files" in run.stdout
