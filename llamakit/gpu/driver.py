"""What a plugin brings for its devices: memory, modules, launches, copies. All else is shared.

Work is done in the order in which it was asked for, as on one stream; `read` and `finish` wait for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from llamakit.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from llamakit.backend import DeviceInfo, Memory
    from llamakit.gpu.compiled import CompiledKernels
    from llamakit.gpu.tuning import Shape


GIVEN_BACK = "memory of the device is used that was given back: it went with a device that was lost"


class Block(ABC):
    """Memory of a device; it is given back when nothing refers to it any more, or by `free`."""

    n_bytes: int

    @abstractmethod
    def free(self) -> None:
        """Give it back now."""


class At(NamedTuple):
    """A place in a block of memory, in bytes from its beginning."""

    block: Block
    offset: int = 0

    def plus(self, n_bytes: int) -> At:
        """A place further on."""
        return At(self.block, self.offset + n_bytes)


Argument = At | int | float  # a buffer and its offset (64 bits), an int of 32 bits, a float of 32


@dataclass(frozen=True, slots=True)
class Traits:
    """How kernels are shaped for a device.

    `language`: which prelude they get. `lanes`: items that work on a row of a weight together, a power of two; 1 where
    items are best left alone, as on CPUs. `items`: of a group whose items have nothing to do with one another.
    `most_bytes`: the largest block of memory that it gives. `options`: for the compiler.
    `cache_on_host`: whether keys and values stay in main memory. `packed`: whether weights lie in panels, as GPUs like
    them (`packed.py`), or as in the file.
    """

    language: str
    lanes: int
    items: int
    most_bytes: int
    options: tuple[str, ...] = ()
    cache_on_host: bool = False
    packed: bool = False


class Feature(StrEnum):
    """What a driver may have beside what all have. Each is tried before it is used: see selftest.py."""

    GROUPS = "kernels for GPUs"
    TAPES = "recorded steps"
    PRODUCTS = "products of the library"


class Tape(ABC):
    """Launches that were recorded: see `Driver.record`."""

    @abstractmethod
    def play(self) -> None:
        """Do all of it, in order."""

    def close(self) -> None:
        """Give back what it holds."""


class Driver(ABC):
    """One device. Every method may raise BackendError, `allocate` OutOfMemoryError, and all DeviceLostError.

    `alive`: the blocks that were allocated and are still there; `allocate` puts each new one in. `compiled`: what it
    keeps on disk. `features`: those that are tried before they are used. `shapes`: how kernels may be shaped, of which
    the quickest is measured; `tuned`: whether that was done. `without_groups`: whether kernels for GPUs were found
    wrong, so that those for processors run. `shares`: whether it uses the
    host's memory as its own, so that `share` is worth trying; `share_tried`: whether that was done.
    """

    info: DeviceInfo
    traits: Traits
    alive: WeakSet[Block]
    compiled: CompiledKernels | None = None
    features: frozenset[Feature] = frozenset()
    shapes: tuple[Shape, ...] = ()
    tuned: bool = False
    without_groups: bool = False
    shares: bool = False
    share_tried: bool = False

    @cached_property
    def tried(self) -> set[Feature]:
        """Those of `features` of which it is settled whether they are used."""
        return set()

    def switch_off(self, feature: Feature) -> None:
        """Do without a feature from now on."""

    def identity(self) -> tuple[str, ...]:
        """All that decides how it does what it is asked for: the device and the versions of what drives it."""
        return (self.info.name, *self.info.details)

    @abstractmethod
    def memory(self) -> Memory:
        """What the device has."""

    @abstractmethod
    def allocate(self, n_bytes: int, *, host: bool = False) -> Block:
        """New memory; what is in it means nothing. `host`: of the host's main memory, which the device reads across."""

    def share(self, data: npt.NDArray[np.uint8]) -> Block | None:
        """Contiguous memory of the host as a block that is only read, in place. None: the device has memory of its own.

        The block keeps `data`, which the caller must not change any more.
        """
        return None

    @abstractmethod
    def write(self, to: At, data: npt.NDArray[Any]) -> None:
        """Copy contiguous host memory to the device; `data` may be changed as soon as this returns."""

    @abstractmethod
    def read(self, place: At, data: npt.NDArray[Any]) -> None:
        """Fill contiguous host memory from the device, when all that was asked for before is done."""

    @abstractmethod
    def copy(self, source: At, to: At, n_bytes: int) -> None:
        """Copy on the device, between places that do not overlap."""

    def reaches(self, other: Driver) -> bool:
        """Whether `fetch` copies from another device."""
        return False

    def fetch(self, other: Driver, source: At, to: At, n_bytes: int) -> None:
        """Copy from another device that it reaches, when that has done all that it was asked for before.

        What the other is asked for from now on waits for the copy, so that it may use the memory again.
        """
        raise NotImplementedError

    @abstractmethod
    def zero(self, to: At, n_bytes: int) -> None:
        """Set bytes to 0; offsets and sizes are multiples of 4."""

    @abstractmethod
    def build(self, source: str) -> Any:
        """Compile a module, or find it compiled. BackendError names what the compiler did not like."""

    @abstractmethod
    def kernel(self, module: Any, name: str) -> Any:
        """A kernel of a module."""

    def most_items(self, kernel: Any) -> int:
        """Items that a group of a kernel may have."""
        return 1024

    def multiplies(self, shape: tuple[int, int, int]) -> bool:
        """Whether the driver has a library for products of matrices of `shape` (m, n, k): see `multiply`."""
        return False

    def multiply(
        self, a: At, b: At, c: At, shape: tuple[int, int, int], steps: tuple[int, int, int, int, int], *, add: bool
    ) -> bool:
        """c (+)= a b in float32 as matmul.cl has it, if the driver has a library for that; False: it does nothing."""
        return False

    @abstractmethod
    def launch(self, kernel: Any, n_group: int, n_item: int, arguments: Sequence[Argument]) -> None:
        """Run a kernel with `n_group` groups of `n_item` items."""

    def record(self, run: Callable[[], None]) -> Tape | None:
        """What `run` launches and copies on the device, to be played any number of times; nothing is done yet.

        `run` is called for it, with `launch` keeping what it is given. None: this driver cannot, or not all of that.
        """
        return None

    @abstractmethod
    def finish(self) -> None:
        """Wait until all that was asked for is done."""

    def describe(self) -> dict[str, str]:
        """What is in use, for people."""
        return {}

    def free_all(self) -> None:
        """Give all blocks back, whoever still refers to them: nobody may use one of them from now on."""
        for block in list(self.alive):
            block.free()
        self.alive.clear()

    def reopen(self) -> None:
        """After a loss, and after `free_all`: be usable again, with nothing of what there was."""

    def close(self) -> None:
        """Give everything back."""


def does_not_fit(name: str, needed: int, memory: Memory, what: str = "", hint: str = "") -> OutOfMemoryError:
    """The error of a device `name` that has no room for `needed` more bytes; `what` they are for."""
    return OutOfMemoryError(
        f"{name}: {needed / 2**20:,.1f} MiB more are needed{f' for {what}' if what else ''}",
        found=f"{memory.free / 2**20:,.1f} of {memory.total / 2**20:,.1f} MiB are free",
        hint=hint or "fewer layers on this device (-ngl, --split), a smaller --ctx-size, or --kv-type q8_0",
    )
