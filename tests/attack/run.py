"""The long attack on a server and on the reader of files, on loopback only: `make attack`.

    python tests/attack/run.py --model stories260K.gguf --requests 100000 --files 200000 --minutes 5 --kills 100

Each part prints a line of figures and what broke; the exit code is 1 if anything did. A neighbour reads an endless
stream all the while, and the longest silence that it saw is told: by the clock, beside what it saw before the attack,
and how much of the processor the server used meanwhile, which does not depend on what else the machine does. Resident
memory is compared once caches are full: after 64 answers at once and a small attack of the same kind.
Parts: requests, large, costly, clients, wide, slow, public, kills, files, readers.
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
from collections import Counter
from pathlib import Path
from typing import Any

from llamakit import embedded

TESTS = Path(__file__).parents[1]
SETTLED = 1.10  # resident memory afterwards, as a share of that before
SILENCE = 0.25  # seconds of the processor that the server may use between two events of the neighbour
KEY = "a-key-of-the-attack"
CALM_SECONDS = 75.0  # until threads that are not needed have ended
LATE = 20.0  # seconds after which the server has ended connections that are too slow


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
    """Reads one stream after another; `longest`: seconds between two events of one, `used`: of the processor, by the
    server, between two of them; `n`: events."""

    def __init__(self, server: Any) -> None:
        super().__init__(daemon=True)
        self.server, self.ended = server, threading.Event()
        self.longest, self.used, self.n, self.faults = 0.0, 0.0, 0, []

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
                last = (0.0, 0.0)
                while not self.ended.is_set() and response.read1(1 << 16):
                    now = (time.monotonic(), processor_seconds(self.server.pid))
                    if last[0]:
                        self.longest, self.used = max(self.longest, now[0] - last[0]), max(self.used, now[1] - last[1])
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

    def start(self, name: str, *more: str, model: Path | None = None) -> Any:
        """A server of its own for a part."""
        log = self.folder / f"{name}.log"
        return self.serving.Server(model or self.options.model, log, "--max-predict", "4000", *more)

    def attacked(self, name: str, attack: Any, model: Path | None = None) -> None:
        """Start a server, attack it beside a neighbour, and look what is left. `attack(server, share of it)`."""
        with self.start(name, model=model) as server:
            fill(server)
            attack(server, 0.05)
            before, began = settled(server.pid), time.monotonic()
            with Neighbour(server) as alone:
                time.sleep(5)
            with Neighbour(server) as neighbour:
                figures = attack(server, 1.0)
            seconds, after = time.monotonic() - began, settled(server.pid)
            self.faults += [f"{name}: {fault}" for fault in (*alone.faults, *neighbour.faults)][:20]
            if after > before * SETTLED:
                self.faults.append(f"{name}: resident {before >> 20} -> {after >> 20} MiB")
            if neighbour.used > SILENCE:
                self.faults.append(f"{name}: {neighbour.used:.2f} s of the processor between two events of a neighbour")
            if server.request("GET", "/health")[0] != 200 or "Traceback" in server.output():
                self.faults.append(f"{name}: the server is not well:\n{server.output()[-2000:]}")
        tell(
            name, figures, seconds=round(seconds, 1), longest_gap_ms=round(neighbour.longest * 1e3),
            of_the_processor_ms=round(neighbour.used * 1e3), before_the_attack_ms=round(alone.longest * 1e3),
            neighbour_events=neighbour.n, resident_mib=f"{before >> 20} -> {after >> 20}",
        )  # fmt: skip

    def requests(self) -> None:
        """Malformed requests of all kinds from eight clients."""
        tests = module("rest/test_malformed.py")

        def attack(server: Any, share: float) -> dict[str, Any]:
            n = round(self.options.requests * share)
            made = tests.malformed.Maker(self.options.seed, tests.described_fields(server)).all(n)
            faults, seen = tests.attack(server, made)
            self.faults += [f"requests: {fault}" for fault in faults[:20]]
            return {"requests": len(made), "faults": len(faults)} | dict(seen.most_common())

        self.attacked("requests", attack)

    def large(self) -> None:
        """Requests of megabytes, on all APIs, from eight clients: refused, and nothing of them stays."""
        text = "Once upon a time there was a girl. " * 60_000

        def attack(server: Any, share: float) -> dict[str, Any]:
            bias = [[i % 500, 1.0] for i in range(100_000)]
            bodies = [
                ("/completion", {"prompt": text, "n_predict": 1}), ("/v1/embeddings", {"input": [text, text]}),
                ("/completion", {"prompt": "a", "n_predict": 1, "logit_bias": bias}),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 1}),
                ("/tokenize", {"content": text[:100_000], "with_pieces": True}),
                ("/v1/completions", {"prompt": [5] * 400_000}),
            ]  # fmt: skip
            sent = [(path, json.dumps(body).encode()) for path, body in bodies]  # or the neighbour would wait for that
            n, seen = round(self.options.large * share), Counter[int]()

            def client(first: int) -> None:
                for i in range(first, n, 8):
                    with contextlib.suppress(OSError):  # it refused before all was sent
                        seen[server.request("POST", *sent[i % len(sent)])[0]] += 1

            threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if any(status >= 500 and status != 503 for status in seen):
                self.faults.append(f"large: {dict(seen)}")
            return {"requests": n} | {str(status): count for status, count in seen.most_common()}

        self.attacked("large", attack)

    def costly(self) -> None:
        """One after another what single requests can ask for, each `--tries` times: the best and the worst of them."""
        attacks = module("attack/costly.py").ATTACKS
        with self.start("costly") as server:
            fill(server)
            for name, (path, make) in attacks.items():
                body = make()
                answer(server, path, body)  # what is made once is made here
                before, gaps, used, seen = settled(server.pid), list[float](), list[float](), set[int]()
                for _ in range(self.options.tries):
                    with Neighbour(server) as neighbour:
                        while neighbour.n < 50 and not neighbour.faults:
                            time.sleep(0.05)
                        neighbour.longest = neighbour.used = 0.0
                        seen.add(answer(server, path, body))
                        time.sleep(0.5)
                    gaps.append(neighbour.longest)
                    used.append(neighbour.used)
                    self.faults += [f"costly, {name}: {fault}" for fault in neighbour.faults]
                after = settled(server.pid)
                if after > before * SETTLED:
                    self.faults.append(f"costly, {name}: resident {before >> 20} -> {after >> 20} MiB")
                if min(used) > SILENCE or any(status >= 500 and status != 503 for status in seen):
                    self.faults.append(f"costly, {name}: {min(used):.2f} s of the processor, status {seen}")
                tell(
                    "costly", {"asked": name, "status": sorted(seen)}, gap_ms=of_all(gaps),
                    of_the_processor_ms=of_all(used), resident_mib=f"{before >> 20} -> {after >> 20}",
                )  # fmt: skip

    def clients(self) -> None:
        """Clients that come, read, leave in the middle; each whole answer is compared with the one given alone."""
        load = module("soak/load.py")

        def attack(server: Any, share: float) -> dict[str, Any]:
            jobs, options = load.requests(self.options.seed), self.options
            alone = asyncio.run(load.one_after_another(server.host, server.port, jobs))
            seconds = max(5.0, 60 * options.minutes * share)
            tally = asyncio.run(load.all_at_once(server.host, server.port, jobs, alone, options.clients, seconds))
            self.faults += [f"clients: {fault}" for fault in (*tally.faults, *tally.errors)][:20]
            return {"clients": options.clients, "whole": tally.whole, "left": tally.left, "errors": dict(tally.errors)}

        self.attacked("clients", attack)

    def wide(self) -> None:
        """Streams with 1,000 probabilities a token, of a model that has so many: 64 are read, then 150 are not."""
        command = [sys.executable, str(TESTS / "attack/wide.py")]

        def attack(server: Any, share: float) -> dict[str, Any]:
            seconds = str(max(LATE, self.options.slow_seconds * share))
            address = [server.host, str(server.port)]
            done = subprocess.run([*command, *address, "63", seconds], capture_output=True, text=True, check=True)
            seen = json.loads(done.stdout)
            if set(seen) != {"HTTP/1.1 200 whole"}:
                self.faults.append(f"wide: {seen}")
            worst = 0.0
            with subprocess.Popen([*command, *address, "150", seconds, "--unread"]) as unread:
                while unread.poll() is None:
                    began = time.monotonic()
                    if server.request("POST", "/completion", {"prompt": "Hi", "n_predict": 4})[0] != 200:
                        self.faults.append("wide: a short request beside unread streams fails")
                    worst = max(worst, time.monotonic() - began)
                    time.sleep(0.2)
            return {"whole": sum(seen.values()), "slowest_request_beside_unread_ms": round(worst * 1e3)}

        self.attacked("wide", attack, embedded.FILE)

    def slow(self) -> None:
        """Half-sent headers, bodies that trickle, answers that nobody reads; /health is asked meanwhile."""

        def attack(server: Any, share: float) -> dict[str, Any]:
            n, worst = round(self.options.slow * share), 0.0
            body = json.dumps({"prompt": "Once", "n_predict": 4000, "stream": True, "n_probs": 20}).encode()
            head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            kinds = [b"GET /health HTTP/1.1\r\nX: ", head % 100_000 + b"x", head % len(body) + body, b""]
            with contextlib.ExitStack() as stack:
                for i in range(n):
                    with contextlib.suppress(OSError):
                        sock = stack.enter_context(socket.create_connection((server.host, server.port), timeout=10))
                        sock.sendall(kinds[i % len(kinds)])
                end = time.monotonic() + max(LATE, self.options.slow_seconds * share)
                while time.monotonic() < end:
                    began = time.monotonic()
                    if server.request("GET", "/health")[0] != 200:
                        self.faults.append("slow: /health fails")
                    worst = max(worst, time.monotonic() - began)
                    time.sleep(0.2)
            return {"connections": n, "slowest_health_ms": round(worst * 1e3)}

        self.attacked("slow", attack)

    def public(self) -> None:
        """A server that others can reach, without a key and with one."""
        attack, paths = module("attack/public.py"), module("rest/malformed.py").PATHS
        port = self.serving.free_port()
        wrong = attack.refuses(self.options.model, port, self.serving.environment())
        faults = [wrong] if wrong else []
        with self.start("public", "--host", attack.ANY, "--insecure-no-key") as server:
            found, seen = attack.open_to_all(server, paths)
        faults += found
        with self.start("keys", "--host", attack.ANY, "--api-key", KEY) as server:
            found, without = attack.with_a_key(server, KEY)
        faults += found
        self.faults += [f"public: {fault}" for fault in faults[:20]]
        tell("public", {"faults": len(faults)}, strange_names=dict(seen), without_a_key=dict(without))

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

    def readers(self) -> None:
        """Spoilt adapters, checkpoints, sessions, data, settings and more, for each reader of them."""
        fuzz = module("fuzz/readers.py")
        readers, work = fuzz.Readers(self.folder), self.folder / "work"
        work.mkdir()
        for name, reader in readers.all().items():
            accepted, faults = fuzz.attack(reader, work, self.options.each, self.options.seed)
            self.faults += [f"readers, {name}: {fault}" for fault in faults[:5]]
            tell("readers", {"of": name, "files": self.options.each, "accepted": accepted, "faults": len(faults)})
        readers.close()


def answer(server: Any, path: str, body: bytes) -> int:
    """The status of the answer to a body."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=300)
    with contextlib.closing(connection):
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            response.read()
            return response.status


