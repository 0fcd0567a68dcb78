"""One side of benchmarks/cpu.py: holds a model and measures what it is asked for, a line of JSON each.

python benchmarks/cpu_worker.py llamakit|llama_cpp MODEL THREADS CONTEXT SEQUENCES
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any


class LlamaKit:
    """The engine's program directly."""

    def __init__(self, model: str, threads: int, context: int, sequences: int) -> None:
        from llamakit.engine.bench import Bench
        from llamakit.session import Session

        tokens = max(context, sequences * 64)  # of all sequences together
        shape = Session(model).model.hparams
        per_token = 4 * shape.n_layer * shape.n_head_kv * shape.head_dim_k  # bytes of keys and values in float16
        session = Session(
            model,
            backend="cpu",
            threads=threads,
            ctx_size=context,
            batch_size=512,
            n_seq=sequences,
            kv_memory=(tokens + 64 * sequences) * per_token,
        )
        self.bench = Bench(session.engine)

    def measure(self, n_prompt: int, n_gen: int, depth: int, batch: int) -> float:
        """Tokens per second, once, after one run to warm up."""
        return self.bench.measure("", n_prompt, n_gen, depth, batch, 1).tokens_per_second


class LlamaCpp:
    """llama.cpp by the low-level part of llama-cpp-python."""

    def __init__(self, model: str, threads: int, context: int, sequences: int) -> None:
        import llama_cpp as api

        self.api = api
        api.llama_backend_init()
        self.quiet = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self.quiet, None)
        self.model = api.llama_model_load_from_file(model.encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context + 64 * sequences, 2048, 512
        params.n_seq_max, params.n_threads, params.n_threads_batch = sequences, threads, threads
        params.kv_unified = True
        self.context = api.llama_init_from_model(self.model, params)
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(2048, 0, sequences)
        self.filled = (0, 0)  # depth and sequences

    def rows(self, rows: list[tuple[int, int]], outputs: set[int]) -> None:
        """Evaluate (position, sequence) rows."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (position, sequence) in enumerate(rows):
            batch.token[i] = 1000 + (position * 7919 + 13) % 20000
            batch.pos[i], batch.n_seq_id[i], batch.logits[i] = position, 1, int(i in outputs)
            batch.seq_id[i][0] = sequence
        if self.api.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        self.api.llama_synchronize(self.context)

    def prompt(self, sequence: int, start: int, n: int) -> None:
        """Tokens of one sequence, 512 at once."""
        for at in range(start, start + n, 512):
            count = min(512, start + n - at)
            self.rows([(at + i, sequence) for i in range(count)], {count - 1})

    def measure(self, n_prompt: int, n_gen: int, depth: int, batch: int) -> float:
        """Tokens per second, once, after one run to warm up."""
        if self.filled != (depth, batch):
            self.api.llama_memory_clear(self.memory, True)
            for sequence in range(batch):
                self.prompt(sequence, 0, depth)
            self.filled = (depth, batch)
        seconds = 0.0
        for _ in range(2):
            start = time.perf_counter()
            self.prompt(0, depth, n_prompt)
            for i in range(n_gen):
                self.rows([(depth + i, sequence) for sequence in range(batch)], set(range(batch)))
            seconds = time.perf_counter() - start
            for sequence in range(batch):
                self.api.llama_memory_seq_rm(self.memory, sequence, depth, -1)
        return (n_prompt + n_gen * batch) / seconds


def main() -> None:
    side, model, *numbers = sys.argv[1:]
    start = time.perf_counter()
    kinds: dict[str, Any] = {"llamakit": LlamaKit, "llama_cpp": LlamaCpp}
    held = kinds[side](model, *map(int, numbers))
    print(json.dumps({"load": time.perf_counter() - start}), flush=True)
    for line in sys.stdin:
        rate = held.measure(**json.loads(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"rate": rate, "peak_mib": peak}), flush=True)


if __name__ == "__main__":
    main()
