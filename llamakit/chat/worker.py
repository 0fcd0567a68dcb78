"""The other side of `worker_pool`: a process that compiles and renders the chat templates of model files.

It gets requests on standard input and answers on standard output, each a length (8 bytes) and so many bytes. A
request is JSON, {"source", "values"} (without values it only compiles); an answer is two bytes and a text: `+` or `-`,
then `x` where the process has taken much memory and is better replaced. Templates come from strangers: the process may
take so many seconds of the processor for each request as its argument says, and a bounded amount of memory, opens no
file, starts no process, and knows nothing of the environment that LlamaKit was started in.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import BinaryIO

from llamakit.chat.rendering import Refusal, Rendering

MEMORY = 640 << 20  # beyond what the process takes at its start
KEPT = 16  # compiled templates
RETIRE = 256 << 20  # bytes of memory after which the process is better replaced


def main() -> None:
    """Answer requests until standard input ends."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a template does writes among the answers
    _limit()
    seconds = float(sys.argv[1])
    kept: OrderedDict[str, Rendering] = OrderedDict()
    write(sink, b"+.")
    while (request := read(source)) is not None:
        with _hurried(seconds):
            sign, text = _answer(json.loads(request), kept)
        write(sink, sign + (b"x" if _peak() > RETIRE else b".") + text)


def _answer(request: dict[str, object], kept: OrderedDict[str, Rendering]) -> tuple[bytes, bytes]:
    try:
        source, values = str(request["source"]), request.get("values")
        rendering = kept.pop(source, None) or Rendering(source)
        kept[source] = rendering
        if len(kept) > KEPT:
            kept.popitem(last=False)
        text = rendering.render(values) if isinstance(values, dict) else ""
        return b"+", text.encode("utf-8", "surrogatepass")
    except Refusal as refusal:
        return b"-", str(refusal).encode("utf-8", "replace")


def read(source: BinaryIO) -> bytes | None:
    """The next message; None at the end."""
    head = source.read(8)
    return source.read(int.from_bytes(head, "little")) if len(head) == 8 else None


def write(sink: BinaryIO, message: bytes) -> None:
    """Send a message."""
    sink.write(len(message).to_bytes(8, "little") + message)
    sink.flush()


@contextlib.contextmanager
def _hurried(seconds: float) -> Iterator[None]:
    """The system ends the process if a request takes more of the processor than it may."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)


def _limit() -> None:
    """Bound what the process can take. Where the system has no such limits, the parent's clock is what is left."""
    try:
        import resource
    except ImportError:
        return
    taken = 0
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:  # noqa: PTH123 - as early as it gets
        taken = int(file.read().split()[0]) * resource.getpagesize()
    limits = {"CORE": 0, "FSIZE": 0, "NPROC": 0, "NOFILE": 16}
    if taken:
        limits["AS"] = taken + MEMORY
    for name, value in limits.items():
        with contextlib.suppress(OSError, ValueError, AttributeError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _peak() -> int:
    """Bytes of memory that this program ever took; 0 where the system does not say.

    Linux counts in `ru_maxrss` what the parent took before this program was started in its place, so a server with a
    large model would replace its processes after each answer; the `VmHWM` of /proc is of this program alone.
    """
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status", "rb") as file:  # noqa: PTH123 - as above
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
