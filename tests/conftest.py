"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import hypothesis
import pytest

from llamakit import embedded

# How long an example takes says how busy the machine is, nothing of the code.
hypothesis.settings.register_profile("llamakit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("llamakit")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What runs a model on the backend that can be chosen is marked, so that `-m on_backend` finds it."""
    for item in items:
        if "backend_name" in item.fixturenames:
            item.add_marker("on_backend")


@pytest.fixture(scope="session")
def backend_name() -> str:
    """The backend that tests of engine, server and grammars use: LLAMAKIT_TEST_BACKEND, or cpu."""
    return os.environ.get("LLAMAKIT_TEST_BACKEND", "cpu")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real models, vocabularies and texts, named by LLAMAKIT_TEST_DATA; skips where it is unset."""
    folder = os.environ.get("LLAMAKIT_TEST_DATA")
    if not folder:
        pytest.skip("LLAMAKIT_TEST_DATA is unset: this test reads real models, vocabularies or texts from it")
    return Path(folder)


@pytest.fixture(scope="session")
def stories260k(test_data: Path) -> Path:
    """A real llama model of 260K parameters in F32, for tests that know what it says."""
    return test_data / "models" / "stories260K.gguf"


@pytest.fixture(scope="session")
def small_model() -> Path:
    """A real llama model for tests of what any does: that of `stories260k`, which is quicker, else the embedded one."""
    folder = os.environ.get("LLAMAKIT_TEST_DATA")
    return Path(folder) / "models" / "stories260K.gguf" if folder else embedded.FILE


@pytest.fixture(scope="session")
def pem(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key
