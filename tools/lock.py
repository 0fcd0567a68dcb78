"""Pins what LlamaKit needs to run, with the hashes of the files that pip would install here: requirements.lock.

pip refuses what is not in it (`pip install --require-hashes -r requirements.lock`), for CI and for images. It holds
for the Python and the system that it was made on, which its first line names.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def resolved(requirements: list[str]) -> list[dict[str, Any]]:
    """What pip would install, each with its metadata and where it comes from."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", *requirements], stdout=subprocess.PIPE, text=True, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return found


def lock(requirements: list[str]) -> str:
    """The text of the file."""
    version = ".".join(platform.python_version_tuple()[:2])
    lines = [f"# python tools/lock.py, for CPython {version} on {platform.system()} {platform.machine()}"]
    for part in sorted(resolved(requirements), key=lambda part: part["metadata"]["name"].lower()):
        name, version = part["metadata"]["name"].lower().replace("_", "-"), part["metadata"]["version"]
        digest = part["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={version} --hash=sha256:{digest}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "requirements.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parser.parse_args().file.write_text(lock(project["dependencies"]))


if __name__ == "__main__":
    main()
