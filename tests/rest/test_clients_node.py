"""The real npm clients of OpenAI, Anthropic and Ollama against a real server."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = ("openai@6", "@anthropic-ai/sdk@0", "ollama@0")
SCRIPT = Path(__file__).with_name("clients.mjs")


@pytest.fixture(scope="module")
def installed():
    """A folder with the packages, installed once and kept in the cache folder."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamakit-npm"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cache / "installed"
        if not done.exists() or done.read_text() != " ".join(PACKAGES):
            (cache / "package.json").write_text('{"private": true}')
            run = subprocess.run(
                [npm, "install", "--no-audit", "--no-fund", *PACKAGES], cwd=cache, capture_output=True, text=True,
                timeout=110, check=False,
            )  # fmt: skip
            if run.returncode != 0:
                pytest.skip(f"the npm packages cannot be installed: {run.stderr.strip()[-200:]}")
            done.write_text(" ".join(PACKAGES))
    return cache


@pytest.mark.slow
def test_clients_of_node(installed, serve, stories260k):
    server = serve({"stories": stories260k}, api_key=["sesame"])
    shutil.copy(SCRIPT, installed / "clients.mjs")
    run = subprocess.run(
        ["node", "clients.mjs", server.url, "sesame"],
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    assert found["openai"]
    assert found["openai"] == found["openai_stream"] == found["anthropic"] == found["anthropic_stream"], found
    assert found["ollama"] == found["ollama_stream"] != ""  # its default penalties give another text
    assert found["response"]
    assert found["embedding"] == 64
    assert found["openai_error"] == [400, "temperature"]
    assert found["ollama_models"] == 1
