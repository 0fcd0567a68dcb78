"""Servers that the examples talk to: a stand-in that says what it is told, and the real one."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def _module(path: Path) -> Any:
    """A helper that is not a test: imported by its path, since test folders are no packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake() -> Iterator[Any]:
    """A server of 2023 that says what it is told to."""
    server = _module(HERE / "fake_2023.py").Fake()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def real(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`llamakit serve` with a small model, the example page under `--path`."""
    page = HERE.parents[1] / "examples/page"
    log = tmp_path_factory.mktemp("serve") / "log"
    with _module(HERE.parent / "serving.py").Server(small_model, log, "--path", str(page)) as server:
        yield server
