"""Speed of the CPU backend, side by side with llama.cpp (as llama-cpp-python builds it), on the same files, in one run.

python benchmarks/cpu.py MODEL.gguf... [--peer-python PYTHON] [--threads 2] [--rounds 3] [--deep] [--json OUT.json]

Each side is a process of its own that holds the model; every round asks both for each case, one after the other, so
that what else the machine does touches both. Shown are medians of the rates over the rounds, and medians of the
rounds' ratios. `--deep` adds a context of 8192 tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

CASES: dict[str, dict[str, int]] = {
    "pp512": {"n_prompt": 512, "n_gen": 0, "depth": 0, "batch": 1},
    "tg64": {"n_prompt": 0, "n_gen": 64, "depth": 0, "batch": 1},
    "tg16 x 8": {"n_prompt": 0, "n_gen": 16, "depth": 0, "batch": 8},
    "tg8 x 32": {"n_prompt": 0, "n_gen": 8, "depth": 0, "batch": 32},
}
DEEP: dict[str, dict[str, int]] = {
    "pp512 at 8192": {"n_prompt": 512, "n_gen": 0, "depth": 8192, "batch": 1},
    "tg16 at 8192": {"n_prompt": 0, "n_gen": 16, "depth": 8192, "batch": 1},  # after the other: the same context
}
SEQUENCES = 32


class Side:
    """A worker process."""

    def __init__(self, python: str, name: str, model: Path, threads: int, context: int) -> None:
        worker = Path(__file__).parent / "cpu_worker.py"
        command = [python, str(worker), name, str(model), str(threads), str(context), str(SEQUENCES)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.load: float = self._answer()["load"]
        self.peak_mib = 0.0

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with code {self.process.wait()}: {self.process.args}")
        found: dict[str, Any] = json.loads(line)
        return found

    def measure(self, case: dict[str, int]) -> float:
        """Tokens per second."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peak_mib = answer["peak_mib"]
        return float(answer["rate"])

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def compare(model: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases on one file."""
    cases = {name: case for name, case in (CASES | (DEEP if args.deep else {})).items() if args.only in name}
    context = 9216 if args.deep else 1024
    sides = [Side(sys.executable, "llamakit", model, args.threads, context)]
    if args.peer_python:
        sides.append(Side(args.peer_python, "llama_cpp", model, args.threads, context))
    lines = []
    for name, case in cases.items():
        rounds = [[side.measure(case) for side in sides] for _ in range(args.rounds)]
        line = {"model": model.name, "case": name, "llamakit": statistics.median(r[0] for r in rounds)}
        if args.peer_python:
            line["llama_cpp"] = statistics.median(r[1] for r in rounds)
            line["ratio"] = statistics.median(r[0] / r[1] for r in rounds)
        lines.append(line)
        print("  ".join(f"{v:10.2f}" if isinstance(v, float) else f"{v:16}" for v in line.values()), flush=True)
    for key in ("load", "peak_mib"):
        values = [getattr(side, key) for side in sides]
        lines.append({"model": model.name, "case": key, **dict(zip(("llamakit", "llama_cpp"), values, strict=False))})
        print(f"{model.name:16}  {key:16}  " + "  ".join(f"{v:10.2f}" for v in values), flush=True)
    for side in sides:
        side.close()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--peer-python", help="a Python with llama-cpp-python; without one, ours alone is measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--deep", action="store_true", help="also at 8192 tokens of context")
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose names have this in them")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lines = [line for model in args.models for line in compare(model, args)]
    if args.json:
        args.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
