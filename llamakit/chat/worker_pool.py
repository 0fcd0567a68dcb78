"""Chat templates of strangers are rendered in processes that can be killed: few, started when needed, kept warm."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from llamakit.errors import ModelFileError, UnavailableError, UsageError
from llamakit.serialized import let_others

MOST_WORKERS = 2
START_SECONDS = 30.0
CPU_SECONDS = 2.5  # of a request; the sandbox gives up before, with a better message, where it sees the clock
ANSWER_SECONDS = 10.0  # by the clock
WAIT_SECONDS = 20.0  # for a free worker
LONGEST_ANSWER = 257 << 20  # bytes: the longest text of a sandbox, each character of four bytes
TOO_SLOW = -getattr(signal, "SIGPROF", 0)  # how a process ends that has used up its share of the processor
KEPT_NAMES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TZ", "LANG", "LC_ALL", "SYSTEMROOT")


class Worker:
    """One process. Used by one thread at a time."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in KEPT_NAMES if name in os.environ}
        command = [sys.executable, "-P", "-m", "llamakit.chat.worker", str(CPU_SECONDS)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            start_new_session=True, bufsize=0,
        )  # fmt: skip
        try:
            self.receive(START_SECONDS)
        except BaseException:
            self.close()
            raise

    def send(self, message: bytes) -> None:
        """Hand the process a request."""
        assert self.process.stdin is not None
        data = memoryview(len(message).to_bytes(8, "little") + message)
        while data:
            data = data[self.process.stdin.write(data) :]

    def receive(self, seconds: float) -> bytes:
        """The process's answer; EOFError if it ended, TimeoutError if none came in time."""
        end = time.monotonic() + seconds
        length = int.from_bytes(self._read(8, end), "little")
        if length > LONGEST_ANSWER:
            raise EOFError
        return self._read(length, end)

    def ended(self) -> int | None:
        """How a process ended that is about to."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(5)
        return None

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self.process.wait()

    def _read(self, n: int, end: float) -> bytes:
        assert self.process.stdout is not None
        descriptor, parts = self.process.stdout.fileno(), []
        while n:
            if not _readable(descriptor, end - time.monotonic()):
                raise TimeoutError
            part = os.read(descriptor, min(n, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            n -= len(part)
        return b"".join(parts)


class WorkerPool:
    """Workers for any number of threads."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(MOST_WORKERS)
        self._idle: list[Worker] = []
        self._lock = threading.Lock()

    def ask(self, source: str, values: dict[str, Any] | None) -> str:
        """Compile a template, and render it where there are values.

        ModelFileError for what is wrong with it, UsageError for values that are not JSON's, UnavailableError while
        every worker is busy.
        """
        try:
            message = json.dumps({"source": source, "values": values}).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"a chat template takes values of JSON only: {error}", param="messages") from None
        let_others()
        if not self._places.acquire(timeout=WAIT_SECONDS):
            raise UnavailableError("too many chat templates are at work", hint="try again later")
        try:
            answer = self._answer(message)
        finally:
            self._places.release()
        text = answer[2:].decode("utf-8", "surrogatepass")
        if answer[:1] != b"+":
            raise ModelFileError(text)
        return text

    def close(self) -> None:
        """End all that are idle."""
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.close()

    def _answer(self, message: bytes) -> bytes:
        worker = self._take()
        try:
            worker.send(message)
            answer = worker.receive(ANSWER_SECONDS)
        except (EOFError, OSError) as error:  # TimeoutError and BrokenPipeError among them
            late = isinstance(error, TimeoutError) or worker.ended() == TOO_SLOW
            worker.close()
            raise ModelFileError(
                "the model's chat template refuses these messages: "
                + ("it did not end in time" if late else "it takes too much memory, or nests too deeply")
            ) from None
        except BaseException:
            worker.close()
            raise
        if answer[1:2] == b"x":
            worker.close()
        else:
            with self._lock:
                self._idle.append(worker)
        return answer

    def _take(self) -> Worker:
        """An idle worker that lives, or a new one."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.close()
        try:
            return Worker()
        except (EOFError, OSError) as error:
            raise UnavailableError(f"the process for chat templates cannot be started: {error}") from None


def _readable(descriptor: int, seconds: float) -> bool:
    """Whether something can be read from a pipe in time."""
    if seconds <= 0:
        return False
    if not hasattr(select, "poll"):  # Windows: pipes cannot be waited for; the read itself waits
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(seconds * 1000))


pool = WorkerPool()
atexit.register(pool.close)
