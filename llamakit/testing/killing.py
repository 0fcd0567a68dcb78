"""Kill a training run at some moment, let it go on, and compare it with one that was never stopped.

Processes are forked from one that has everything imported, so that a run takes as long as its steps.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from typing import TYPE_CHECKING, Any

from llamakit.train import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

IMPORTED = [
    "llamakit.training", "llamakit.train.data.dataset", "llamakit.train.mask", "llamakit.train.run",
    "llamakit.train.graphs", "llamakit.train.stepper", "llamakit.train.targets", "llamakit.train.init",
    "llamakit.train.export", "llamakit.passes.lora", "llamakit.weights", "llamakit.plugins.backends.cpu",
    "llamakit.chat.template", "llamakit.testing.killing",
]  # fmt: skip


def work(base: str, data: str, out: str, threads: int, options: dict[str, Any]) -> None:
    """In a process of its own: begin a run, or let it go on, to its end."""
    from pathlib import Path

    from llamakit.session import Session
    from llamakit.train.checkpoint import CHECKPOINTS
    from llamakit.training import Trainer

    session = Session(base, backend="cpu", threads=threads)
    if checkpoint.numbered(Path(out) / CHECKPOINTS):
        Trainer.resume(out, session=session).run()
    else:
        session.trainer(data=[data], out=out, **options).run()


class Runs:
    """Runs of one kind, each in a folder of its own below `folder`, in processes that can be killed."""

    def __init__(self, base: Path, data: Path, folder: Path, options: dict[str, Any]) -> None:
        self.base, self.data, self.folder, self.options = base, data, folder, options
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(IMPORTED)

    def out(self, number: int) -> Path:
        """The folder of a run."""
        return self.folder / f"{number:04}"

    def finish(self, number: int, threads: int = 1) -> float:
        """Begin a run or let it go on, to its end; seconds that it took. AssertionError if it fails."""
        started = time.monotonic()
        process = self._start(number, threads)
        process.join()
        assert process.exitcode == 0, f"run {number} ended with {process.exitcode}"
        return time.monotonic() - started

    def kill_after(self, number: int, seconds: float) -> bool:
        """Begin a run or let it go on, and kill it; False if it was done before."""
        process = self._start(number, 1)
        process.join(seconds)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), f"run {number} ended with {process.exitcode}"
        return bool(process.exitcode)

    def ending(self, number: int) -> dict[str, bytes]:
        """All that a run left but what is half written: adapter and checkpoints, without the name of its folder."""
        out = self.out(number)
        paths = [out / "adapter.gguf", *(path for _, path in checkpoint.numbered(out / "checkpoints"))]
        place = str(out).encode()
        return {path.name: path.read_bytes().replace(place, b"?" * len(place)) for path in paths}

    def _start(self, number: int, threads: int) -> Any:
        args = (str(self.base), str(self.data), str(self.out(number)), threads, self.options)
        process = self._context.Process(target=work, args=args)
        process.start()
        return process
