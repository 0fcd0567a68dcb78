"""Writes what LlamaKit is made of as a CycloneDX document: itself and every package it needs, as installed here."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import Any

NAME = re.compile(r"[A-Za-z0-9._-]+")


def needed(root: str) -> dict[str, set[str]]:
    """Distributions that `root` needs, directly or not, each with what it needs itself. Optional ones are left out."""
    found: dict[str, set[str]] = {}
    left = [root]
    while left:
        name = left.pop()
        if name in found:
            continue
        requires = importlib.metadata.requires(name) or []
        names = {normal(NAME.match(each)[0]) for each in requires if "extra ==" not in each}
        found[name] = {each for each in names if is_installed(each)}
        left += found[name]
    return found


def normal(name: str) -> str:
    """A name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_installed(name: str) -> bool:
    """Whether there is such a distribution here; markers of other systems leave some out."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def component(name: str) -> dict[str, Any]:
    """One package."""
    data = importlib.metadata.metadata(name)
    license_ = data.get("License-Expression") or (data.get("License") or "").split("\n")[0][:80]
    made = {
        "type": "library", "bom-ref": f"pkg:pypi/{name}@{data['Version']}", "name": name, "version": data["Version"],
        "purl": f"pkg:pypi/{name}@{data['Version']}",
    }  # fmt: skip
    return made | ({"licenses": [{"license": {"name": license_}}]} if license_ else {})


def document(root: str = "llamakit") -> dict[str, Any]:
    """The whole document."""
    packages = needed(root)
    parts = {name: component(name) for name in sorted(packages)}
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": parts[root] | {"type": "application"}},
        "components": [part for name, part in parts.items() if name != root],
        "dependencies": [
            {"ref": parts[name]["bom-ref"], "dependsOn": sorted(parts[each]["bom-ref"] for each in packages[name])}
            for name in sorted(packages)
        ],
    }  # fmt: skip


def main() -> int:
    """Write the document to a file, or to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    file = parser.parse_args().file
    text = json.dumps(document(), indent=2) + "\n"
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
