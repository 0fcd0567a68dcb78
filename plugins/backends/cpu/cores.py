"""On which cores the threads of a pool stay."""

from __future__ import annotations

from itertools import chain, zip_longest
from pathlib import Path

from llamakit import system
from llamakit.errors import UsageError

NODES = Path("/sys/devices/system/node")


def parse_cores(text: str) -> list[int]:
    """Cores from a list such as "0-3,8", in its order. UsageError for what is not a list, or names a core not there."""
    cores: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"backend.cpu.affinity is {text!r}: {part!r} is not a core", hint="a list such as 0-7,16")
        begin, end = int(first), int(last or first)
        usable = system.cores()
        if end < begin or begin not in usable or end not in usable:
            raise UsageError(
                f"backend.cpu.affinity is {text!r}: {part!r} is not of the cores that this process may use",
                found=show_cores(usable),
            )
        cores += [core for core in range(begin, end + 1) if core in usable]
    return cores


def show_cores(cores: list[int]) -> str:
    """Cores as a list with ranges."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and core == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], core]
        else:
            parts.append([core])
    return ",".join("-".join(str(core) for core in part) for part in parts)


def over_nodes(nodes: Path = NODES) -> list[int]:
    """The usable cores, one of each memory node in turn."""
    usable = system.cores()
    lists = [path.read_text() for path in sorted(nodes.glob("node[0-9]*/cpulist"))]
    by_node = [[core for core in _listed(text) if core in usable] for text in lists] or [usable]
    return [core for core in chain.from_iterable(zip_longest(*by_node)) if core is not None]


def _listed(text: str) -> list[int]:
    """Cores as the kernel lists them."""
    ranges = [part.split("-") for part in text.strip().split(",") if part]
    return [core for part in ranges for core in range(int(part[0]), int(part[-1]) + 1)]
