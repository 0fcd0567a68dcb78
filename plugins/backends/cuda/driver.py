"""The driver of a GPU of NVIDIA: its primary context, one stream."""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, Any

from cuda.bindings import driver as cu
from llamakit.plugins.backends.cuda.compiler import OPTIONS, CompileError, compile_cubin, version
from llamakit.plugins.backends.cuda.devices import call, capability

from llamakit.backend import Memory
from llamakit.errors import BackendError, OutOfMemoryError
from llamakit.gpu.compiled import CompiledKernels
from llamakit.gpu.driver import At, Block, Driver, Traits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.backend import DeviceInfo
    from llamakit.gpu.driver import Argument

LANES = 64
ITEMS = 128


class CUDABlock(Block):
    """Memory of the GPU."""

    def __init__(self, driver: CUDADriver, n_bytes: int, address: int) -> None:
        self.n_bytes, self.address = n_bytes, address
        self._gone = weakref.finalize(self, driver.give_back, address, driver.age)
        self._gone.atexit = False  # the driver gives all back when the process ends

    def free(self) -> None:
        """Give it back, once."""
        self._gone()


class CUDADriver(Driver):
    """One GPU. Kernels are compiled for it by NVRTC, and kept on the disk. `age`: how often it was opened."""

    age = 0

    def __init__(self, index: int, info: DeviceInfo, lanes: int = 0) -> None:
        self.index, self.info, self.compiled = index, info, CompiledKernels()
        lanes = lanes or LANES
        if lanes & (lanes - 1):
            raise BackendError(f"cuda: lanes {lanes}: a power of two up to 1024 is possible", param="lanes")
        self.traits = Traits("cuda", lanes, ITEMS, info.memory or 1 << 62)
        self.compiler = version()
        self.reopen()

    def reopen(self) -> None:
        """The device's primary context, fresh if it was lost, and a stream."""
        device = call(cu.cuDeviceGet(self.index), "device")
        if getattr(self, "stream", None) is not None:
            cu.cuDevicePrimaryCtxReset(device)
        self.age += 1
        self.architecture = "sm_{}{}".format(*capability(device))
        context = call(cu.cuDevicePrimaryCtxRetain(device), "context")
        call(cu.cuCtxSetCurrent(context), "context")
        self.context = context
        self.stream = call(cu.cuStreamCreate(cu.CUstream_flags.CU_STREAM_NON_BLOCKING.value), "stream")

    def enter(self) -> None:
        """Whatever thread uses the device now."""
        call(cu.cuCtxSetCurrent(self.context), "context")

    def memory(self) -> Memory:
        """As the driver says."""
        self.enter()
        free, total = call(cu.cuMemGetInfo(), "memory")
        return Memory(int(total), int(free))

    def allocate(self, n_bytes: int) -> CUDABlock:
        """Memory of the GPU."""
        self.enter()
        try:
            address = call(cu.cuMemAlloc(n_bytes), f"allocating {n_bytes / 2**20:,.1f} MiB")
        except OutOfMemoryError as error:
            memory = self.memory()
            raise OutOfMemoryError(
                f"{self.info.name}: {n_bytes / 2**20:,.1f} MiB more are needed, {memory.free / 2**20:,.1f} of"
                f" {memory.total / 2**20:,.1f} MiB are free",
                hint=error.hint,
            ) from None
        return CUDABlock(self, n_bytes, int(address))

    def give_back(self, address: int, age: int) -> None:
        """Free memory, unless it went with a device that was lost: its address may be somebody else's by now."""
        if age == self.age:
            cu.cuMemFree(cu.CUdeviceptr(address))

    def write(self, to: At, data: Any) -> None:
        """Copy to the device, in order."""
        self.enter()
        call(cu.cuMemcpyHtoDAsync(_address(to), data.ctypes.data, data.nbytes, self.stream), "copying to the device")
        call(cu.cuStreamSynchronize(self.stream), "copying to the device")

    def read(self, place: At, data: Any) -> None:
        """Copy from the device, when all before is done."""
        self.enter()
        call(cu.cuMemcpyDtoHAsync(data.ctypes.data, _address(place), data.nbytes, self.stream), "copying to the host")
        call(cu.cuStreamSynchronize(self.stream), "waiting for the device")

    def copy(self, source: At, to: At, n_bytes: int) -> None:
        """Copy on the device."""
        self.enter()
        call(cu.cuMemcpyDtoDAsync(_address(to), _address(source), n_bytes, self.stream), "copying on the device")

    def zero(self, to: At, n_bytes: int) -> None:
        """Fill with zeros."""
        self.enter()
        call(cu.cuMemsetD32Async(_address(to), 0, n_bytes // 4, self.stream), "filling memory")

    def build(self, source: str) -> Any:
        """Compile for this GPU, or take what was compiled before."""
        self.enter()
        key = self.compiled.key(source, *OPTIONS, self.architecture, self.compiler)
        kept = self.compiled.get(key)
        if kept is not None:
            code, module = cu.cuModuleLoadData(kept)
            if code == cu.CUresult.CUDA_SUCCESS:
                return module
        try:
            made = compile_cubin(source, self.architecture)
        except CompileError as error:
            path = self.compiled.keep_log(key, f"{error.log}\n\n{source}")
            where = f"all that it said in {path}" if path else error.log[-2000:]
            raise BackendError(error.message, found=where) from None
        self.compiled.put(key, made.code)
        return call(cu.cuModuleLoadData(made.code), "loading kernels")

    def kernel(self, module: Any, name: str) -> Any:
        """A function of a module."""
        return call(cu.cuModuleGetFunction(module, name.encode()), f"kernel {name}")

    def launch(self, kernel: Any, n_group: int, n_item: int, arguments: Sequence[Argument]) -> None:
        """Put it on the stream."""
        values: list[Any] = []
        types: list[Any] = []
        for each in arguments:
            if isinstance(each, At):
                values += (each.block.address, each.offset)  # type: ignore[attr-defined]
                types += (ctypes.c_void_p, ctypes.c_int64)
            else:
                values.append(each)
                types.append(ctypes.c_float if isinstance(each, float) else ctypes.c_int32)
        self.enter()
        given = (tuple(values), tuple(types))
        call(cu.cuLaunchKernel(kernel, n_group, 1, 1, n_item, 1, 1, 0, self.stream, given, 0), "running a kernel")

    def finish(self) -> None:
        """Wait."""
        self.enter()
        call(cu.cuStreamSynchronize(self.stream), "waiting for the device")

    def describe(self) -> dict[str, str]:
        """The GPU, and what compiled for it."""
        return {
            "device": f"{self.info.name} ({self.architecture})",
            "platform": ", ".join(self.info.details),
            "compiler": f"NVRTC {self.compiler}",
            "kernels": f"{self.traits.lanes} items a row",
        }

    def close(self) -> None:
        """Wait for what is under way, and let go of the context."""
        self.finish()


def _address(place: At) -> Any:
    return cu.CUdeviceptr(place.block.address + place.offset)  # type: ignore[attr-defined]
