"""The servers that benchmarks/serve.py compares: how each is started, and when it is ready."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
OURS = Path(sys.executable)


@dataclass
class Setup:
    """What all servers get alike."""

    model: Path
    threads: int
    clients: int  # the most at once
    n_ctx: int  # of each request


class Server:
    """A server's process; `port` is where it listens."""

    def __init__(self, name: str, command: Callable[[int], list[str]], ready: str, log: Path) -> None:
        self.name, self.command, self.ready, self.log = name, command, ready, log
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]

    def __enter__(self) -> Self:
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(self.command(self.port), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 300
        while time.monotonic() < end and self.process.poll() is None:
            if self.answers():
                return self
            time.sleep(0.2)
        tail = self.log.read_text(errors="replace")[-2000:]
        self.__exit__()
        raise SystemExit(f"{self.name} did not get ready:\n{tail}")

    def __exit__(self, *exc_info: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", self.ready)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def memory(self) -> int:
        """Resident bytes."""
        with open(f"/proc/{self.process.pid}/statm") as file:  # noqa: PTH123 - no path of the file system
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def llamakit(setup: Setup, log: Path, options: list[str], python: Path = OURS) -> Server:
    """Our own, as installed beside a Python: this one, or that of another checkout."""

    def command(port: int) -> list[str]:
        own = ["-m", str(setup.model), "-t", str(setup.threads), "-c", str(setup.n_ctx), "--port", str(port)]
        return [str(python), "-m", "llamakit", "serve", *own, *options]

    return Server("llamakit" if python == OURS else "other llamakit", command, "/health", log)


def llama_cpp_python(python: Path, setup: Setup, log: Path) -> Server:
    """The server of the package llama-cpp-python, which answers one request after another."""

    def command(port: int) -> list[str]:
        own = ["--model", str(setup.model), "--n_ctx", str(setup.n_ctx), "--port", str(port), "--host", HOST]
        threads = ["--n_threads", str(setup.threads), "--n_threads_batch", str(setup.threads)]
        return [str(python), "-m", "llama_cpp.server", *own, *threads, "--interrupt_requests", "false"]

    return Server("llama-cpp-python", command, "/v1/models", log)


def llama_server(program: Path, setup: Setup, log: Path) -> Server:
    """llama.cpp's own server, with a slot for every client."""

    def command(port: int) -> list[str]:
        own = ["-m", str(setup.model), "-t", str(setup.threads), "-tb", str(setup.threads), "--port", str(port)]
        slots = ["-np", str(setup.clients), "-c", str(setup.clients * setup.n_ctx), "--host", HOST]
        return [str(program), *own, *slots]

    return Server("llama-server", command, "/health", log)
