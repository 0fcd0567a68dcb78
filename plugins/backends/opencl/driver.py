"""The driver of an OpenCL device: one context, one queue in order."""

from __future__ import annotations

import logging
import warnings
import weakref
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import pyopencl as cl

from llamakit import system
from llamakit.backend import Memory
from llamakit.errors import BackendError, DeviceLostError, LlamaKitError, OutOfMemoryError
from llamakit.gpu.compiled import CompiledKernels
from llamakit.gpu.driver import GIVEN_BACK, At, Block, Driver, Feature, Tape, Traits, does_not_fit
from llamakit.gpu.source import kernel_names
from llamakit.gpu.tuning import shapes_of
from llamakit.units import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llamakit.plugins.backends.opencl.devices import Found

    from llamakit.backend import DeviceInfo
    from llamakit.gpu.driver import Argument
    from llamakit.gpu.tuning import Shape

log = logging.getLogger("llamakit.gpu")
OUT_OF_MEMORY = (-4, -6)  # CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY
OUT_OF_RESOURCES = -5  # of a launch that asks for too much, of memory that is short, or of a kernel that faulted
LOST = (-2, -14, -36)  # device not available, failed events, invalid queue: what faults leave
INVALID_GROUP = -54  # CL_INVALID_WORK_GROUP_SIZE
EXACT_DIVISION = 1 << 7  # CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT


class OpenCLBlock(Block):
    """A buffer of OpenCL. `data`: memory of the host that it is, and that is not written to."""

    def __init__(self, driver: OpenCLDriver, n_bytes: int, *, host: bool = False, data: Any = None) -> None:
        self.n_bytes, flags = n_bytes, cl.mem_flags
        if data is not None:
            self._buffer = cl.Buffer(driver.context, flags.READ_ONLY | flags.USE_HOST_PTR, hostbuf=data)
        else:
            self._buffer = cl.Buffer(driver.context, flags.READ_WRITE | (flags.ALLOC_HOST_PTR if host else 0), n_bytes)
        counted = 0 if host or data is not None else n_bytes
        driver.used += counted
        self._gone = weakref.finalize(self, driver.released, counted)
        driver.alive.add(self)

    @property
    def buffer(self) -> Any:
        """The buffer. DeviceLostError: it was given back."""
        if self._buffer is None:
            raise DeviceLostError(GIVEN_BACK)
        return self._buffer

    def free(self) -> None:
        """Release it, once."""
        if self._gone.alive:
            self._gone()
            buffer, self._buffer = self._buffer, None
            with suppress(cl.Error):  # of a device that is lost
                buffer.release()


