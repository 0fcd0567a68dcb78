"""A GPU in at most twelve minutes: what it does at best, whether its kernels are right, what models say and how fast.

python benchmarks/gpu.py [--backend cuda] [--device 0] [--out gpu.jsonl] [--minutes 12] [--short] [MODEL.gguf...]

Each finding is a line of JSON in the file as soon as it is there, so that a run which is cut short is of use:

    device   name, driver, kernels, memory
    ceilings reads, multiply-adds, copies, launches, measured now
    shapes   what a product takes with each shape of kernels, and what is in use once features were tried
    kit      cases of the conformance and training kits: how many pass, which fail and why, how many were left out
    text     whether greedy text is that of the cpu with activations in float32
    rate     tokens a second of a model, with its share of the ceilings
    end      seconds in all

Files that are named are measured first, then models with random weights, made in a temporary folder. `--short` is for
devices that are no GPUs: a minute or two. The exit code is 1 where a case or the text is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from random_model import write_model

from llamakit import Session, embedded
from llamakit.engine.bench import Bench
from llamakit.errors import LlamaKitError
from llamakit.gpu.tuning import measure, zeros
from llamakit.registry import Registry
from llamakit.testing.conformance import cases, check, check_top
from llamakit.testing.training import check_training, training_cases
from llamakit.work import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llamakit.backend import Device
    from llamakit.gpu.device import GPUDevice

MODELS = (("58m", "Q4_0"), ("1.1b", "Q4_0"), ("1.1b", "Q4_K_M"), ("1.1b", "F16"), ("7b", "Q4_0"))
TESTS = (([512], [], [1]), ([], [64], [1]), ([], [16], [8]), ([], [8], [32]))  # prompts, generated, sequences
SHORT_MODELS = (("260k", "F32"),)
SHORT_TESTS = (([32], [], [1]), ([], [8], [1, 2]))
SHORT_EVERY = 29  # of the kit
KIT_SHARE = 0.4  # of the time
PROMPT = "Once upon a time there was a little girl who"
FAILURES_SHOWN = 20


class Run:
    """Where findings go, and how much time is left."""

    def __init__(self, out: Path, minutes: float) -> None:
        self.file, self.start, self.seconds = out.open("w", encoding="utf-8"), time.monotonic(), 60 * minutes
        self.wrong = 0

    @property
    def gone(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.start

    def tell(self, stage: str, **found: Any) -> None:
        """A line in the file, and a shorter one for who watches."""
        line = {"stage": stage, "at": round(self.gone, 1), **found}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        print(f"{self.gone:6.1f} s  {stage:<9}{json.dumps(found)[:160]}", flush=True)


def shapes(run: Run, device: GPUDevice) -> None:
    """Settle what is used, as a first model would; then microseconds of a product by items of a row and of a group."""
    driver, kernels, taken = device.driver, device.kernel_store, {}
    device.load(zeros(), frozenset())
    for feature in driver.features:
        kernels.settle(feature)
    for shape in driver.shapes:
        try:
            taken[f"{shape.lanes}, {shape.items}"] = round(1e6 * measure(kernels, shape), 1)
        except LlamaKitError as error:  # its groups are too large for a kernel, for instance
            taken[f"{shape.lanes}, {shape.items}"] = str(error)
    run.tell("shapes", microseconds=taken, tried=sorted(driver.tried), kernels=device.kernels())


def kit(run: Run, device: Device, every: int) -> None:
    """All cases, or each of so many, as far as the time for them goes."""
    reference = Registry.discover().backend("reference")().open()
    checks = [(f"{case}", check, case) for case in cases()]
    checks += [(f"training {case}", check_training, case) for case in training_cases()]
    found, failed, n = checks[::every], {}, 0
    for name, function, case in found:
        if run.gone > KIT_SHARE * run.seconds:
            break
        n += 1
        try:
            function(case, device, reference)  # type: ignore[operator]
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    try:
        check_top(device)
    except Exception as error:
        failed["top"] = f"{type(error).__name__}: {error}"
    run.wrong += len(failed)
    run.tell("kit", passed=n - len(failed), failed=dict(list(failed.items())[:FAILURES_SHOWN]), left=len(found) - n)


def text(run: Run, device: str, n: int) -> None:
    """Greedy text of the embedded model, on the device and on the CPU."""
    settings = {"ctx_size": 128, "kv_type": "f32", "activations": "f32"}
    with Session(embedded.FILE, backend="cpu", **settings) as session:
        expected = session.generate(PROMPT, max_tokens=n, temperature=0.0).text
    with Session(embedded.FILE, device=device, **settings) as session:
        found = session.generate(PROMPT, max_tokens=n, temperature=0.0).text
    run.wrong += found != expected
    run.tell("text", equal=found == expected, text=found, expected=expected)


def rates(run: Run, model: Path, device: str, tests: Any, ceilings: Any) -> None:
    """A model's rates, a line each."""
    most = max(batch for *_, batches in tests for batch in batches)
    with Session(model, device=device, n_seq=most, ctx_size=640, batch_size=512) as session:
        start = time.monotonic()
        n_bytes = sum(weight.n_bytes for weight in session.weights.values())
        run.tell("load", model=model.name, bytes=n_bytes, seconds=round(time.monotonic() - start, 2))
        spec = session.engine.space.kv.spec
        work = Work(session.model, session.file, session.device, session.weights, spec, ceilings)
        for prompts, gens, batches in tests:
            for measured in Bench(session.engine, work).run(prompts, gens, [0], batches, 3):
                run.tell("rate", model=model.name, **msgspec.to_builtins(measured))
                if run.gone > run.seconds:
                    return


def models(folder: Path, short: bool, named: list[Path], run: Run) -> Iterator[Path]:
    """Files to measure, made when their turn comes."""
    yield from named
    for shape, type_ in SHORT_MODELS if short else MODELS:
        if run.gone > run.seconds:
            return
        path = folder / f"{shape}-{type_}.gguf"
        write_model(path, shape, type_, embedded.FILE)
        yield path
        path.unlink()


def main() -> int:
    """Read the command line, find out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    run = Run(args.out, args.minutes)
    try:
        device = Registry.discover().backend(args.backend)().open(args.device)
    except LlamaKitError as error:
        run.tell("error", **error.record())
        return error.exit_code
    memory = device.memory()
    run.tell("device", kernels=device.kernels(), memory=memory.total, free=memory.free)
    ceilings = device.ceilings()
    run.tell("ceilings", **msgspec.to_builtins(ceilings))
    shapes(run, device)
    kit(run, device, SHORT_EVERY if args.short else 1)
    name = f"{args.backend}:{args.device}"
    text(run, name, 8 if args.short else 64)
    with tempfile.TemporaryDirectory() as folder:
        for model in models(Path(folder), args.short, args.models, run):
            if run.gone > run.seconds:
                break
            try:
                rates(run, model, name, SHORT_TESTS if args.short else TESTS, ceilings)
            except LlamaKitError as error:  # such as one that is too large for this device
                run.tell("error", model=model.name, **error.record())
    run.tell("end", seconds=round(run.gone, 1), wrong=run.wrong)
    return int(run.wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
