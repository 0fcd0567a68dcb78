"""Looks for known faults in what requirements.lock pins, with pip-audit. Exit code 1 for faults.

Where the advisories cannot be had, it says so, and that nothing is known: a list of which nothing was looked at is no
list without faults.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
SECONDS = 100.0


def audit(lock: Path = LOCK) -> tuple[list[str], str]:
    """Faults, one a line; and why packages were not looked at, "" if all were."""
    if importlib.util.find_spec("pip_audit") is None:
        return [], "pip-audit is not installed, and cannot be"
    command = [sys.executable, "-m", "pip_audit", "-r", lock, "--require-hashes", "--disable-pip", "-f", "json"]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off"], capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return [], f"no answer within {SECONDS:.0f} s"
    try:
        parts = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], (done.stderr.strip() or "no answer").splitlines()[-1]
    faults = [
        f"{part['name']} {part['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for part in parts
        for fault in part.get("vulns", ())
    ]
    skipped = [part["skip_reason"] for part in parts if "skip_reason" in part]
    return faults, f"{len(skipped)} of {len(parts)} packages: {skipped[0]}" if skipped else ""


def main() -> int:
    faults, skipped = audit()
    for fault in faults:
        print(fault)
    if skipped:
        print(f"skipped: {skipped}")
    elif not faults:
        print("no known faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
