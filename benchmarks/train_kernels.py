"""How near the kernels of training come to what this machine can do.

    python benchmarks/train_kernels.py [--isa NAME] [--threads N] [--repeat 3]

Multiply-adds a second beside the processor's own rate for float32: products of activations with either side
transposed, those of adapters, weights as their values forward and back, attention and its gradients (causal products
only). Bytes a second beside the bandwidth of plain reading: a step of AdamW as one elementwise program. Times are the
process's own processor time, divided by the threads, so that neighbours matter less; each is the best of a few.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from llamakit.plugins.backends.cpu import _cpu

from llamakit.gguf import GGMLType, native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

training = _cpu.training
TYPES = (GGMLType.F32, GGMLType.F16, GGMLType.Q4_0, GGMLType.Q8_0, GGMLType.Q4_K, GGMLType.Q6_K)
LEAST = 0.1  # seconds that a reading takes


class Bench:
    """The pool, its memory, and how a rate is measured."""

    def __init__(self, isa: str, threads: int, repeat: int) -> None:
        self.isa, self.threads, self.repeat = isa, threads, repeat
        self.pool, self.memory = _cpu.Pool(threads), training.Workspace(threads)
        self.rng = np.random.default_rng(0)

    def normal(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape, np.float32)

    def rate(self, call: Callable[[], object], work: float) -> float:
        """Work a second of the wall, had the machine been ours."""
        call()
        best, count = 0.0, 1
        readings = 0
        while readings < self.repeat:
            start = time.process_time()
            for _ in range(count):
                call()
            spent = time.process_time() - start
            if spent < LEAST:
                count *= 2
                continue
            best, readings = max(best, work * count / spent * self.threads), readings + 1
        return best

    def ceiling(self) -> float:
        """Multiply-adds from registers alone."""
        alone, rates = _cpu.Pool(1), []
        for _ in range(9):
            wall, spent = time.perf_counter(), time.process_time()
            rate = _cpu.multiply_rate(self.isa, alone, "f32")  # by the wall: others may have had a part of it
            rates.append(rate * (time.perf_counter() - wall) / (time.process_time() - spent))
        return sorted(rates)[len(rates) // 2] * self.threads

    def product(self, m: int, n: int, k: int, turned_a: bool = False, turned_b: bool = False) -> float:
        a = self.normal(*((k, m) if turned_a else (m, k)))
        b = self.normal(*((n, k) if turned_b else (k, n)))
        c = np.zeros((m, n), np.float32)
        options = {"transpose_a": turned_a, "transpose_b": turned_b, "add": turned_a}
        return self.rate(lambda: training.product(self.isa, self.pool, self.memory, a, b, c, **options), m * n * k)

    def weight(self, type_: GGMLType, rows: int, back: bool, n: int = 2048) -> float:
        raw = native.quantize(type_, self.normal(n, n)).reshape(-1)
        weight = _cpu.Weight(int(type_), n, n, False)
        weight.append(raw, self.pool)
        weight.finish(self.pool)
        x, y = self.normal(rows, n), np.zeros((rows, n), np.float32)

        def call() -> None:
            training.product(self.isa, self.pool, self.memory, x, weight, y, transpose_b=not back)

        return self.rate(call, rows * n * n)

    def attention(self, rows: int, sequences: int, heads: tuple[int, int], dim: int) -> tuple[float, float]:
        """Forward and back; products that causality leaves out are not counted."""
        n_head, n_head_kv = heads
        q, k, v = (self.normal(rows, h, dim) for h in (n_head, n_head_kv, n_head_kv))
        out, lse = np.zeros_like(q), np.zeros((rows, n_head), np.float32)
        where = np.repeat(np.arange(sequences, dtype=np.int32), rows // sequences)
        gradients = [np.zeros_like(x) for x in (q, k, v)]
        common = (self.isa, self.pool, self.memory, q, k, v, where, dim**-0.5, 0, out, lse)
        length = rows // sequences
        work = sequences * length * (length + 1) / 2 * n_head * dim
        forward = self.rate(lambda: training.attend(*common), 2 * work)
        return forward, self.rate(lambda: training.attend_back(*common, q, *gradients), 5 * work)

    def adamw(self, n: int) -> float:
        """Bytes a second that a step reads and writes, of four float32 a value read and three written."""
        w, g, m, v = (("state", -1, -1, float(i)) for i in range(4))
        numbers = [("constant", -1, -1, x) for x in (0.9, 0.1, 0.99, 0.01, 1e-3, 1e-8, 0.999)]
        code = [w, g, m, v, *numbers, ("mul", 2, 4, 0.0), ("mul", 1, 5, 0.0), ("add", 11, 12, 0.0)]
        code += [("mul", 3, 6, 0.0), ("mul", 1, 1, 0.0), ("mul", 15, 7, 0.0), ("add", 14, 16, 0.0)]
        code += [("sqrt", 17, -1, 0.0), ("add", 18, 9, 0.0), ("div", 13, 19, 0.0), ("mul", 20, 8, 0.0)]
        code += [("mul", 0, 10, 0.0), ("sub", 22, 21, 0.0)]
        step = _cpu.Map(4, code, [(0, 23), (2, 13), (3, 17)])
        states = [_cpu.State("f32", n) for _ in range(4)]
        return self.rate(lambda: training.run_map(self.isa, self.pool, self.memory, step, states), 28.0 * n)


def lines(bench: Bench) -> Iterator[tuple[str, float]]:
    """Names and multiply-adds a second."""
    kinds = {"NN": (False, False), "NT": (False, True), "TN": (True, False)}
    for shape in ((64, 512, 512), (512, 2048, 2048), (2048, 512, 512)):
        for name, turned in kinds.items():
            yield f"product {name} {' x '.join(map(str, shape))}", bench.product(*shape, *turned)
    for rank in (8, 64):
        yield f"adapter down, rank {rank}", bench.product(512, rank, 4096, turned_b=True)
        yield f"adapter up, rank {rank}", bench.product(512, 4096, rank, turned_b=True)
        yield f"adapter dA, rank {rank}", bench.product(rank, 4096, 512, turned_a=True)
        yield f"adapter dB, rank {rank}", bench.product(4096, rank, 512, turned_a=True)
    for type_ in TYPES:
        for rows in (64, 512):
            yield f"{type_.name} values, {rows} rows", bench.weight(type_, rows, back=False)
            yield f"{type_.name} values back, {rows} rows", bench.weight(type_, rows, back=True)
    for rows, sequences, heads, dim in ((512, 1, (32, 8), 64), (2048, 1, (8, 2), 128), (512, 8, (16, 16), 64)):
        forward, back = bench.attention(rows, sequences, heads, dim)
        yield f"attention {rows} rows, {sequences} sequences, heads {heads} of {dim}", forward
        yield "  its gradients", back


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--isa", default="", help="instruction set; the best there is if none is named")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    bench = Bench(args.isa, args.threads, args.repeat)
    ceiling = bench.ceiling()
    print(f"{args.isa or _cpu.supported_isas()[0]}, {args.threads} threads; float32 {ceiling / 1e9:.1f} x 10^9/s")
    for name, rate in lines(bench):
        print(f"{name:58} {rate / 1e9:7.1f} x 10^9/s {rate / ceiling:5.0%}", flush=True)
    bandwidth = max(_cpu.read_bandwidth(args.isa, bench.pool) for _ in range(3))
    rate = bench.adamw(1 << 24)
    print(f"{'AdamW, 16.8 million values':58} {rate / 1e9:7.1f} GB/s      {rate / bandwidth:5.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
