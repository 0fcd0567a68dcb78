"""Build the fuzz harness with AddressSanitizer and UBSan, and run it on seeds made here.

python tests/fuzz/run.py --count 200000
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from llamakit.gguf import GGMLType, GGUFWriter, ValueType, quants

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=c++20", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-ffp-contract=off"]


def build(folder: Path) -> Path:
    """Compile; needs g++ or clang++ with sanitizer libraries."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("no C++ compiler found")
    sources = [ROOT / "tests/fuzz/gguf_harness.cpp", *sorted((ROOT / "cpp/formats").glob("*.cpp"))]
    target = folder / "gguf_harness"
    subprocess.run([compiler, *FLAGS, f"-I{ROOT / 'cpp'}", *map(str, sources), "-o", str(target)], check=True)
    return target


def make_seeds(folder: Path) -> list[Path]:
    """Small valid files that use all of the format: every value type, arrays, every tensor type, version 1."""
    rng = np.random.default_rng(0)
    full, tiny, old = (folder / f"{name}.gguf" for name in ("full", "tiny", "old"))
    with GGUFWriter(full) as writer:
        for type_ in ValueType:
            if type_ not in (ValueType.STRING, ValueType.ARRAY):
                writer.add(f"scalar.{type_.name}", 1, type_)
                writer.add(f"array.{type_.name}", [1, 0, 1], ValueType.ARRAY, type_)
        writer.add("text", "some text")
        writer.add("texts", ["", "a", "bc" * 10])
        writer.add("empty", [])
        for type_ in quants.supported():
            values = rng.normal(size=(2, 256)).astype(np.float32)
            writer.add_tensor(f"t.{type_.name}", quants.quantize(type_, values), type_, values.shape)
    with GGUFWriter(tiny, alignment=64) as writer:
        writer.add("general.architecture", "llama")
        writer.add_tensor("x", np.ones((2, 3, 4), np.float32))
        writer.add_tensor("i", np.ones(4, np.int8), GGMLType.I8, (4,))
    head = b"GGUF" + struct.pack("<III", 1, 1, 1) + struct.pack("<I", 1) + b"t" + struct.pack("<III", 9, 8, 2)
    head += b"".join(struct.pack("<I", len(s)) + s for s in (b"a", b"bc"))
    head += struct.pack("<I", 1) + b"x" + struct.pack("<IIIQ", 1, 6, 0, 0)
    old.write_bytes(head + bytes(-len(head) % 32) + bytes(24))
    return [full, tiny, old]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        harness = build(folder)
        seeds = make_seeds(folder)
        return subprocess.run([harness, str(args.count), str(args.seed), *seeds], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
