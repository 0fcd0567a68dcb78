"""The long attack on a server and on the reader of files, on loopback only: `make attack`.

    python tests/attack/run.py --model stories260K.gguf --requests 100000 --files 200000 --minutes 5 --kills 100

Each part prints a line of figures and what broke; the exit code is 1 if anything did. A neighbour reads an endless
stream all the while, and the longest silence that it saw is told. Parts: requests, clients, slow, kills, files.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
SETTLED = 1.10  # resident memory afterwards, as a share of that before
SLACK = 48 << 20  # bytes that pools and caches may take beyond that


def module(path: str) -> Any:
    """A module of the tests."""
    name = "attack_" + Path(path).stem
    spec = importlib.util.spec_from_file_location(name, TESTS / path)
    assert spec
    assert spec.loader
    sys.modules[name] = made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class Neighbour(threading.Thread):
    """Reads one stream after another; `longest`: seconds between two events of one, `n`: events."""

    def __init__(self, server: Any) -> None:
        super().__init__(daemon=True)
        self.server, self.ended = server, threading.Event()
        self.longest, self.n, self.faults = 0.0, 0, []

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                self.read()
            except (OSError, http.client.HTTPException) as error:
                self.faults.append(f"the neighbour's stream: {error!r}")

    def read(self) -> None:
        body = {"prompt": "Once", "n_predict": 2000, "stream": True, "ignore_eos": True, "priority": 1}
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                last = 0.0
                while not self.ended.is_set() and response.read1(1 << 16):
                    now = time.monotonic()
                    self.longest = max(self.longest, now - last if last else 0.0)
                    self.n, last = self.n + 1, now

    def __enter__(self) -> Neighbour:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.ended.set()
        self.join(70)


class Attack:
    """The parts; `faults` holds what broke."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder, self.faults = options, folder, []
        self.serving = module("serving.py")

    def start(self, name: str, *more: str) -> Any:
        """A server of its own for a part."""
        return self.serving.Server(self.options.model, self.folder / f"{name}.log", "--max-predict", "4000", *more)

    def attacked(self, name: str, attack: Any) -> None:
        """Start a server, attack it beside a neighbour, and look what is left."""
        with self.start(name) as server:
            server.request("POST", "/completion", {"prompt": "Once upon a time", "n_predict": 300})
            with Neighbour(server) as warm:
                time.sleep(2)
            before, began = resident(server.pid), time.monotonic()
            with Neighbour(server) as neighbour:
                figures = attack(server)
            time.sleep(1)
            after = resident(server.pid)
            self.faults += [f"{name}: {fault}" for fault in (*warm.faults, *neighbour.faults)][:20]
            if after > before * SETTLED + SLACK:
                self.faults.append(f"{name}: resident {before >> 20} -> {after >> 20} MiB")
            if server.request("GET", "/health")[0] != 200 or "Traceback" in server.output():
                self.faults.append(f"{name}: the server is not well:\n{server.output()[-2000:]}")
        tell(
            name, figures, seconds=round(time.monotonic() - began, 1), longest_gap_ms=round(neighbour.longest * 1e3),
            neighbour_events=neighbour.n, resident_mib=f"{before >> 20} -> {after >> 20}",
        )  # fmt: skip

    def requests(self) -> None:
        """Malformed requests of all kinds from eight clients."""
        tests = module("rest/test_malformed.py")

        def attack(server: Any) -> dict[str, Any]:
            made = tests.malformed.Maker(self.options.seed, tests.described_fields(server)).all(self.options.requests)
            faults, seen = tests.attack(server, made)
            self.faults += [f"requests: {fault}" for fault in faults[:20]]
            return {"requests": len(made), "faults": len(faults)} | dict(seen.most_common())

        self.attacked("requests", attack)

    def clients(self) -> None:
        """Clients that come, read, leave in the middle; each whole answer is compared with the one given alone."""
        load = module("soak/load.py")

        def attack(server: Any) -> dict[str, Any]:
            jobs, options = load.requests(self.options.seed), self.options
            alone = asyncio.run(load.one_after_another(server.host, server.port, jobs))
            seconds = 60 * options.minutes
            tally = asyncio.run(load.all_at_once(server.host, server.port, jobs, alone, options.clients, seconds))
            self.faults += [f"clients: {fault}" for fault in (*tally.faults, *tally.errors)][:20]
            return {"clients": options.clients, "whole": tally.whole, "left": tally.left, "errors": dict(tally.errors)}

        self.attacked("clients", attack)

    def slow(self) -> None:
        """Half-sent headers, bodies that trickle, answers that nobody reads; /health is asked meanwhile."""

        def attack(server: Any) -> dict[str, Any]:
            n, worst = self.options.slow, 0.0
            body = json.dumps({"prompt": "Once", "n_predict": 4000, "stream": True, "n_probs": 20}).encode()
            head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            kinds = [b"GET /health HTTP/1.1\r\nX: ", head % 100_000 + b"x", head % len(body) + body, b""]
            with contextlib.ExitStack() as stack:
                for i in range(n):
                    with contextlib.suppress(OSError):
                        sock = stack.enter_context(socket.create_connection((server.host, server.port), timeout=10))
                        sock.sendall(kinds[i % len(kinds)])
                end = time.monotonic() + self.options.slow_seconds
                while time.monotonic() < end:
                    began = time.monotonic()
                    if server.request("GET", "/health")[0] != 200:
                        self.faults.append("slow: /health fails")
                    worst = max(worst, time.monotonic() - began)
                    time.sleep(0.2)
            return {"connections": n, "slowest_health_ms": round(worst * 1e3)}

        self.attacked("slow", attack)

    def kills(self) -> None:
        """kill -9 at random moments under load; the next server starts, and answers the same."""
        rng, answers, longest = random.Random(self.options.seed), set(), 0.0
        for number in range(self.options.kills):
            began = time.monotonic()
            with self.start("kills") as server:
                longest = max(longest, time.monotonic() - began)
                body = {"prompt": "Once upon a time", "n_predict": 16, "seed": 1}
                answers.add(server.request("POST", "/completion", body)[1]["content"])
                with Neighbour(server) as neighbour:
                    time.sleep(rng.random())
                    os.kill(server.pid, signal.SIGKILL)
                    server.process.wait()
                    neighbour.ended.set()
            if len(answers) > 1:
                self.faults.append(f"kills: start {number} answers in another way")
                break
        tell("kills", {"kills": self.options.kills, "slowest_start_s": round(longest, 1)})

    def files(self) -> None:
        """Mutated GGUF files under sanitizers."""
        command = [sys.executable, str(TESTS / "fuzz/run.py"), "--count", str(self.options.files)]
        done = subprocess.run([*command, "--seed", str(self.options.seed)], capture_output=True, text=True, check=False)
        if done.returncode:
            self.faults.append(f"files: {done.stdout[-1000:]}{done.stderr[-3000:]}")
        tell("files", {"files": self.options.files, "said": done.stdout.strip().rpartition("\n")[2]})


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def tell(name: str, figures: dict[str, Any], **more: Any) -> None:
    """A line of figures."""
    print(json.dumps({"part": name} | figures | more), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLAMAKIT_TEST_DATA", "")
    parser.add_argument("--model", default=f"{data}/models/stories260K.gguf" if data else "", help="a small GGUF file")
    parser.add_argument("--parts", default="requests,clients,slow,kills,files")
    for name, default in {"requests": 100_000, "files": 200_000, "clients": 64, "kills": 100, "slow": 1500}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--minutes", type=float, default=5.0, help="of the clients")
    parser.add_argument("--slow-seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not Path(options.model).is_file():
        parser.error("--model names no file: a small GGUF file, or LLAMAKIT_TEST_DATA")
    with tempfile.TemporaryDirectory() as folder:
        attack = Attack(options, Path(folder))
        for part in options.parts.split(","):
            getattr(attack, part)()
    print("\n".join(attack.faults) or "nothing broke")
    return int(bool(attack.faults))


if __name__ == "__main__":
    sys.exit(main())
