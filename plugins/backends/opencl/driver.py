"""The driver of an OpenCL device: one context, one queue in order."""

from __future__ import annotations

import warnings
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyopencl as cl

from llamakit import system
from llamakit.backend import Memory
from llamakit.errors import BackendError, DeviceLostError, OutOfMemoryError
from llamakit.gpu.compiled import CompiledKernels
from llamakit.gpu.driver import At, Block, Driver, Traits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llamakit.plugins.backends.opencl.devices import Found

    from llamakit.backend import DeviceInfo
    from llamakit.gpu.driver import Argument

OUT_OF_MEMORY = (-4, -6)  # CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY
LOST = (-2, -5, -14, -36)  # device not available, out of resources, failed events, invalid queue: what faults leave
EXACT_DIVISION = 1 << 7  # CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT


class OpenCLBlock(Block):
    """A buffer of OpenCL."""

    def __init__(self, driver: OpenCLDriver, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.buffer = cl.Buffer(driver.context, cl.mem_flags.READ_WRITE, n_bytes)
        driver.used += n_bytes
        self._gone = weakref.finalize(self, driver.released, n_bytes)

    def free(self) -> None:
        """Release it, once."""
        if self._gone.alive:
            self._gone()
            self.buffer.release()


class OpenCLDriver(Driver):
    """One device. `used`: bytes that are allocated here."""

    def __init__(self, found: Found, lanes: int = 0) -> None:
        self.device, self.info = found
        self.traits = _traits(self.device, self.info, lanes)
        self.compiled, self.used = CompiledKernels(), 0
        self.reopen()

    def reopen(self) -> None:
        """A new context and queue."""
        with self.translated("opening the device"):
            self.context = cl.Context([self.device])
            self.queue = cl.CommandQueue(self.context)

    def memory(self) -> Memory:
        """OpenCL does not say what others use; of a CPU's memory the system does."""
        total = int(self.device.global_mem_size)
        free = max(total - self.used, 0)
        return Memory(total, min(free, system.free_memory()) if self.info.kind == "cpu" else free)

    def released(self, n_bytes: int) -> None:
        """A block is gone."""
        self.used -= n_bytes

    def allocate(self, n_bytes: int) -> OpenCLBlock:
        """A buffer; drivers allocate when it is first used, so what cannot fit is refused here."""
        memory = self.memory()
        if n_bytes > memory.free:
            raise OutOfMemoryError(
                f"{self.info.name}: {n_bytes / 2**20:,.1f} MiB more are needed, {memory.free / 2**20:,.1f} of"
                f" {memory.total / 2**20:,.1f} MiB are free",
                hint="a smaller --ctx-size, --kv-type q8_0, or fewer layers on this device (--device, --split)",
            )
        with self.translated(f"allocating {n_bytes / 2**20:,.1f} MiB"):
            return OpenCLBlock(self, n_bytes)

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
        with self.translated("copying on the device"):
            cl.enqueue_copy(
                self.queue, to.block.buffer, source.block.buffer, byte_count=n_bytes,  # type: ignore[attr-defined]
                src_offset=source.offset, dst_offset=to.offset,
            )  # fmt: skip

    def zero(self, to: At, n_bytes: int) -> None:
        """Fill with zeros."""
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
                    return cl.Program(self.context, [self.device], [kept]).build(options)
                except cl.Error:  # of another version of the driver, or damaged in a way that it notices
                    kept = None
            program = cl.Program(self.context, source)
            try:
                program.build(options, cache_dir=False)
            except cl.RuntimeError as error:
                raise self._refused(key, source, str(error)) from None
            self.compiled.put(key, program.get_info(cl.program_info.BINARIES)[0])
            return program

    def kernel(self, module: Any, name: str) -> Any:
        """A kernel of a program."""
        with self.translated(f"kernel {name}"):
            return cl.Kernel(module, name)

    def launch(self, kernel: Any, n_group: int, n_item: int, arguments: Sequence[Argument]) -> None:
        """Enqueue it."""
        given: list[Any] = []
        for each in arguments:
            if isinstance(each, At):
                given += (each.block.buffer, np.int64(each.offset))  # type: ignore[attr-defined]
            else:
                given.append(np.float32(each) if isinstance(each, float) else np.int32(each))
        with self.translated("running a kernel"):
            kernel(self.queue, (n_group * n_item,), (n_item,), *given)

    def finish(self) -> None:
        """Wait."""
        with self.translated("waiting for the device"):
            self.queue.finish()

    def describe(self) -> dict[str, str]:
        """The device, its platform, and how kernels are shaped."""
        shape = "an item a row" if self.traits.lanes == 1 else f"{self.traits.lanes} items a row"
        return {"device": self.info.name, "platform": ", ".join(self.info.details), "kernels": shape}

    def close(self) -> None:
        """Wait for what is under way; memory goes with its blocks."""
        self.finish()

    def _refused(self, key: str, source: str, text: str) -> BackendError:
        path = self.compiled.keep_log(key, f"{text}\n\n{source}")
        where = f"all of it in {path}" if path else text[-2000:]
        return BackendError(f"{self.info.name}: its driver does not compile a kernel", found=where)

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """OpenCL's errors as LlamaKit's."""
        try:
            yield
        except cl.Error as error:
            code, text = getattr(error, "code", 0), f"{self.info.name}: {what}: {error}"
            if code in OUT_OF_MEMORY or isinstance(error, cl.MemoryError):
                raise OutOfMemoryError(text, hint="a smaller --ctx-size, or fewer layers on this device") from None
            raise (DeviceLostError if code in LOST else BackendError)(text) from None


def _traits(device: Any, info: DeviceInfo, lanes: int) -> Traits:
    """How kernels are shaped: alone on CPUs, 64 items to a row elsewhere."""
    most = int(device.max_work_group_size)
    wanted = lanes or (1 if info.kind == "cpu" else 64)
    if wanted & (wanted - 1) or wanted > most:
        raise BackendError(f"opencl: lanes {wanted}: a power of two up to {most} is possible", param="lanes")
    options = ["-cl-std=CL1.2"]
    if device.single_fp_config & EXACT_DIVISION:
        options.append("-cl-fp32-correctly-rounded-divide-sqrt")
    items = min(16 if info.kind == "cpu" else 64, most)
    return Traits("opencl", wanted, items, int(device.max_mem_alloc_size), tuple(options))
