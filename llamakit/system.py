"""What this machine is: processor, memory. Linux-only sources are guarded; elsewhere less is known."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

UNKNOWN_MEMORY = 8 << 30  # assumed free where the system does not say
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # of glibc's mallopt
NEVER = 1 << 30  # times that the youngest but one are looked at before all are
MOST_KEPT = 2 << 20  # bytes of freed memory at the end of such a place, and of what is taken from it

MOST_WALKED = 250_000  # objects that the garbage collector looks at while somebody waits: 25 to 200 ms


def _read(path: str) -> str:
    """The text of a file, "" where it cannot be read.

    Not as a file of text: each one leaves a name in Python's cache of methods for as long as the process runs, which
    holds a mebibyte of its allocator where that is otherwise free.
    """
    try:
        return Path(path).read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _meminfo(key: str) -> int:
    """A line of /proc/meminfo, in bytes; 0 where there is none."""
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def total_memory() -> int:
    """Bytes of memory of this machine, 0 if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def free_memory() -> int:
    """Bytes of memory that a program may still take."""
    return _meminfo("MemAvailable") or total_memory() or UNKNOWN_MEMORY


def huge_pages() -> str:
    """The system's setting for transparent huge pages: always, madvise, never, or ""."""
    text = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    return text[text.find("[") + 1 : text.find("]")] if "[" in text else ""


def huge_bytes() -> int:
    """Bytes of this process's own memory that lie in huge pages; 0 where the system does not say."""
    for line in _read("/proc/self/smaps_rollup").splitlines():
        if line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_name() -> str:
    """The processor's name."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Instruction sets that matter to the kernels, by the names that people use."""
    names = {
        "avx2": "AVX2",
        "fma": "FMA", "f16c": "F16C", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16",
        "avx_vnni": "AVX-VNNI", "asimddp": "DOTPROD", "i8mm": "I8MM",
    }  # fmt: skip
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            present = set(line.split(":", 1)[1].split())
            return [label for flag, label in names.items() if flag in present]
    return []


def cores() -> list[int]:
    """Numbers of the processors that this process may use."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:
        return list(range(os.cpu_count() or 1))


def cpu_count() -> int:
    """How many processors this process may use."""
    return len(cores())


def keep_little(n: int = 2) -> bool:
    """Have the C library keep freed memory in `n` places rather than in eight a processor, and little of it.

    Threads that answer requests get a place each otherwise, and each keeps what the largest request left in it. And
    the first large one that is freed would raise both limits: as large ones would come from these places from then on,
    and twice as much would stay at their ends, where `give_back_memory` gives nothing back. False where there are no
    such settings.
    """
    import ctypes

    settings = {ARENA_MAX: n, TRIM_THRESHOLD: MOST_KEPT, MMAP_THRESHOLD: MOST_KEPT}
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no CDLL(None)
        mallopt = ctypes.CDLL(None).mallopt
        return all(mallopt(name, value) for name, value in settings.items())
    return False


def collect_when_asked() -> None:
    """Have the garbage collector look at all objects only when `give_back_memory` asks it to.

    Nothing else runs meanwhile: whoever makes a million objects had others wait for 300 ms, again and again. What there
    is by now is not looked at any more, so there should be nothing yet that refers to itself and is to go, such as a
    session.
    """
    import gc

    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], NEVER)


def give_back_memory(*, somebody_waits: bool = False) -> bool:
    """Give memory that was freed back to the system; whether there was any.

    What refers to itself is looked for first, among all objects, which takes 0.1 to 0.8 ms for each thousand. Where
    `somebody_waits`, that is left for another time if there are more than `MOST_WALKED`.
    """
    import ctypes
    import gc

    if not somebody_waits or len(gc.get_objects()) <= MOST_WALKED:
        gc.collect()
    with suppress(OSError, AttributeError, TypeError):
        return bool(ctypes.CDLL(None).malloc_trim(0))
    return False
