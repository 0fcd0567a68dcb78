"""What is installed beside LlamaKit is no older than it may be, can be listed, and native modules are linked safely."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Mended: ways out of the sandbox, lexers that take for ever on what a model writes, request smuggling.
LEAST = {"jinja2": (3, 1, 6), "pygments": (2, 20), "waitress": (3, 0, 1)}


def test_lower_bounds_are_fixed_versions():
    requires = {re.match(r"[\w-]+", each)[0].lower(): each for each in importlib.metadata.requires("llamakit") or ()}
    text = (ROOT / "pyproject.toml").read_text()
    for name, least in LEAST.items():
        bound = ".".join(map(str, least))
        assert f'"{name}>={bound},' in text
        assert name in requires
        assert numbers(importlib.metadata.version(name)) >= least


def test_what_it_is_made_of_can_be_listed():
    made = tool("sbom").document()
    names = {part["name"]: part["version"] for part in made["components"]}
    assert made["bomFormat"] == "CycloneDX"
    assert made["metadata"]["component"]["name"] == "llamakit"
    for name in ("jinja2", "markupsafe", "falcon", "waitress", "numpy", "msgspec"):
        assert names[name] == importlib.metadata.version(name)
    refs = {part["bom-ref"] for part in [*made["components"], made["metadata"]["component"]]}
    assert all({each["ref"], *each["dependsOn"]} <= refs for each in made["dependencies"])


def test_the_lock_file_has_all_that_is_needed_with_hashes():
    """CI and images install with `pip install --require-hashes -r requirements.lock`."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = dict(re.fullmatch(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line).groups() for line in lines[1:])
    assert "tools/lock.py" in lines[0]
    for each in importlib.metadata.requires("llamakit") or ():
        name, bounds = re.fullmatch(r"([\w.-]+)([^;]*)(;.*)?", each).groups()[:2]
        if "extra ==" in each:
            continue
        version = numbers(pinned[name.lower()])
        for sign, bound in re.findall(r"(>=|<)([\d.]+)", bounds):
            assert (version >= numbers(bound)) == (sign == ">="), f"{name} {version} and {bounds}: make lock"
    assert {"markupsafe", "wcwidth"} <= pinned.keys(), "what is needed by what is needed"


def numbers(version):
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def tool(name):
    """A program of tools/."""
    spec = importlib.util.spec_from_file_location(f"llamakit_tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAULT = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": [], "description": ""}


@pytest.mark.parametrize(
    ("answer", "faults", "skipped"),
    [
        ({"dependencies": [{"name": "a", "version": "1.0", "vulns": []}]}, [], ""),
        ({"dependencies": [{"name": "a", "version": "1.0", "vulns": [FAULT]}]}, ["a 1.0: PYSEC-1, mended in 2.0"], ""),
        ({"dependencies": [{"name": "a", "skip_reason": "not found"}]}, [], "1 of 1 packages: not found"),
        (None, [], "no network"),
    ],
)
def test_an_audit_that_looked_at_nothing_is_no_clean_one(monkeypatch, answer, faults, skipped):
    """It told of no known faults where the advisories of no package could be had."""
    audit = tool("audit")
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda name: name)
    done = subprocess.CompletedProcess([], 1, json.dumps(answer) if answer else "", "trace\nno network\n")
    monkeypatch.setattr(audit.subprocess, "run", lambda *args, **more: done)
    assert audit.audit() == (faults, skipped)


def test_how_to_report_a_weakness_is_written():
    text = (ROOT / "SECURITY.md").read_text()
    assert "privately" in text
    assert "docs/security.md" in text


def native_modules():
    return sorted((Path(sysconfig.get_path("purelib")) / "llamakit").rglob("_*.so"))


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_native_modules_are_linked_safely():
    assert native_modules()
    for file in native_modules():
        head = subprocess.check_output(["readelf", "-W", "-d", "-l", file], text=True)
        assert "GNU_RELRO" in head, file
        assert re.search(r"BIND_NOW|FLAGS_1.*NOW", head), file
        stack = next(line for line in head.splitlines() if "GNU_STACK" in line)
        assert "RWE" not in stack, file


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_native_modules_check_their_stacks_and_copies():
    """-fstack-protector-strong and -D_FORTIFY_SOURCE=3: calls that only such code makes."""
    names = {file.name.partition(".")[0] for file in native_modules()}
    assert {"_cpu", "_formats", "_sampling", "_text"} <= names
    fortified = set()
    for file in native_modules():
        symbols = subprocess.check_output(["readelf", "-W", "--dyn-syms", file], text=True)
        assert "__stack_chk_fail" in symbols, file
        fortified |= set(re.findall(r"__\w+_chk(?=@)", symbols)) - {"__stack_chk_fail"}
    assert fortified


def test_answers_of_apis_are_kept_by_nobody_and_read_by_no_other_page(server):
    for method, path, body in (("GET", "/health", None), ("POST", "/completion", {"prompt": "x", "n_predict": 1})):
        headers = server.request(method, path, body)[1]
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
