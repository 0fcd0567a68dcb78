"""Kill a training run at some moment, let it go on, and compare it with one that was never stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from llamakit.train import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
from llamakit import Session
from llamakit.training import Trainer
base, data, out, threads = sys.argv[1:]
session = Session(base, backend="cpu", threads=int(threads))
if any(Path(out).glob("checkpoints/step-*")):
    Trainer.resume(out, session=session).run()
else:
    session.trainer(data=[data], out=out, **{options!r}).run()
"""


class Runs:
    """Runs of one kind, each in a folder of its own below `folder`, in processes that can be killed."""

    def __init__(self, base: Path, data: Path, folder: Path, options: dict[str, Any]) -> None:
        self.base, self.data, self.folder = base, data, folder
        self.script = SCRIPT.replace("{options!r}", repr(options))

    def out(self, number: int) -> Path:
        return self.folder / f"{number:04}"

    def start(self, number: int, threads: int = 1) -> subprocess.Popen[bytes]:
        """Begin a run, or let it go on."""
        args = [str(self.base), str(self.data), str(self.out(number)), str(threads)]
        command = [sys.executable, "-c", self.script, *args]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self, number: int, threads: int = 1) -> float:
        """To its end; seconds that it took."""
        started = time.monotonic()
        process = self.start(number, threads)
        _, told = process.communicate()
        assert process.returncode == 0, told.decode()
        return time.monotonic() - started

    def kill_after(self, number: int, seconds: float) -> bool:
        """Begin it or let it go on, and kill it; False if it was done before."""
        process = self.start(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        _, told = process.communicate()
        assert process.returncode in (0, -9), told.decode()
        return process.returncode == -9

    def ending(self, number: int) -> dict[str, bytes]:
        """All that the run left but what is half written: adapter and checkpoints, which name no folder here."""
        out = self.out(number)
        paths = [out / "adapter.gguf", *(path for _, path in checkpoint.numbered(out / "checkpoints"))]
        place = str(out).encode()
        return {path.name: path.read_bytes().replace(place, b"?" * len(place)) for path in paths}
