"""Opening a file beside the `gguf` package's reader, and decoding beside its `quants`: CPU seconds, best of some runs.

python benchmarks/bench_gguf.py [FILE.gguf...]

Without files, LLAMAKIT_TEST_DATA names a folder whose vocab/*.gguf are opened.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np

from llamakit.gguf import StringArray, native, open_gguf, quants

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 5
ROWS, ROW = 512, 4096


def best(work: Callable[[], object], runs: int = RUNS) -> float:
    """Least CPU seconds of some runs."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def open_all(path: Path) -> None:
    """Open, and make the offsets of all texts, which is what a tokenizer needs."""
    with open_gguf(path) as file:
        for value in file.metadata.values():
            if isinstance(value, StringArray):
                _ = value.spans


def bench_open(paths: list[Path]) -> None:
    print(f"{'opening':32}{'llamakit':>12}{'gguf':>12}{'ratio':>8}")
    for path in paths:
        ours, theirs = best(lambda: open_all(path)), best(lambda: gguf.GGUFReader(path), 1)  # noqa: B023 - run at once
        print(f"{path.name:32}{ours * 1e3:9.1f} ms{theirs * 1e3:9.1f} ms{theirs / ours:8.0f}")


def bench_formats() -> None:
    """Millions of values a second."""
    x = np.random.default_rng(0).normal(size=(ROWS, ROW)).astype(np.float32)
    print(f"\n{'values/us':12}{'encode':>10}{'decode':>10}{'gguf decode':>14}")
    for type_ in quants.supported():
        raw = native.quantize(type_, x)
        encode = best(lambda: native.quantize(type_, x), 2)  # noqa: B023 - run at once
        decode = best(lambda: native.dequantize(type_, raw, x.shape), 3)  # noqa: B023 - run at once
        line = f"{type_.name:12}{x.size / encode / 1e6:10.0f}{x.size / decode / 1e6:10.0f}"
        if type_.name != "Q8_K":  # the gguf package does not decode it
            number = gguf.GGMLQuantizationType(int(type_))
            peer = best(lambda: gguf.quants.dequantize(raw.reshape(ROWS, -1), number), 1)  # noqa: B023 - run at once
            line += f"{x.size / peer / 1e6:14.0f}"
        print(line)


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]]
    folder = os.environ.get("LLAMAKIT_TEST_DATA")
    if not paths and folder:
        paths = sorted(Path(folder).glob("vocab/*.gguf"))
    if paths:
        bench_open(paths)
    bench_formats()


if __name__ == "__main__":
    main()
