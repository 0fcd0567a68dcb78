"""What a LoRA adapter costs: a decode step, eight of them together, and a prompt, without and with one.

python benchmarks/bench_adapters.py [MODEL.gguf] [--rank 16] [--runs 20]

Without MODEL, one in the shape of 1.1B parameters is written to a temporary folder (`random_model.py`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from random_model import default_vocabulary, write_model

from llamakit.backend import Adapter, Device
from llamakit.engine.runner import BLOCK_SIZE, kv_spec
from llamakit.gguf import open_gguf
from llamakit.models import GraphSizes, LoadedModel, load_model
from llamakit.models.lora import adapter_targets
from llamakit.registry import Registry
from llamakit.weights import load_weights, tensor_sources

N_CTX, N_SEQ = 1024, 8


def random_adapter(targets: dict[str, tuple[int, ...]], rank: int) -> dict[str, Adapter]:
    """One for every matrix but the embedding, its values those of a file in F16."""
    rng = np.random.default_rng(0)

    def values(*shape: int) -> Any:
        return (rng.standard_normal(shape, np.float32) * 0.01).astype(np.float16).astype(np.float32)

    matrices = {name: s for name, s in targets.items() if len(s) == 2 and name not in ("token_embd.weight",)}
    return {name: Adapter(values(rank, s[1]), values(s[0], rank), 1.0) for name, s in matrices.items()}


class Steps:
    """A compiled program, fed by hand."""

    def __init__(self, model: LoadedModel, device: Device, weights: dict[str, Any], rank: int) -> None:
        targets = adapter_targets(model)
        table = device.adapter_table(targets, 1)
        table.set(1, random_adapter(targets, rank))
        self.blocks = N_CTX // BLOCK_SIZE
        kv = device.kv_cache(kv_spec(model, self.blocks * N_SEQ, "f16"))
        sizes = GraphSizes(rows=512, seqs=N_SEQ, blocks_per_seq=self.blocks, out_rows=N_SEQ)
        self.program = device.compile(model.build(sizes, adapters=True), weights, kv=kv, adapters=table)

    def run(self, n: int, n_seq: int, past: int, slots: list[int]) -> float:
        """Seconds of a step of `n` rows for each of `n_seq` sequences at `past`; `slots` by sequence."""
        inputs, rows = self.program.inputs, n * n_seq
        tables = np.arange(n_seq * self.blocks).reshape(n_seq, self.blocks)
        positions = np.arange(past, past + n)
        cells = tables[:, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        inputs["tokens"][:rows] = 5 + np.arange(rows)
        inputs["positions"][:rows] = np.tile(positions, n_seq)
        inputs["sequences"][:rows] = np.repeat(np.arange(n_seq), n)
        inputs["cells"][:rows] = cells.reshape(-1)
        inputs["block_tables"][:n_seq] = tables
        inputs["adapters"][:rows] = np.repeat(slots, n)
        inputs["out_rows"][:n_seq] = np.arange(1, n_seq + 1) * n - 1
        inputs["out_adapters"][:n_seq] = slots
        start = time.perf_counter()
        self.program.run({"rows": rows, "out_rows": n_seq, "seqs": n_seq}, longest=past + n)
        return time.perf_counter() - start


def compare(steps: Steps, what: str, n: int, n_seq: int, runs: int, mixed: bool = False) -> None:
    """Both kinds of step in turn, so that a busy machine slows both; the medians are compared."""
    slots = [i % 2 for i in range(n_seq)] if mixed else [1] * n_seq
    plain, adapted = [], []
    for _ in range(runs):
        plain.append(steps.run(n, n_seq, 64, [0] * n_seq))
        adapted.append(steps.run(n, n_seq, 64, slots))
    a, b = np.median(plain) * 1e3, np.median(adapted) * 1e3
    best = f"(best {min(plain) * 1e3:.2f}, {min(adapted) * 1e3:.2f})"
    print(f"{what:32} {a:9.2f} ms  with {b:9.2f} ms  {b / a - 1:+.1%}  {best}")


def measure(path: Path, rank: int, runs: int, threads: int) -> None:
    """All comparisons with one model."""
    with open_gguf(path) as file:
        model = load_model(file)
        backend = Registry.discover().backend("cpu")
        device = backend(backend.Options(threads=threads)).open()
        weights = load_weights(device, tensor_sources(model.uses(), file), model.uses())
        steps = Steps(model, device, weights, rank)
        print(f"{path.name}, rank {rank}, {device.kernels()}")
        compare(steps, "decode, 1 sequence", 1, 1, runs)
        compare(steps, "decode, 8 sequences", 1, 8, runs)
        compare(steps, "decode, 8, every other adapted", 1, 8, runs, mixed=True)
        compare(steps, "prompt, 512 tokens", 512, 1, max(3, runs // 5))


def main() -> None:
    """Read the command line, make a model if none is named, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    args = parser.parse_args()
    if args.model is not None:
        measure(args.model, args.rank, args.runs, args.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random-1.1b.gguf"
        write_model(path, "1.1b", "Q4_0", default_vocabulary())
        measure(path, args.rank, args.runs, args.threads)


if __name__ == "__main__":
    main()
