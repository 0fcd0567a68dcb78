"""The scripts in benchmarks/ keep up with the product: each can be loaded, and the smallest runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PEERS = {"bench_gguf": "gguf", "bench_tokenizers": "tokenizers"}  # what a script compares with


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=120)  # noqa: PLW1510
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_each_script_finds_what_it_imports(script):
    if script in PEERS:
        pytest.importorskip(PEERS[script])
    run("-c", f"import {script}")


def test_what_a_token_costs_is_measured_on_each_api():
    lines = run("bench_stream.py", "--tokens", "40").splitlines()
    paths = [line.split()[1] for line in lines if "/" in line and "us/token" not in line]
    assert paths == ["/completion"] * 3 + ["/v1/completions", "/v1/chat/completions", "/v1/messages", "/api/chat"]
