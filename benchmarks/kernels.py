"""How near the CPU kernels come to what this processor can do at best, by weight type.

python benchmarks/kernels.py [--isa NAME] [--n-in 2048] [--seconds 0.3] [--check] [--json OUT.json]

One thread. A kernel with its weights in the cache: multiply-adds of 48 rows (a prompt) beside the processor's own rate
for operands of that type, and GB/s of weights that one row (a step of decoding) takes. With the weights in memory: one
row beside the bandwidth of plain reading. Each is the best of several readings, taken in turn with the ceilings.
`--check` fails where a kernel falls below its gate.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from llamakit.plugins.backends.cpu import _cpu

from llamakit.gguf import GGMLType, native, quants
from llamakit.testing.blocks import random_blocks

# For the instruction sets that were measured: least share of the ceiling of multiply-adds by type, and least share of
# the read bandwidth for one row out of memory.
GATES = {
    "avx512": {
        "Q4_0": 0.73, "Q4_1": 0.60, "Q5_0": 0.70, "Q5_1": 0.55, "Q8_0": 0.73, "Q2_K": 0.62, "Q3_K": 0.68, "Q4_K": 0.74,
        "Q5_K": 0.70, "Q6_K": 0.66, "IQ4_NL": 0.65, "IQ4_XS": 0.65, "MXFP4": 0.65,
        "IQ1_S": 0.52, "IQ2_XXS": 0.42, "IQ3_XXS": 0.57, "IQ3_S": 0.68, "TQ2_0": 0.62,
        "F32": 0.85, "F16": 0.80, "BF16": 0.85,
    },
    "avx2": {
        "Q4_0": 0.78, "Q4_1": 0.82, "Q5_0": 0.66, "Q5_1": 0.62, "Q8_0": 0.52, "Q2_K": 0.70, "Q3_K": 0.52, "Q4_K": 0.80,
        "Q5_K": 0.56, "Q6_K": 0.58, "IQ4_NL": 0.42, "IQ4_XS": 0.45, "MXFP4": 0.68,
        "IQ1_S": 0.52, "IQ2_XXS": 0.42, "IQ3_XXS": 0.57, "IQ3_S": 0.68, "TQ2_0": 0.62,
        "F32": 0.80, "F16": 0.82, "BF16": 0.75,
    },
}  # fmt: skip
READ_GATES = {"avx512": 0.75, "avx2": 0.55}
CACHE, MEMORY = 256 << 10, 96 << 20  # bytes of weights
ROWS = 48
READINGS = 5


def operands(type_: GGMLType) -> str:
    """What a weight of this type is multiplied with."""
    return {GGMLType.F32: "f32", GGMLType.F16: "f32", GGMLType.BF16: "bf16"}.get(type_, "int8")


def make(type_: GGMLType, n_in: int, n_bytes: int, pool: Any) -> Any:
    """A packed matrix of about so many bytes."""
    rng = np.random.default_rng(0)
    if type_ in quants.supported():
        rows = native.quantize(type_, rng.standard_normal((64, n_in), np.float32)).reshape(-1)
    else:
        rows = random_blocks(type_, 64 * n_in // type_.block_size)
    repeat = max(1, n_bytes // rows.size)
    weight = _cpu.Weight(int(type_), 64 * repeat, n_in, False)
    for _ in range(repeat):
        weight.append(rows, pool)
    weight.finish(pool)
    return weight


def seconds(isa: str, weight: Any, n_row: int, least: float) -> float:
    """Seconds of one pass, over as many passes as take `least` seconds."""
    passes = 1
    while True:
        spent = _cpu.linear_seconds(isa, weight, n_row, passes)
        if spent >= least:
            return float(spent / passes)
        passes = max(passes * 2, int(passes * least / max(spent, 1e-9)) + 1)


def measure(isa: str, name: str, n_in: int, spend: float, pool: Any) -> dict[str, Any]:
    """All readings of one type."""
    type_ = GGMLType[name]
    small, large = make(type_, n_in, CACHE, pool), make(type_, n_in, MEMORY, pool)
    least = spend / READINGS / 3
    many = one = read = ceiling = bandwidth = 0.0
    n_out = 64 * max(1, CACHE // type_.n_bytes(64 * n_in))
    for _ in range(READINGS):
        ceiling = max(ceiling, _cpu.multiply_rate(isa, pool, operands(type_)))
        many = max(many, ROWS * n_out * n_in / seconds(isa, small, ROWS, least))
        one = max(one, small.n_bytes / seconds(isa, small, 1, least))
        bandwidth = max(bandwidth, _cpu.read_bandwidth(isa, pool))
        read = max(read, large.n_bytes / seconds(isa, large, 1, least))
    return {
        "type": name, "operands": operands(type_), "multiply_adds": many, "ceiling": ceiling, "share": many / ceiling,
        "cached_bytes": one, "memory_bytes": read, "bandwidth": bandwidth, "read_share": read / bandwidth,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--isa", default="", help="instruction set; the best there is if none is named")
    parser.add_argument("--n-in", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=0.3, help="that each type is measured for")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    isa = args.isa or _cpu.supported_isas()[0]
    pool = _cpu.Pool(1)
    print(f"{isa}, rows of {args.n_in}, one thread; {time.strftime('%Y-%m-%d')}")
    print(f"{'type':6} {'10^9 multiply-adds/s':>28} {'one row, cached':>18} {'one row, from memory':>26}")
    lines, failed = [], []
    gates = GATES.get(isa, {})
    for name in GATES["avx512"]:
        m = measure(isa, name, args.n_in, args.seconds, pool)
        lines.append(m)
        print(
            f"{name:6} {m['multiply_adds'] / 1e9:8.1f} of {m['ceiling'] / 1e9:6.1f}"
            f" ({m['operands']:>4}) {m['share']:5.0%} {m['cached_bytes'] / 1e9:13.1f} GB/s"
            f" {m['memory_bytes'] / 1e9:8.1f} of {m['bandwidth'] / 1e9:5.1f} GB/s {m['read_share']:5.0%}",
            flush=True,
        )
        for key, rate, gate in (
            ("share", m["operands"] + " rate", gates.get(name, 0.0)),
            ("read_share", "read bandwidth", READ_GATES.get(isa, 0.0)),
        ):
            if m[key] < gate:
                failed.append(f"{name}: {m[key]:.0%} of the {rate}; the gate is {gate:.0%}")
    if args.json:
        args.json.write_text(json.dumps(lines, indent=1))
    if args.check and not gates:
        print(f"there are no gates for {isa}; there are: {', '.join(GATES)}", file=sys.stderr)
        return 2
    if args.check and failed:
        print("below the gates:\n  " + "\n  ".join(failed), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
