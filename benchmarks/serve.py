"""Serving speed, side by side with llama-cpp-python's server and llama.cpp's own, on the same file, in one run.

python benchmarks/serve.py MODEL.gguf [--peer-python PYTHON] [--llama-server PROGRAM]
    [--other PYTHON] [--rounds 3] [--json OUT.json]

Every round measures every case on every server, each round in another order, with the same prompts: all clients ask
at once, each gets an answer of --answer tokens (EOS is banned, and an answer that ended for another reason than its
length is an error), and the clock runs until the last one has it. Prompts are random words, new in every round, so
that no cache helps but where a case has a common beginning. Shown are medians over the rounds; ratios are medians of
the rounds' ratios, so that what else the machine did in a round touches both sides. A model with random weights does
(benchmarks/random_model.py).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from serve_client import Answer, complete
from serve_peers import HOST, Server, Setup, llama_cpp_python, llama_server, llamakit

from llamakit.gguf import open_gguf
from llamakit.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llamakit.tokenizer import Tokenizer


@dataclass
class Case:
    """So many clients at once, prompts of so many tokens of which the first `shared` are the same for all."""

    clients: int
    prompt: int
    shared: int = 0

    @property
    def name(self) -> str:
        return f"{self.clients} clients" + (f", {self.shared} shared" if self.shared else "")


@dataclass
class Measure:
    """One case on one server in one round; times in seconds."""

    round: int
    case: str
    server: str
    requests_per_s: float
    tokens_per_s: float
    first: list[float] = field(repr=False)
    gaps: list[float] = field(repr=False)


class Prompts:
    """Texts of a number of tokens, each word of which is one token of the model's vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        pieces = [(id, tokenizer.piece(id)) for id in range(tokenizer.n_vocab)]
        texts = [(id, bytes(piece).decode(errors="replace")) for id, piece in pieces]
        self.words = [text[1:] for id, text in texts if text[1:].isalpha() and text[0] == " " and self.alone(id, text)]
        self.n_bos = len(tokenizer.encode("", add_special=True))

    def alone(self, id: int, text: str) -> bool:
        return list(self.tokenizer.encode("a" + text))[1:] == [id]

    def text(self, n_tokens: int, rng: random.Random) -> list[str]:
        """Words for so many tokens, the BOS counted."""
        return rng.choices(self.words, k=n_tokens - self.n_bos)

    def batch(self, case: Case, seed: str) -> list[str]:
        """A prompt for each client."""
        rng = random.Random(seed)
        common = self.text(case.shared, rng) if case.shared else []
        n_own = case.prompt - case.shared + (self.n_bos if case.shared else 0)
        batch = [" ".join(common + self.text(n_own, rng)) for _ in range(case.clients)]
        for prompt in batch:
            n = len(self.tokenizer.encode(prompt, add_special=True))
            if n != case.prompt:
                raise SystemExit(f"a prompt has {n} tokens, not {case.prompt}")
        return batch


