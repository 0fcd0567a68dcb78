"""Short runs of the fuzzers; `make fuzz` has the long ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiling with sanitizers takes 20 seconds of a processor that others may use too
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_mutated_files_are_parsed_or_refused():
    script = Path(__file__).with_name("run.py")
    run = subprocess.run([sys.executable, script, "--count", "3000"], capture_output=True, text=True, check=False)
    if "cannot find -lasan" in run.stderr or "libclang_rt" in run.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert run.returncode == 0, run.stderr[-3000:]
    assert "3000 files" in run.stdout


@pytest.mark.parametrize("seed", [1, 20_000])
def test_the_grammar_matcher_agrees_with_re_and_jsonschema(seed):
    pytest.importorskip("jsonschema", reason="needs jsonschema as an oracle")
    script = Path(__file__).with_name("grammar.py")
    command = [sys.executable, script, "--count", "6000", "--seed", str(seed)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "none wrong" in run.stdout
