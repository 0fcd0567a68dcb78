"""Speed and memory of training, side by side with torch and PEFT, in one run.

python benchmarks/train.py [--sides llamakit-f32,llamakit-q4_0,peft,...] [--threads 1] [--rounds 5] [--json OUT.json]

The shape is the S-bench: 512 wide, 8 layers of 8 heads, a feed-forward of 1408, 32,000 tokens; 4 windows of 128 tokens,
adapters of rank 4 on the seven projections. Each side is a process of its own; every round asks each for one step, one
after the other, so that what else the machine does touches all. Shown are medians over the rounds, medians of the
rounds' ratios to PEFT in float32, and the peak of resident memory above what libraries take before the model is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from random_model import SHAPES, default_vocabulary, write_model

SHAPE = SHAPES["58m"]
ROWS = 512
SIDES = {
    "peft-f32": "PEFT, float32",
    "peft-f32-checkpointing": "PEFT, float32, gradient checkpointing",
    "peft-nf4-f32": "PEFT on nf4 (bitsandbytes), float32",
    "peft-nf4-bf16": "PEFT on nf4 (bitsandbytes), bfloat16",
    "llamakit-f32": "LlamaKit, F32 base",
    "llamakit-f32-bf16": "LlamaKit, F32 base, bfloat16",
    "llamakit-q4_0": "LlamaKit, Q4_0 base, forward as served",
    "llamakit-q4_0-bf16": "LlamaKit, Q4_0 base, as served, bfloat16 back",
    "llamakit-q4_0-exact": "LlamaKit, Q4_0 base, forward in float32",
    "llamakit-q4_0-checkpointing": "LlamaKit, Q4_0 base, gradient checkpointing",
    "torch-full": "torch, all weights, float32",
    "llamakit-full": "LlamaKit, all weights, float32",
}
BASELINES = {"full": "torch-full"}


def multiply_adds(full: bool) -> float:
    """Of a step: the products with weights forward and back, and of the weights' gradients if they are trained."""
    s = SHAPE
    layer = s.n_embd * (2 * s.n_embd + 2 * s.n_embd + 3 * s.n_ff)
    head = s.n_embd * 32000
    return ROWS * (s.n_layer * layer + head) * (3.0 if full else 2.0)


class Side:
    """A worker process."""

    def __init__(self, name: str, models: dict[str, Path], threads: int) -> None:
        worker = Path(__file__).parent / "train_worker.py"
        command = [sys.executable, str(worker), name, str(models["q4_0" if "q4_0" in name else "f32"]), str(threads)]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.ready = self.answer()
        self.peak_mib = 0.0

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": f"ended with {self.process.wait()}"}
        return found

    def step(self) -> float:
        """Seconds of one step."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = self.answer()
        self.peak_mib = found["peak_mib"]
        return float(found["seconds"])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {kind: Path(folder) / f"{kind}.gguf" for kind in ("f32", "q4_0")}
        for kind, path in models.items():
            write_model(path, "58m", kind.upper(), default_vocabulary(), 1)
        table = measure(args.sides.split(","), models, args.threads, args.rounds)
    show(table)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


def measure(names: list[str], models: dict[str, Path], threads: int, rounds: int) -> dict[str, Any]:
    sides: dict[str, Side] = {}
    for name in names:
        side = Side(name, models, threads)
        if "error" in side.ready:
            print(f"{SIDES[name]}: left out: {side.ready['error']}", file=sys.stderr)
        else:
            sides[name] = side
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side.step())
    table = {}
    for name, side in sides.items():
        base = BASELINES.get("full" if name.endswith("full") else "", "peft-f32")
        ratios = [a / b for a, b in zip(seconds[name], seconds.get(base, []), strict=False)]
        step = statistics.median(seconds[name])
        table[name] = {
            "seconds": step, "ratio": statistics.median(ratios) if ratios else None, "peak_mib": side.peak_mib,
            "rate": multiply_adds(name.endswith("full")) / step / 1e9, "ceiling": side.ready.get("ceiling"),
        }  # fmt: skip
        side.close()
    return table


def show(table: dict[str, Any]) -> None:
    print(f"{'':44}{'s a step':>10}{'ratio':>8}{'MiB':>8}{'10^9/s':>9}{'share':>8}")
    for name, row in table.items():
        ratio = f"{row['ratio']:8.2f}" if row["ratio"] else f"{'':8}"
        share = f"{row['rate'] / row['ceiling']:8.0%}" if row["ceiling"] else ""
        print(f"{SIDES[name]:44}{row['seconds']:10.2f}{ratio}{row['peak_mib']:8.0f}{row['rate']:9.1f}{share}")


if __name__ == "__main__":
    main()
