"""What is installed beside LlamaKit is no older than it may be, can be listed, and native modules are linked safely."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
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


def test_nothing_that_is_pinned_has_known_faults():
    """Needs the network and pip-audit, which `make audit` installs."""
    pytest.importorskip("pip_audit", reason="pip-audit is not installed: make audit")
    command = [sys.executable, "-m", "pip_audit", "-r", ROOT / "requirements.lock", "--require-hashes", "--disable-pip"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    if "Connection" in done.stderr or "resolve" in done.stderr:
        pytest.skip(f"the advisories are on the network: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stdout + done.stderr


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