def of_all(seconds: list[float]) -> list[int]:
    """Milliseconds of the best and of the worst."""
    return [round(min(seconds) * 1e3), round(max(seconds) * 1e3)]


def fill(server: Any) -> None:
    """Have every place and nearly all of the cache of keys and values used once: it is in memory from then on."""

    n_ctx = server.request("GET", "/props")[1]["n_ctx"]

    def ask(number: int) -> None:
        body = {"prompt": [1, *(5 + (number + i) % 400 for i in range(n_ctx - 20))], "n_predict": 8, "ignore_eos": True}
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.request("POST", "/completion", body)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(96)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def settled(pid: int) -> int:
    """Bytes of a process in memory, once the threads that it does not need have ended."""
    end = time.monotonic() + CALM_SECONDS
    while len(os.listdir(f"/proc/{pid}/task")) > 20 and time.monotonic() < end:  # noqa: PTH208
        time.sleep(0.5)
    time.sleep(2)  # freed memory is given back every second
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def processor_seconds(pid: int) -> float:
    """Of all threads of a process so far."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock of a process, as clock_getcpuclockid makes it


def tell(name: str, figures: dict[str, Any], **more: Any) -> None:
    """A line of figures."""
    print(json.dumps({"part": name} | figures | more), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("LLAMAKIT_TEST_DATA", "")
    parser.add_argument("--model", default=f"{data}/models/stories260K.gguf" if data else "", help="a small GGUF file")
    parser.add_argument("--parts", default="requests,large,costly,clients,wide,slow,public,kills,files,readers")
    counts = {"requests": 100_000, "large": 1000, "files": 200_000, "clients": 64, "kills": 100, "slow": 1500}
    for name, default in (counts | {"each": 2000}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tries", type=int, default=3, help="of each costly request")
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