class OpenCLDriver(Driver):
    """One device. `used`: bytes that are allocated here.

    Its context and queue are made when they are first needed, and then for all of `together` that have none: drivers
    that one backend opened, such as those of a split model. Devices in one context copy from each other.
    """

    def __init__(
        self,
        found: Found,
        lanes: int = 0,
        *,
        low_vram: bool = False,
        tune: bool = True,
        together: WeakSet[OpenCLDriver] | None = None,
    ) -> None:
        self.device, self.info = found
        self.together = WeakSet() if together is None else together
        self.together.add(self)
        shapes = shapes_of(self.info, int(self.device.max_work_group_size))
        self.traits = replace(_traits(self.device, self.info, lanes, shapes[0]), cache_on_host=low_vram)
        self.shapes = shapes if tune and not lanes else ()
        self.compiled, self.used, self.alive = CompiledKernels(), 0, WeakSet()
        for_gpus = self.traits.lanes > 1 or self.traits.packed
        self.features = frozenset({Feature.TAPES, Feature.GROUPS} if for_gpus else {Feature.TAPES})
        self._tape: OpenCLTape | None = None
        self.tapes, self.shares = True, bool(self.device.host_unified_memory)
        self._context = self._queue = self._crossing = self._crossed = None

    def reopen(self) -> None:
        """A new context and queue."""
        self._context = self._queue = self._crossing = self._crossed = None  # what was lost goes first
        self._open()

    @property
    def context(self) -> Any:
        """The context that the device is in."""
        if self._context is None:
            self._open()
        return self._context

    @property
    def queue(self) -> Any:
        """The device's queue."""
        if self._queue is None:
            self._open()
        return self._queue

    def _open(self) -> None:
        """A context for it and those that have none, or for itself where that does not work."""
        group = [each for each in self.together if each.is_beside(self)]
        with self.translated("opening the device"):
            try:
                context = cl.Context(list({each.device for each in group}))
            except cl.Error:
                if len(group) == 1:
                    raise
                group, context = [self], cl.Context([self.device])
            for each in group:
                each.enter(context)

    def is_beside(self, other: OpenCLDriver) -> bool:
        """Whether it has no context, and may be in that of another."""
        return self._context is None and self.device.platform == other.device.platform

    def enter(self, context: Any) -> None:
        """Be in a context."""
        self._context, self._queue = context, cl.CommandQueue(context, self.device)

    def memory(self) -> Memory:
        """OpenCL does not say what others use; of a CPU's memory the system does."""
        total = int(self.device.global_mem_size)
        free = max(total - self.used, 0)
        return Memory(total, min(free, system.free_memory()) if self.info.kind == "cpu" else free)

    def released(self, n_bytes: int) -> None:
        """A block is gone."""
        self.used -= n_bytes

    def allocate(self, n_bytes: int, *, host: bool = False) -> OpenCLBlock:
        """A buffer; drivers allocate when it is first used, so what cannot fit is refused here."""
        memory = self.memory() if not host else Memory(system.total_memory(), system.free_memory())
        if n_bytes > memory.free:
            raise does_not_fit(self.info.name, n_bytes, memory)
        with self.translated(f"allocating {n_bytes / 2**20:,.1f} MiB", n_bytes):
            return OpenCLBlock(self, n_bytes, host=host)

    def share(self, data: Any) -> OpenCLBlock | None:
        """By its address. Some drivers refuse what they cannot pin, such as a mapped file."""
        try:
            return OpenCLBlock(self, data.nbytes, data=data) if self.shares else None
        except cl.Error as error:
            log.debug("%s takes no memory of the host: %s", self.info.name, error)
            self.shares = False
            return None

    def write(self, to: At, data: Any) -> None:
        """Copy to the device."""
        with self.translated("copying to the device"):
            cl.enqueue_copy(self.queue, to.block.buffer, data, dst_offset=to.offset, is_blocking=True)  # type: ignore[attr-defined]

    def read(self, place: At, data: Any) -> None:
        """Copy from the device."""
        with self.translated("copying from the device"):
            cl.enqueue_copy(self.queue, data, place.block.buffer, src_offset=place.offset, is_blocking=True)  # type: ignore[attr-defined]

    def copy(self, source: At, to: At, n_bytes: int) -> None:
        """Copy on the device."""
        self._untaped()
        with self.translated("copying on the device"):
            cl.enqueue_copy(
                self.queue, to.block.buffer, source.block.buffer, byte_count=n_bytes,  # type: ignore[attr-defined]
                src_offset=source.offset, dst_offset=to.offset,
            )  # fmt: skip

    def reaches(self, other: Driver) -> bool:
        """Whether they are in one context."""
        return isinstance(other, OpenCLDriver) and other is not self and other.context is self.context

    def fetch(self, other: Driver, source: At, to: At, n_bytes: int) -> None:
        """By a small buffer of the other's: what a device uses of another moves to it as a whole, and comes back so."""
        assert isinstance(other, OpenCLDriver)
        with self.translated("copying from another device"):
            place, made = other.put_out(source, n_bytes)
            other.taken_by(
                cl.enqueue_copy(
                    self.queue, to.block.buffer, place.block.buffer, byte_count=n_bytes,  # type: ignore[attr-defined]
                    dst_offset=to.offset, wait_for=[made],
                )
            )  # fmt: skip
            self.queue.flush()

    def put_out(self, source: At, n_bytes: int) -> tuple[At, Any]:
        """Copy to where other devices fetch it, when the last one is done there; the place, and the copy's event."""
        if self._crossing is None or self._crossing.block.n_bytes < n_bytes:
            self._crossing = At(self.allocate(n_bytes))
        made = cl.enqueue_copy(
            self.queue, self._crossing.block.buffer, source.block.buffer, byte_count=n_bytes,  # type: ignore[attr-defined]
            src_offset=source.offset, wait_for=[self._crossed] if self._crossed is not None else None,
        )  # fmt: skip
        self.queue.flush()
        return self._crossing, made

    def taken_by(self, event: Any) -> None:
        """What was put out is free again after this event."""
        self._crossed = event

    def zero(self, to: At, n_bytes: int) -> None:
        """Fill with zeros."""
        self._untaped()
        with self.translated("filling memory"):
            cl.enqueue_fill_buffer(self.queue, to.block.buffer, np.uint32(0), to.offset, n_bytes)  # type: ignore[attr-defined]

    def build(self, source: str) -> Any:
        """Compile, or take what was compiled before."""
        options = list(self.traits.options)
        key = self.compiled.key(source, *options, self.info.name, *self.info.details)
        kept = self.compiled.get(key)
        with warnings.catch_warnings(), self.translated("compiling kernels"):
            warnings.simplefilter("ignore")  # compilers talk
            if kept is not None:
                try:
                    return cl.Program(self.context, [self.device], [kept]).build(options, [self.device])
                except cl.Error:  # of another version of the driver, or damaged in a way that it notices
                    kept = None
            program = cl.Program(self.context, source)
            try:
                program.build(options, [self.device], cache_dir=False)
            except cl.RuntimeError as error:
                raise self._refused(key, source, str(error)) from None
            number = program.get_info(cl.program_info.DEVICES).index(self.device)
            self.compiled.put(key, program.get_info(cl.program_info.BINARIES)[number])
            return program

    def kernel(self, module: Any, name: str) -> Any:
        """A kernel of a program."""
        with self.translated(f"kernel {name}"):
            return Kernel(module, name)

    def most_items(self, kernel: Any) -> int:
        """As the driver says, by the registers that the kernel takes; it is asked once."""
        if not kernel.most_items:
            with self.translated(f"kernel {kernel.name}"):
                info = cl.kernel_work_group_info.WORK_GROUP_SIZE
                kernel.most_items = int(kernel.function.get_work_group_info(info, self.device))
        return int(kernel.most_items)

    def launch(self, kernel: Any, n_group: int, n_item: int, arguments: Sequence[Argument]) -> None:
        """Enqueue it."""
        given: list[Any] = []
        for each in arguments:
            if isinstance(each, At):
                given += (each.block.buffer, each.offset)  # type: ignore[attr-defined]
            else:
                given.append(each)
        try:
            if self._tape is not None:
                self._tape.launches.append((kernel.bound(given, arguments), (n_group * n_item,), (n_item,)))
                self._tape.held += [each.block for each in arguments if isinstance(each, At)]
                return
            if not kernel.typed:
                kernel.function.set_scalar_arg_dtypes(_dtypes(arguments))
                kernel.typed = True
            kernel.function(self.queue, (n_group * n_item,), (n_item,), *given)
        except cl.Error as error:
            raise self._launch_error(error, kernel.function, n_item) from None

    def identity(self) -> tuple[str, ...]:
        """OpenCL's versions, and how kernels are made."""
        return (*super().identity(), *self.traits.options, f"{self.traits.lanes} {self.traits.packed}")

    def switch_off(self, feature: Feature) -> None:
        """Record nothing; or shape kernels as processors get them."""
        if feature is Feature.TAPES:
            self.tapes = False
        else:
            self.traits, self.without_groups = replace(self.traits, lanes=1, packed=False), True

    def record(self, run: Callable[[], None]) -> Tape | None:
        """Kernels that have their arguments are enqueued several times as fast."""
        if not self.tapes:
            return None
        tape = self._tape = OpenCLTape(self)
        try:
            run()
        finally:
            self._tape = None
        return tape if tape.whole else None

    def finish(self) -> None:
        """Wait."""
        with self.translated("waiting for the device"):
            self.queue.finish()

    def describe(self) -> dict[str, str]:
        """The device, its platform, and how kernels are shaped."""
        shape = "an item a row" if self.traits.lanes == 1 else f"{self.traits.lanes} items a row"
        found = {"device": self.info.name, "platform": ", ".join(self.info.details), "kernels": shape}
        most = f"groups of {self.device.max_work_group_size:,} items, blocks of {size_text(self.traits.most_bytes)}"
        return found | {"at most": most} | ({"memory": "the host's"} if self.shares else {})

    def close(self) -> None:
        """Wait for what is under way; memory goes with its blocks."""
        if self._queue is not None:
            self.finish()

    def _untaped(self) -> None:
        """What tapes do not have."""
        if self._tape is not None:
            self._tape.whole = False

    def _refused(self, key: str, source: str, text: str) -> BackendError:
        path = self.compiled.keep_log(key, f"{text}\n\n{source}")
        where = f"all of it in {path}" if path else text[-2000:]
        return BackendError(
            f"{self.info.name}: its driver does not compile a kernel ({kernel_names(source)})", found=where
        )

    def _launch_error(self, error: cl.Error, kernel: Any, n_item: int) -> LlamaKitError:
        """Why a kernel was not run: a group that is too large for it is nothing that is lost."""
        code, name = getattr(error, "code", 0), kernel.function_name
        most = int(kernel.get_work_group_info(cl.kernel_work_group_info.WORK_GROUP_SIZE, self.device))
        if code in (OUT_OF_RESOURCES, INVALID_GROUP) and n_item > most:
            return BackendError(
                f"{self.info.name}: kernel {name} is to run in groups of {n_item} items", found=f"it can have {most}",
                hint=f"backend.opencl.lanes = {1 << most.bit_length() - 1 if most else 1}",
            )  # fmt: skip
        return self._error(error, f"running kernel {name}", 0)

    def _error(self, error: cl.Error, what: str, needed: int) -> LlamaKitError:
        """An error of OpenCL as one of ours."""
        code, text = getattr(error, "code", 0), f"{self.info.name}: {what}: {error}"
        if code == OUT_OF_RESOURCES:
            if not self._answers():
                return DeviceLostError(f"{text}; it does not answer any more")
            if not needed:
                return BackendError(f"{text}; it goes on, but for this", hint="a smaller --batch-size or --ctx-size")
        if code in (OUT_OF_RESOURCES, *OUT_OF_MEMORY) or isinstance(error, cl.MemoryError):
            found = does_not_fit(self.info.name, needed, self.memory(), what)
            return OutOfMemoryError(f"{text}", found=found.found, hint=found.hint)
        return (DeviceLostError if code in LOST else BackendError)(text)

    def _answers(self) -> bool:
        """Whether the device still does what it is asked for: a word goes there and comes back."""
        sent, back = np.array([0x5A17], np.uint32), np.zeros(1, np.uint32)
        try:
            probe = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, 4)
            cl.enqueue_copy(self.queue, probe, sent, is_blocking=True)
            cl.enqueue_copy(self.queue, back, probe, is_blocking=True)
        except cl.Error:
            return False
        return bool(back[0] == sent[0])

    @contextmanager
    def translated(self, what: str, needed: int = 0) -> Iterator[None]:
        """OpenCL's errors as LlamaKit's. `needed`: bytes that were asked for."""
        try:
            yield
        except cl.Error as error:
            raise self._error(error, what, needed) from None