async def ask_all(server: Server, prompts: list[str], body: dict[str, Any]) -> tuple[list[Answer], float]:
    """All at once; the answers, and seconds until the last one is there."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    answers = await asyncio.gather(*(complete(HOST, server.port, body | {"prompt": prompt}) for prompt in prompts))
    return answers, loop.time() - start


def measure(server: Server, case: Case, prompts: list[str], body: dict[str, Any], round: int) -> Measure:
    answers, seconds = asyncio.run(ask_all(server, prompts, body))
    n = body["max_tokens"]
    for answer in answers:
        counted = answer.usage.get("completion_tokens", n)
        whole = n <= counted <= n + 3  # more where a character would be cut
        if answer.reason != "length" or not whole or not answer.arrivals:
            raise SystemExit(f"{server.name} gave an answer of {counted} tokens that ended with {answer.reason!r}")
    first = [answer.arrivals[0] for answer in answers]
    gaps = [gap for answer in answers for gap in answer.gaps]
    n_all = len(answers)
    return Measure(round, case.name, server.name, n_all / seconds, n_all * n / seconds, first, gaps)


def run(servers: list[Server], cases: list[Case], prompts: Prompts, rounds: int, answer: int) -> Iterator[Measure]:
    """Round after round; a first one, whose numbers are thrown away, warms the servers up."""
    body = {
        "max_tokens": answer, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 1, "ignore_eos": True,
        "logit_bias": {str(prompts.tokenizer.eos_id): -100}, "stream_options": {"include_usage": True},
    }  # fmt: skip
    for server in servers:
        measure(server, Case(1, cases[0].prompt), prompts.batch(Case(1, cases[0].prompt), "warm"), body, -1)
    for round in range(rounds):
        for case in cases:
            batch = prompts.batch(case, f"{round} {case.name}")
            turn = round % len(servers)
            for server in servers[turn:] + servers[:turn]:
                yield measure(server, case, batch, body, round)


# -- showing -----------------------------------------------------------------------------------------------------------


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


FIGURES: dict[str, Callable[[Measure], float]] = {
    "requests/s": lambda m: m.requests_per_s,
    "tokens/s": lambda m: m.tokens_per_s,
    "first p50 s": lambda m: quantile(m.first, 0.5),
    "first p95 s": lambda m: quantile(m.first, 0.95),
    "between p50 ms": lambda m: quantile(m.gaps, 0.5) * 1000,
    "between p95 ms": lambda m: quantile(m.gaps, 0.95) * 1000,
}


def summary(measures: list[Measure]) -> list[dict[str, Any]]:
    """For each case and server: medians over the rounds, and our tokens/s over the server's, round by round."""
    rows = []
    for case, server in dict.fromkeys((m.case, m.server) for m in measures):
        mine = {m.round: m for m in measures if (m.case, m.server) == (case, "llamakit")}
        theirs = [m for m in measures if (m.case, m.server) == (case, server)]
        row: dict[str, Any] = {"case": case, "server": server}
        row |= {name: statistics.median(figure(m) for m in theirs) for name, figure in FIGURES.items()}
        ratios = [mine[m.round].tokens_per_s / m.tokens_per_s for m in theirs if m.round in mine]
        row |= {"ratio": statistics.median(ratios), "ratios": ratios} if ratios else {}
        rows.append(row)
    order = {name: at for at, name in enumerate(dict.fromkeys(row["case"] for row in rows))}
    return sorted(rows, key=lambda row: (order[row["case"]], row["server"] != "llamakit", row["server"]))


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'case':<24}{'server':<18}" + "".join(f"{name:>16}" for name in FIGURES) + f"{'llamakit is':>24}")
    for row in rows:
        figures = "".join(f"{row[name]:>16.2f}" for name in FIGURES)
        ratios = row.get("ratios", [])
        times = f"{row['ratio']:.2f} x ({min(ratios):.2f}..{max(ratios):.2f})" if ratios else ""
        print(f"{row['case']:<24}{row['server']:<18}{figures}{'' if row['server'] == 'llamakit' else times:>24}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer-python", type=Path, help="a Python that has llama-cpp-python[server]")
    parser.add_argument("--llama-server", type=Path, help="the program llama-server of llama.cpp")
    parser.add_argument("--other", type=Path, help="a Python with another LlamaKit, as of before a change")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=48, help="tokens of an answer")
    parser.add_argument("--shared", type=int, default=1000, help="tokens of the common beginning; 0: no such case")
    parser.add_argument("--shared-clients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write all measures to this file")
    parser.add_argument("options", nargs="*", help="after --: more options for llamakit serve")
    return parser.parse_args()


def servers_of(args: argparse.Namespace, setup: Setup, logs: Path) -> Iterator[Server]:
    yield llamakit(setup, logs / "llamakit.log", args.options)
    if args.other:
        yield llamakit(setup, logs / "other.log", args.options, args.other)
    for name, path, make in (
        ("llama-cpp-python", args.peer_python, llama_cpp_python),
        ("llama-server", args.llama_server, llama_server),
    ):
        if path is None or not path.exists():
            print(f"{name} is left out: {path or 'not named'}" + (" is not there" if path else ""), file=sys.stderr)
        else:
            yield make(path, setup, logs / f"{name}.log")


def main() -> None:
    args = arguments()
    cases = [Case(n, args.prompt) for n in args.clients]
    if args.shared:
        cases.append(Case(args.shared_clients, args.shared + 28, args.shared))
    n_ctx = -(-(max(case.prompt for case in cases) + args.answer + 8) // 256) * 256
    setup = Setup(args.model, args.threads, max(case.clients for case in cases), n_ctx)
    with open_gguf(args.model) as file:
        prompts = Prompts(load_tokenizer(file.metadata))
    measures: list[Measure] = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = [stack.enter_context(server) for server in servers_of(args, setup, Path(folder))]
        for m in run(servers, cases, prompts, args.rounds, args.answer):
            measures.append(m)
            first = f"first {quantile(m.first, 0.5):.2f} s"
            print(
                f"round {m.round}  {m.case:<24}{m.server:<18}{m.tokens_per_s:8.1f} tokens/s  {first}", file=sys.stderr
            )
        memory = {server.name: server.memory() for server in servers}
    rows = summary(measures)
    where = f"{platform.machine()}, {args.threads} threads, {args.rounds} rounds, load {load:.1f} at the start"
    print(f"{args.model.name}: prompts of {args.prompt} tokens, answers of {args.answer}; {where}")
    show(rows)
    print("resident: " + ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in memory.items()))
    if args.json:
        record = {"rows": rows, "measures": [asdict(m) for m in measures], "memory": memory, "load": load}
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(record)))


if __name__ == "__main__":
    main()
