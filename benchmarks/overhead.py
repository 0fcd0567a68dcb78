"""How much of a step of decoding is spent beside the backend: scheduling, sampling, text.

python benchmarks/overhead.py MODEL.gguf [--tokens 200] [--threads 0]

One sequence, by the greedy choice and by the default chain of samplers: seconds in all, seconds in the backend's runs,
and the share of what is left.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from llamakit.session import Session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    with Session(args.model, backend="cpu", threads=args.threads, ctx_size=args.tokens + 64) as session:
        runner = session.engine.runner
        run, inside = runner.run, [0.0, 0.0]

        def timed(batch: Any) -> Any:
            start = time.perf_counter()
            outputs = run(batch)
            inside[0] += time.perf_counter() - start
            inside[1] += 1
            return outputs

        runner.run = timed  # type: ignore[method-assign]
        chains: tuple[tuple[str, dict[str, float]], ...] = (("greedy", {"temperature": 0.0}), ("default chain", {}))
        for name, options in chains:
            session.generate([1, 5, 9], max_tokens=16, **options)  # warms up
            inside[:] = 0.0, 0.0
            start = time.perf_counter()
            session.generate([1, 5, 9], max_tokens=args.tokens, ignore_eos=True, **options)
            wall = time.perf_counter() - start
            print(
                f"{name:14} {inside[1]:5.0f} steps {wall:8.3f} s, in the backend {inside[0]:8.3f} s:"
                f" beside it {(wall - inside[0]) / wall:.2%}"
            )


if __name__ == "__main__":
    main()
