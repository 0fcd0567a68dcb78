"""schemathesis over /openapi.json: no operation answers 5xx, and every answer is as its description says.

LLAMAKIT_SCHEMATHESIS_EXAMPLES sets how many random requests an operation gets (1; more are worth an hour of waiting).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVING = Path(__file__).parents[1] / "serving.py"
EXAMPLES = os.environ.get("LLAMAKIT_SCHEMATHESIS_EXAMPLES", "1")
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance",
)  # fmt: skip


@pytest.fixture
def server(small_model: Path, tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip(
        "schemathesis", reason="schemathesis is not installed: pip install --group pyproject.toml:oracle"
    )
    spec = importlib.util.spec_from_file_location("serving", SERVING)
    assert spec
    assert spec.loader
    serving = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serving)
    (tmp_path / "slots").mkdir()
    flags = ("--max-predict", "16", "--props", "--slot-save-path", str(tmp_path / "slots"))
    with serving.Server(small_model, tmp_path / "log", *flags) as server:
        yield server


@pytest.mark.slow
@pytest.mark.usefixtures("stories260k")
def test_answers_are_as_described(server: Any, tmp_path: Path) -> None:
    options = ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-shrink"]
    options += ["--max-examples", EXAMPLES, "--request-timeout", "30", "--generation-database", "none", "--no-color"]
    options += ["--suppress-health-check", "all"]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *options],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
    assert server.request("GET", "/health")[0] == 200
    assert "Traceback" not in server.output()
