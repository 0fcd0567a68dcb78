"""Which part may import which: the directions of docs/design.md, read from the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED_THIRD_PARTY = {  # package -> the only places that import it
    "pluggy": {"llamakit/hookspecs.py", "llamakit/registry.py"},
    "click": {"llamakit/cli.py", "llamakit/frontend.py", "plugins/frontends"},
    "jinja2": {"llamakit/chat/rendering.py", "llamakit/chat/sandbox.py"},
    "falcon": {"plugins/frontends/rest"},
    "waitress": {"plugins/frontends/rest"},
    "lark": {"plugins/samplers/grammar"},
    "rich": {"plugins/frontends"},
}
FORBIDDEN = [  # (importer, imported): never
    ("llamakit", "llamakit.plugins"),
    ("llamakit/graph", r"llamakit\.(?!graph|errors)"),
    ("llamakit/passes", r"llamakit\.(engine|train|session|registry|plugins|models)"),
    ("llamakit/models", r"llamakit\.(engine|train|session|plugins|passes|backend)"),
    ("llamakit/gguf", r"llamakit\.(graph|engine|models|session|lora)"),
    ("llamakit/gpu", r"llamakit\.(engine|train|session|registry|plugins|models)"),
    ("llamakit/lora", r"llamakit\.(graph|engine|train|session|registry|plugins|passes|backend)"),
    ("llamakit/tokenizer", r"llamakit\.(graph|engine|models|session|chat)"),
    ("llamakit/chat", r"llamakit\.(graph|engine|models|session|backend|registry)"),
    ("llamakit/engine", r"llamakit\.(train|session|registry)"),
    ("llamakit/train", r"llamakit\.(engine|session|registry)"),
]


def imports(source: str) -> list[str]:
    """Every module named by an import statement, relative ones refused."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append("." * node.level + (node.module or ""))
            if node.module == "llamakit":
                found += [f"llamakit.{alias.name}" for alias in node.names]
    return found


def violations(path: str, source: str) -> list[str]:
    """What is wrong with the imports of a file at `path` (relative to the root)."""
    bad = []
    for name in imports(source):
        if name == "plugins" or name.startswith("plugins."):
            bad.append(f"{path} imports {name}: plugins are found by entry point")
        if name.startswith("."):
            bad.append(f"{path} has a relative import")
        top = name.partition(".")[0]
        if top in ALLOWED_THIRD_PARTY and not any(path.startswith(place) for place in ALLOWED_THIRD_PARTY[top]):
            bad.append(f"{path} imports {top}, which belongs to {ALLOWED_THIRD_PARTY[top]}")
        bad += [
            f"{path} imports {name}" for who, what in FORBIDDEN if path.startswith(f"{who}/") and re.match(what, name)
        ]
        if path.startswith("plugins/") and name.startswith("llamakit.plugins."):
            own = ".".join(["llamakit", *Path(path).with_suffix("").parts])
            if plugin_of(own) != plugin_of(name):
                bad.append(f"{path} imports another plugin, {name}")
    return bad


def plugin_of(module: str) -> str:
    """llamakit.plugins.<kind>.<plugin>, without what is inside."""
    return ".".join(module.split(".")[:4])


def sources() -> list[str]:
    files = [p for folder in ("llamakit", "plugins") for p in (ROOT / folder).rglob("*.py")]
    return sorted(str(p.relative_to(ROOT)) for p in files)


@pytest.mark.parametrize("path", sources())
def test_imports_point_one_way(path):
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("llamakit/session.py", "from llamakit.plugins.samplers import top_k"),
        ("llamakit/session.py", "import plugins.samplers"),
        ("llamakit/graph/x.py", "from llamakit.backend import Device"),
        ("llamakit/models/x.py", "def f():\n    import llamakit.engine.engine"),
        ("llamakit/gguf/x.py", "from llamakit import models"),
        ("llamakit/engine/x.py", "import pluggy"),
        ("plugins/samplers/x.py", "import lark"),
        ("plugins/samplers/x.py", "from llamakit.plugins.samplers.top_k import TopK"),
        ("plugins/backends/cpu/x.py", "from llamakit.plugins.backends.reference import device"),
        ("llamakit/x.py", "from . import errors"),
    ],
)
def test_the_check_catches(path, source):
    assert violations(path, source)


def test_a_plugin_may_import_itself():
    assert violations("plugins/backends/cpu/x.py", "from llamakit.plugins.backends.cpu import lower") == []


def test_apis_are_strangers():
    """An API of the server imports no other one, and nothing but `app` knows that they are there."""
    root = ROOT / "plugins" / "frontends" / "rest"
    for path in root.rglob("*.py"):
        inside = path.relative_to(root).parts
        own = inside[1] if inside[0] == "apis" and len(inside) > 2 else ""
        for name in imports(path.read_text(encoding="utf-8")):
            api = name.partition("llamakit.plugins.frontends.rest.apis.")[2].partition(".")[0]
            assert api in ("", own), f"{path} imports {name}"


def test_pybind11_stays_in_the_bindings():
    for path in (ROOT / "cpp").rglob("*"):
        if path.suffix in (".h", ".cpp") and path.parent.name != "bindings":
            assert "pybind11" not in path.read_text(encoding="utf-8"), path


def test_kernels_include_no_standard_templates():
    """A template instantiated with AVX-512 could replace the copy that everybody else uses."""
    for path in (ROOT / "cpp" / "cpu").glob("*-inl.h"):
        headers = set(re.findall(r"#include <(\w+)>", path.read_text(encoding="utf-8")))
        assert not headers & {"vector", "algorithm", "string", "memory", "map", "functional", "array"}, path
