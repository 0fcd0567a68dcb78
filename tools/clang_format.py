"""Format the C++ sources, or with --check say which are not formatted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    folders = (ROOT / "cpp", ROOT / "tests" / "cpp")
    files = sorted(str(p) for folder in folders for p in folder.rglob("*") if p.suffix in (".cpp", ".h"))
    mode = ["--dry-run", "--Werror"] if "--check" in sys.argv else ["-i"]
    return subprocess.run([str(Path(sys.executable).with_name("clang-format")), *mode, *files], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
