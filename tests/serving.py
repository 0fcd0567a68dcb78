"""Start `llamakit serve` in a process of its own, for tests that talk to it over the network."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

START_SECONDS = 60.0


class Server:
    """A running server: `url`, `host`, `port`, `pid`; what it printed is in `log`."""

    def __init__(self, model: Path, log: Path, *options: str) -> None:
        self.model, self.log, self.options = model, log, options
        self.host, self.port = "127.0.0.1", free_port()
        self.url = f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "llamakit", "serve", "-m", str(self.model), "--port", str(self.port)]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, *self.options], stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment()
            )
        self.pid = self.process.pid
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def wait_until_ready(self) -> None:
        """Until /health answers 200."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.output()}")
            with contextlib.suppress(OSError):
                if self.request("GET", "/health")[0] == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the server did not get ready in {START_SECONDS:.0f} s:\n{self.output()}")

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded body (JSON, else text) of one request, whose own is encoded here unless it is bytes."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            with connection.getresponse() as response:
                raw = response.read()
            is_json = "json" in (response.getheader("Content-Type") or "")
            return response.status, json.loads(raw) if is_json else raw.decode()
        finally:
            connection.close()

    def output(self) -> str:
        """What the server printed so far."""
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        """Ask it to end (SIGTERM), and kill it where it does not; its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment() -> dict[str, str]:
    """This process's environment without settings of LlamaKit that would change what a test starts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMAKIT_")}
    return kept | {"PYTHONUNBUFFERED": "1"}
