"""Load for minutes: memory stays flat, no place is lost, and no answer has anything of another.

LLAMAKIT_SOAK_SECONDS sets how long (300), LLAMAKIT_SOAK_CLIENTS how many clients (64).
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import statistics
import sys
import threading
import time
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("LLAMAKIT_SOAK_SECONDS", "300"))
CLIENTS = int(os.environ.get("LLAMAKIT_SOAK_CLIENTS", "64"))
WARM_UP = 0.3  # share of the time in which pools and caches fill
GROWTH = 1.5  # MiB that resident memory may grow in the rest of the time, by the slope


def _module(path: Path) -> Any:
    """A helper that is not a test: imported by its path, since test folders are no packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


load = _module(HERE / "load.py")


@pytest.fixture
def server(stories260k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # glibc keeps freed memory for each of the 300 threads: some MiB that come slowly and would look like a leak.
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
    serving = _module(HERE.parent / "serving.py")
    with serving.Server(stories260k, tmp_path / "log", "--parallel", "64") as server:
        yield server


class Watch(threading.Thread):
    """Samples (seconds, resident MiB, threads, open files) of a process, one a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.done = Path(f"/proc/{pid}"), threading.Event()
        self.samples: list[tuple[float, float, int, int]] = []

    def run(self) -> None:
        start = time.monotonic()
        while not self.done.wait(1.0):
            self.samples.append((time.monotonic() - start, *self.sample()))

    def sample(self) -> tuple[float, int, int]:
        pages = int((self.folder / "statm").read_text().split()[1])
        counts = [len(list((self.folder / name).iterdir())) for name in ("task", "fd")]
        return pages * os.sysconf("SC_PAGESIZE") / 2**20, counts[0], counts[1]


def slope(points: list[tuple[float, float]]) -> float:
    """Theil-Sen: the median of the slopes of all pairs, which no outlier moves."""
    step = max(1, len(points) // 200)
    pairs = combinations(points[::step], 2)
    return statistics.median((b - d) / (a - c) for (a, b), (c, d) in pairs)


def slots(server: Any) -> list[Any]:
    """The requests that the server works on."""
    status, found = server.request("GET", "/slots")
    assert status == 200
    return list(found)


def idle(server: Any, patience: float = 15.0) -> bool:
    """Whether the server works on nothing, at the latest after so many seconds."""
    end = time.monotonic() + patience
    while slots(server):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def busy_with_one_that_leaves(server: Any) -> bool:
    """Whether a stream shows in /slots while it is read, and no more when its reader has gone."""
    body = b'{"prompt": "Once", "n_predict": 100000, "stream": true, "ignore_eos": true}'
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(
            b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        connection.recv(1000)
        seen = len(slots(server)) == 1
    return seen and idle(server)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
def test_many_clients_that_come_and_go(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = load.requests(seed=1)
    alone = asyncio.run(load.one_after_another(server.host, server.port, jobs))
    assert len(set(alone)) > len(jobs) / 2  # answers that differ, or mixing them up would not show
    assert busy_with_one_that_leaves(server)
    before = Watch(server.pid).sample()
    watch = Watch(server.pid)
    watch.start()
    tally = asyncio.run(load.all_at_once(server.host, server.port, jobs, alone, CLIENTS, SECONDS))
    watch.done.set()
    watch.join()

    settled = [(t, mib) for t, mib, _, _ in watch.samples if t > SECONDS * WARM_UP]
    grown = slope(settled) * SECONDS * (1 - WARM_UP)
    was_idle = idle(server)
    time.sleep(1.0)
    after = Watch(server.pid).sample()
    with capsys.disabled():
        print(
            f"\n{CLIENTS} clients, {SECONDS:.0f} s: {tally.whole} whole answers, {tally.left} left early, "
            f"{tally.events / SECONDS:.0f} events/s; resident {settled[0][1]:.1f} -> {settled[-1][1]:.1f} MiB after "
            f"the warm-up (slope {grown:+.2f} MiB), {before[0]:.1f} before, {after[0]:.1f} after; "
            f"threads {before[1]} -> {after[1]}, files {before[2]} -> {after[2]}"
        )
    assert tally.faults == []
    assert dict(tally.errors) == {}
    assert tally.whole > SECONDS
    assert was_idle, "a slot is busy with nobody there"
    assert grown < GROWTH
    assert after[1] <= before[1] + 300, "threads are left behind"  # a pool's threads stay, and are bounded
    assert after[2] <= before[2] + 8, "files are left open"
    assert asyncio.run(load.one_after_another(server.host, server.port, jobs)) == alone
    assert "Traceback" not in server.output()


def test_the_slope_is_found() -> None:
    assert slope([(float(t), 100 + t * 0.5 + (40 if t == 7 else 0)) for t in range(50)]) == pytest.approx(0.5)
