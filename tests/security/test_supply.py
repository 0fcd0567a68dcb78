"""What is installed beside LlamaKit is no older than it may be, can be listed, and native modules are linked safely."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAST = {"jinja2": (3, 1, 6), "waitress": (3, 0, 1)}  # fixed versions: of sandbox escapes, and of request smuggling


def test_lower_bounds_are_fixed_versions():
    requires = {re.match(r"[\w-]+", each)[0].lower(): each for each in importlib.metadata.requires("llamakit") or ()}
    text = (ROOT / "pyproject.toml").read_text()
    for name, least in LEAST.items():
        bound = ".".join(map(str, least))
        assert f'"{name}>={bound},' in text
        assert name in requires
        found = tuple(int(part) for part in importlib.metadata.version(name).split(".")[:3])
        assert found >= least


def test_what_it_is_made_of_can_be_listed():
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "tools" / "sbom.py")
    sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sbom)
    made = sbom.document()
    names = {part["name"]: part["version"] for part in made["components"]}
    assert made["bomFormat"] == "CycloneDX"
    assert made["metadata"]["component"]["name"] == "llamakit"
    for name in ("jinja2", "markupsafe", "falcon", "waitress", "numpy", "msgspec"):
        assert names[name] == importlib.metadata.version(name)
    refs = {part["bom-ref"] for part in [*made["components"], made["metadata"]["component"]]}
    assert all({each["ref"], *each["dependsOn"]} <= refs for each in made["dependencies"])


def native_modules():
    return sorted((Path(sysconfig.get_path("purelib")) / "llamakit").glob("_*.so"))


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_native_modules_are_linked_safely():
    assert native_modules()
    for file in native_modules():
        head = subprocess.check_output(["readelf", "-W", "-d", "-l", file], text=True)
        assert "GNU_RELRO" in head, file
        assert re.search(r"BIND_NOW|FLAGS_1.*NOW", head), file
        stack = next(line for line in head.splitlines() if "GNU_STACK" in line)
        assert "RWE" not in stack, file


def test_answers_of_apis_are_kept_by_nobody_and_read_by_no_other_page(server):
    for method, path, body in (("GET", "/health", None), ("POST", "/completion", {"prompt": "x", "n_predict": 1})):
        headers = server.request(method, path, body)[1]
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