class Kernel:
    """A kernel of OpenCL. `typed`: whether it knows the types of its arguments, which makes launches a lot quicker.

    `most_items`: that a group of it may have; 0: the driver was not asked.
    """

    def __init__(self, program: Any, name: str) -> None:
        self.program, self.name, self.function, self.typed = program, name, cl.Kernel(program, name), False
        self.most_items = 0

    def bound(self, given: list[Any], arguments: Sequence[Argument]) -> Any:
        """One that has its arguments."""
        function = cl.Kernel(self.program, self.name)
        function.set_scalar_arg_dtypes(_dtypes(arguments))
        function.set_args(*given)
        return function


class OpenCLTape(Tape):
    """Kernels with their arguments. `held`: the memory that they use."""

    def __init__(self, driver: OpenCLDriver) -> None:
        self.driver, self.launches, self.held = driver, [], []  # type: ignore[var-annotated]
        self.whole = True

    def play(self) -> None:
        """Enqueue all."""
        if self.held:
            _ = self.held[0].buffer  # raises DeviceLostError if the memory was given back
        with self.driver.translated("running a step's kernels"):
            for function, total, group in self.launches:
                cl.enqueue_nd_range_kernel(self.driver.queue, function, total, group)

    def close(self) -> None:
        """Forget all."""
        self.launches, self.held = [], []


def _dtypes(arguments: Sequence[Argument]) -> list[Any]:
    """What pyopencl needs to know of a kernel's arguments: the types of numbers."""
    found: list[Any] = []
    for each in arguments:
        found += (None, np.int64) if isinstance(each, At) else (np.float32 if isinstance(each, float) else np.int32,)
    return found


def _traits(device: Any, info: DeviceInfo, lanes: int, usual: Shape) -> Traits:
    """How kernels are shaped, as is usual for the device where `lanes` does not say otherwise."""
    most = int(device.max_work_group_size)
    wanted = lanes or usual.lanes
    if wanted & (wanted - 1) or wanted > most:
        raise BackendError(f"opencl: lanes {wanted}: a power of two up to {most} is possible", param="lanes")
    options = ["-cl-std=CL1.2"]
    if device.single_fp_config & EXACT_DIVISION:
        options.append("-cl-fp32-correctly-rounded-divide-sqrt")
    packed = info.kind != "cpu"  # an item a row reads rows as they lie in the file faster
    return Traits("opencl", wanted, usual.items, int(device.max_mem_alloc_size), tuple(options), packed=packed)
