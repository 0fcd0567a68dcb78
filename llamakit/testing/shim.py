"""GPU kernels on the host: their very text, built by the host's C++ compiler, with items as fibres in shuffled order.

`ShimDriver` is a driver like those of devices, so that `GPUDevice(ShimDriver())` does all that a GPU does, slowly. With
`sanitize`, kernels are built for ASan and UBSan; the process then needs their library from its beginning (`preload`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, finalize

from llamakit.backend import DeviceInfo, Memory
from llamakit.errors import BackendError, DeviceLostError
from llamakit.gpu.driver import GIVEN_BACK, At, Block, Driver, Traits, does_not_fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.gpu.driver import Argument

GARBAGE = 0xFF  # of new memory: as floats these are not numbers
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wno-unused-parameter", "-Wno-unused-function", "-Werror")
MORE_WARNINGS = ("-Wsign-compare", "-Wfloat-conversion", "-Wshift-overflow=2", "-Wduplicated-cond", "-Wlogical-op")
OPTIONS = ("-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-ffp-contract=off")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
DECLARED = re.compile(r'extern "C"\s+void (\w+)\(')
ROOM = 256  # for what is wrong


def compiler() -> str | None:
    """The host's C++ compiler, if there is one."""
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


def preload() -> dict[str, str]:
    """The environment of a process in which sanitized kernels can run."""
    library = _compiled(compiler() or "c++", "-print-file-name=libasan.so").strip()
    return {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


@cache
def libc() -> Any:
    """malloc and free: memory from there has red zones around it under a sanitizer."""
    found = ctypes.CDLL(None)
    found.malloc.restype, found.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    found.free.argtypes = [ctypes.c_void_p]
    return found


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="llamakit-shim-", ignore_cleanup_errors=True)


@cache
def build(source: str, sanitize: bool = False) -> Any:
    """The library of a module's source, with prelude_host.h in it. BackendError: it does not compile."""
    found = compiler()
    if found is None:
        raise BackendError("there is no C++ compiler on this host")
    fibres = Path(__file__).with_name("fibres.h").read_text(encoding="utf-8")
    path = Path(_folder().name) / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}{'-s' if sanitize else ''}.cpp"
    path.write_text(source, encoding="utf-8")
    kernels = DECLARED.findall(_compiled(found, "-E", "-P", str(path)))  # those that are there after all #ifs
    runs = "".join(f"FIBRES_RUN({name})\n" for name in kernels)
    path.write_text(f"{fibres}\n#line 1\n{source}\n{runs}", encoding="utf-8")
    options = [*OPTIONS, *WARNINGS, *(SANITIZERS if sanitize else ())]
    _compiled(found, *options, "-o", str(path.with_suffix(".so")), str(path))
    return ctypes.CDLL(str(path.with_suffix(".so")))


def warnings_of(source: str) -> str:
    """What the host's compiler warns of in a module's source; nothing where all is well."""
    fibres = Path(__file__).with_name("fibres.h").read_text(encoding="utf-8")
    command = [compiler() or "c++", "-std=c++17", "-fsyntax-only", *WARNINGS, *MORE_WARNINGS, "-x", "c++", "-"]
    made = subprocess.run(command, input=f"{fibres}\n#line 1\n{source}", capture_output=True, text=True, check=False)
    return made.stderr


def _compiled(*command: str) -> str:
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise BackendError("the host's compiler does not compile a kernel", found=made.stderr[-4000:])
    return made.stdout


def run(library: Any, name: str, n_group: int, n_item: int, values: Sequence[Any], seed: int) -> None:
    """Run a kernel with these arguments, of the types of ctypes. BackendError: its items do not keep together."""
    places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    wrong = ctypes.create_string_buffer(ROOM)
    if getattr(library, f"run_{name}")(n_group, n_item, places, ctypes.c_uint(seed), wrong, ROOM):
        raise BackendError(f"kernel {name}: {wrong.value.decode()}")


class ShimBlock(Block):
    """Memory of the host."""

    def __init__(self, driver: ShimDriver, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._address = libc().malloc(n_bytes)
        ctypes.memset(self._address, GARBAGE, n_bytes)
        driver.used += n_bytes
        self._gone = finalize(self, driver.give_back, self._address, n_bytes)
        driver.alive.add(self)

    def place(self, offset: int, n_bytes: int = 0) -> int:
        """An address in it."""
        if not self._gone.alive:
            raise DeviceLostError(GIVEN_BACK)
        assert 0 <= offset <= self.n_bytes - n_bytes, f"{offset} + {n_bytes} of {self.n_bytes} bytes"
        return int(self._address) + offset

    def free(self) -> None:
        """Give it back, once."""
        self._gone()


class ShimDriver(Driver):
    """The host as a device. `most`: bytes that it has; `used`, `peak`: that are and were in use."""

    def __init__(
        self,
        lanes: int = 1,
        items: int = 16,
        *,
        most: int = 1 << 30,
        sanitize: bool = False,
        packed: bool = False,
    ) -> None:
        self.info = DeviceInfo("host", "cpu", most, most)
        self.traits = Traits("host", lanes, items, most, packed=packed)
        self.alive, self.sanitize, self.used, self.peak, self.n_launch = WeakSet(), sanitize, 0, 0, 0

    def memory(self) -> Memory:
        """What may be used."""
        return Memory(self.info.memory, self.info.memory - self.used)

    def allocate(self, n_bytes: int, *, host: bool = False) -> ShimBlock:
        """Garbage."""
        if n_bytes > self.memory().free:
            raise does_not_fit(self.info.name, n_bytes, self.memory())
        made = ShimBlock(self, n_bytes)
        self.peak = max(self.peak, self.used)
        return made

    def give_back(self, address: int, n_bytes: int) -> None:
        """Free memory."""
        self.used -= n_bytes
        libc().free(address)

    def write(self, to: At, data: Any) -> None:
        """Copy in."""
        ctypes.memmove(_place(to, data.nbytes), data.ctypes.data, data.nbytes)

    def read(self, place: At, data: Any) -> None:
        """Copy out."""
        ctypes.memmove(data.ctypes.data, _place(place, data.nbytes), data.nbytes)

    def copy(self, source: At, to: At, n_bytes: int) -> None:
        """Copy."""
        ctypes.memmove(_place(to, n_bytes), _place(source, n_bytes), n_bytes)

    def zero(self, to: At, n_bytes: int) -> None:
        """Clear."""
        ctypes.memset(_place(to, n_bytes), 0, n_bytes)

    def build(self, source: str) -> Any:
        """Compile."""
        return build(source, self.sanitize)

    def kernel(self, module: Any, name: str) -> Any:
        """A kernel is its library and its name."""
        return module, name

    def launch(self, kernel: Any, n_group: int, n_item: int, arguments: Sequence[Argument]) -> None:
        """Run it at once; each launch has an order of its own."""
        self.n_launch += 1
        values: list[Any] = []
        for each in arguments:
            if isinstance(each, At):
                values += (ctypes.c_void_p(_place(At(each.block))), ctypes.c_int64(each.offset))
            else:
                values.append(ctypes.c_float(each) if isinstance(each, float) else ctypes.c_int32(each))
        library, name = kernel
        run(library, name, n_group, n_item, values, self.n_launch)

    def finish(self) -> None:
        """Nothing is under way."""


def _place(at: At, n_bytes: int = 0) -> int:
    return at.block.place(at.offset, n_bytes)  # type: ignore[attr-defined, no-any-return]
