"""A driver without a device: it keeps host memory, runs no kernel, and checks how it is used.

Each launch is held against the kernel's own declaration: numbers and kinds of arguments, and places inside
of blocks that are alive. So the host side of GPUs is tested anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from llamakit.backend import DeviceInfo, Memory
from llamakit.gpu.driver import At, Block, Driver, Tape, Traits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamakit.gpu.driver import Argument

DECLARED = re.compile(r"KERNEL void (\w+)\(([^{]*)\)\s*\{")
PARAMETER = re.compile(r"BUF\((const )?\w+, (\w+)\)|const (int|float) (\w+)")


@dataclass
class Parameter:
    """Of a kernel: a buffer that it reads or writes, or a number."""

    name: str
    kind: str  # "read", "write", "int" or "float"


@dataclass
class Launch:
    """A kernel that was run."""

    kernel: str
    n_group: int
    n_item: int
    arguments: tuple[Any, ...]
    parameters: tuple[Parameter, ...]

    def places(self, kind: str) -> list[tuple[str, At]]:
        """The buffers that it reads, or writes, with their names."""
        pairs = zip(self.parameters, self.arguments, strict=True)
        return [(parameter.name, value) for parameter, value in pairs if parameter.kind == kind]


@dataclass(eq=False)
class HostBlock(Block):
    """Memory of the host in place of a device's; `touched`: whether anything was written there."""

    n_bytes: int
    alive: bool = True
    data: Any = None
    touched: bool = False
    host: bool = False

    def free(self) -> None:
        """No use of it is right from now on."""
        self.alive = False


@dataclass
class RecordedTape(Tape):
    """Launches to be made again."""

    driver: RecordingDriver
    launches: list[tuple[Any, int, int, Sequence[Argument]]]

    def play(self) -> None:
        """Make them."""
        self.driver.events.append("tape")
        for launch in self.launches:
            self.driver.launch(*launch)


@dataclass
class RecordingDriver(Driver):
    """`launches`: all kernels that were run, in order; `blocks`: all memory that was given."""

    traits: Traits = field(default_factory=lambda: Traits("cuda", 64, 128, 1 << 30, packed=True))
    info: DeviceInfo = field(default_factory=lambda: DeviceInfo("recorded", "gpu", 1 << 30, 1 << 30))
    launches: list[Launch] = field(default_factory=list)
    blocks: list[HostBlock] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    tape: list[tuple[Any, int, int, Sequence[Argument]]] | None = None
    alive: WeakSet[Block] = field(default_factory=WeakSet)

    def memory(self) -> Memory:
        """A GiB, less what is alive."""
        return Memory(1 << 30, (1 << 30) - sum(block.n_bytes for block in self.blocks if block.alive))

    def allocate(self, n_bytes: int, *, host: bool = False) -> HostBlock:
        """Memory that nobody has written yet."""
        assert 0 < n_bytes <= self.traits.most_bytes, n_bytes
        block = HostBlock(n_bytes, data=np.zeros(n_bytes, np.uint8), host=host)
        self.blocks.append(block)
        self.alive.add(block)
        return block

    def write(self, to: At, data: Any) -> None:
        """Copy in."""
        assert data.flags["C_CONTIGUOUS"]
        block = self._check(to, data.nbytes)
        block.touched = True
        block.data[to.offset : to.offset + data.nbytes] = data.reshape(-1).view(np.uint8)
        self.events.append("write")

    def read(self, place: At, data: Any) -> None:
        """Copy out."""
        block = self._check(place, data.nbytes)
        assert block.touched, "memory is read that nobody wrote"
        data.reshape(-1).view(np.uint8)[:] = block.data[place.offset : place.offset + data.nbytes]
        self.events.append("read")

    def copy(self, source: At, to: At, n_bytes: int) -> None:
        """Copy between places that do not overlap."""
        a, b = self._check(source, n_bytes), self._check(to, n_bytes)
        assert a is not b or abs(source.offset - to.offset) >= n_bytes, "a copy onto itself"
        b.data[to.offset : to.offset + n_bytes] = a.data[source.offset : source.offset + n_bytes]
        b.touched = True

    def zero(self, to: At, n_bytes: int) -> None:
        """Clear."""
        assert to.offset % 4 == n_bytes % 4 == 0
        block = self._check(to, n_bytes)
        block.data[to.offset : to.offset + n_bytes] = 0
        block.touched = True

    def build(self, source: str) -> Any:
        """The kernels that a source declares."""
        self.sources.append(source)
        return {name: _parameters(text) for name, text in DECLARED.findall(source)}

    def kernel(self, module: Any, name: str) -> Any:
        """A kernel's declaration."""
        return name, module[name]

    def launch(self, kernel: Any, n_group: int, n_item: int, arguments: Sequence[Argument]) -> None:
        """Hold the launch against the declaration."""
        if self.tape is not None:
            self.tape.append((kernel, n_group, n_item, arguments))
            return
        name, parameters = kernel
        assert len(arguments) == len(parameters), f"{name}: {len(arguments)} arguments for {len(parameters)}"
        assert 0 < n_group < 1 << 31, f"{name}: {n_group} groups"
        assert 0 < n_item <= 1024, f"{name}: {n_item} items"
        for parameter, value in zip(parameters, arguments, strict=True):
            where = f"{name}, {parameter.name}"
            if parameter.kind in ("int", "float"):
                wanted = int if parameter.kind == "int" else float
                assert type(value) is wanted, f"{where}: {value!r} is no {parameter.kind}"
                assert wanted is float or -(1 << 31) <= value < 1 << 31, f"{where}: {value}"
                continue
            assert isinstance(value, At), f"{where}: {value!r} is not a place"
            block = self._check(value, 1, where)
            block.touched = block.touched or parameter.kind == "write"
        self.launches.append(Launch(name, n_group, n_item, tuple(arguments), tuple(parameters)))
        self.events.append(name)

    def record(self, run: Callable[[], None]) -> Tape:
        """Keep the launches."""
        self.tape = []
        try:
            run()
            return RecordedTape(self, self.tape)
        finally:
            self.tape = None

    def finish(self) -> None:
        """Nothing is under way."""

    def _check(self, place: At, n_bytes: int, where: str = "a copy") -> HostBlock:
        block: Any = place.block
        assert block.alive, f"{where}: its memory was given back"
        assert place.offset >= 0, where
        assert place.offset + n_bytes <= block.n_bytes, f"{where}: {place.offset} + {n_bytes} of {block.n_bytes}"
        return block  # type: ignore[no-any-return]


def _parameters(text: str) -> list[Parameter]:
    """Of a kernel's declaration."""
    found = []
    for const, buffer, kind, name in PARAMETER.findall(text):
        found.append(Parameter(buffer or name, kind or ("read" if const else "write")))
    return found
