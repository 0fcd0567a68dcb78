"""The driver of an NVIDIA GPU: a context of its own, one stream."""

from __future__ import annotations

import ctypes
import logging
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from cuda.bindings import driver as cu
from llamakit.plugins.backends.cuda.compiler import OPTIONS, CompileError, compile_cubin, version
from llamakit.plugins.backends.cuda.cublas import WORKSPACE, CuBLAS, library
from llamakit.plugins.backends.cuda.cublas import version as cublas_version
from llamakit.plugins.backends.cuda.devices import call, capability

from llamakit.backend import Memory
from llamakit.errors import BackendError, DeviceLostError, LlamaKitError, OutOfMemoryError
from llamakit.gpu.compiled import CompiledKernels
from llamakit.gpu.driver import GIVEN_BACK, At, Block, Driver, Feature, Tape, Traits, does_not_fit
from llamakit.gpu.source import kernel_names
from llamakit.gpu.tuning import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamakit.backend import DeviceInfo
    from llamakit.gpu.driver import Argument

log = logging.getLogger("llamakit.gpu")
LEAST_PRODUCT = 16  # of rows, columns and terms: below it is not worth a call of the library


class CUDABlock(Block):
    """Memory of the GPU."""

    def __init__(self, driver: CUDADriver, n_bytes: int, address: int, *, host: bool = False) -> None:
        self.n_bytes, self._address = n_bytes, address
        self._gone = weakref.finalize(self, driver.give_back, address, driver.age, host=host)
        self._gone.atexit = False  # the driver gives all back when the process ends
        driver.alive.add(self)

    @property
    def address(self) -> int:
        """Where it lies. DeviceLostError: it was given back."""
        if not self._gone.alive:
            raise DeviceLostError(GIVEN_BACK)
        return self._address

    def free(self) -> None:
        """Give it back, once."""
        self._gone()


class Current:
    """Makes a context that of the thread for a while, and puts the one that was there before back."""

    def __init__(self, context: Any) -> None:
        self.context = context

    def __enter__(self) -> Self:
        call(cu.cuCtxPushCurrent(self.context), "context")
        return self

    def __exit__(self, *exc_info: object) -> None:
        cu.cuCtxPopCurrent()


class CUDADriver(Driver):
    """One GPU, with a context of its own: what happens to it happens to nobody else in the process, nor the other way.

    Kernels are compiled for it by NVRTC, and kept on the disk. `age`: how often it was opened.
    """

    def __init__(
        self,
        index: int,
        info: DeviceInfo,
        lanes: int = 0,
        *,
        graphs: bool = True,
        low_vram: bool = False,
        cublas: bool = True,
        tune: bool = True,
    ) -> None:
        self.index, self.info, self.compiled, self.graphs = index, info, CompiledKernels(), graphs
        shapes = FAMILIES["cuda"]
        self.shapes = shapes if tune and not lanes else ()
        lanes = lanes or shapes[0].lanes
        if lanes & (lanes - 1):
            raise BackendError(f"cuda: lanes {lanes}: a power of two up to 256 is possible", param="lanes")
        most, items = info.memory or 1 << 62, shapes[0].items
        self.traits = Traits("cuda", lanes, items, most, cache_on_host=low_vram, packed=True)
        self.compiler, self.age, self.alive = version(), 0, WeakSet()
        self.tapes: WeakSet[CUDATape] = WeakSet()
        self.library = library() if cublas else None
        used = {Feature.TAPES: graphs, Feature.PRODUCTS: self.library is not None}
        self.features = frozenset(feature for feature, there in used.items() if there)
        self.cublas: CuBLAS | None = None
        self._workspace: CUDABlock | None = None
        self.context: Any = None
        self.stream: Any = None
        self._event: Any = None
        self._reached: dict[int, bool] = {}
        self._modules: list[Any] = []
        self.reopen()

    def reopen(self) -> None:
        """A new context and a stream; what was lost goes first."""
        self._destroy()
        device = call(cu.cuDeviceGet(self.index), "device")
        self.architecture = "sm_{}{}".format(*capability(device))
        self.context = _new_context(device)
        self.age += 1
        try:
            with self.current():
                flags = cu.CUstream_flags.CU_STREAM_NON_BLOCKING.value
                self.stream = call(cu.cuStreamCreate(flags), "stream")
        except LlamaKitError:
            self._destroy()
            raise

    def current(self) -> Current:
        """For `with`: the device's context is that of the thread, whatever thread it is."""
        if self.context is None:
            raise DeviceLostError(f"{self.info.name} is not open")
        return Current(self.context)

    def memory(self) -> Memory:
        """As the driver says."""
        with self.current():
            free, total = call(cu.cuMemGetInfo(), "memory")
        return Memory(int(total), int(free))

    def allocate(self, n_bytes: int, *, host: bool = False) -> CUDABlock:
        """Memory of the GPU, or pinned memory of the host, which the GPU has at the same address."""
        if host:
            with self.current():
                flags = cu.CU_MEMHOSTALLOC_DEVICEMAP
                address = call(cu.cuMemHostAlloc(n_bytes, flags), f"pinning {n_bytes / 2**20:,.1f} MiB of main memory")
            return CUDABlock(self, n_bytes, int(address), host=True)
        try:
            with self.current():
                address = call(cu.cuMemAlloc(n_bytes), f"allocating {n_bytes / 2**20:,.1f} MiB")
        except OutOfMemoryError:
            raise does_not_fit(self.info.name, n_bytes, self.memory()) from None
        return CUDABlock(self, n_bytes, int(address))

    def give_back(self, address: int, age: int, *, host: bool = False) -> None:
        """Free memory, unless it went with a context that is gone: its address may be somebody else's by now."""
        if age == self.age and self.context is not None:
            with suppress(LlamaKitError), self.current():
                if host:
                    cu.cuMemFreeHost(address)
                else:
                    cu.cuMemFree(cu.CUdeviceptr(address))

    def write(self, to: At, data: Any) -> None:
        """Copy to the device, in order."""
        what = "copying to the device"
        with self.current():
            call(cu.cuMemcpyHtoDAsync(_address(to), data.ctypes.data, data.nbytes, self.stream), what)
            call(cu.cuStreamSynchronize(self.stream), what)

    def read(self, place: At, data: Any) -> None:
        """Copy from the device, when all before is done."""
        with self.current():
            call(
                cu.cuMemcpyDtoHAsync(data.ctypes.data, _address(place), data.nbytes, self.stream), "copying to the host"
            )
            call(cu.cuStreamSynchronize(self.stream), "waiting for the device")

    def copy(self, source: At, to: At, n_bytes: int) -> None:
        """Copy on the device."""
        with self.current():
            call(cu.cuMemcpyDtoDAsync(_address(to), _address(source), n_bytes, self.stream), "copying on the device")

    def reaches(self, other: Driver) -> bool:
        """Whether one GPU has access to the other's memory; two contexts of the same one do."""
        if not isinstance(other, CUDADriver) or other is self:
            return False
        if other.index not in self._reached:
            mine, theirs = (call(cu.cuDeviceGet(index), "device") for index in (self.index, other.index))
            same = self.index == other.index
            self._reached[other.index] = same or bool(call(cu.cuDeviceCanAccessPeer(mine, theirs), "access of GPUs"))
        return self._reached[other.index]

    def fetch(self, other: Driver, source: At, to: At, n_bytes: int) -> None:
        """On this one's stream; each stream waits for the other's event, and the host for neither."""
        assert isinstance(other, CUDADriver)
        what = "copying from another GPU"
        before = other.now_event()
        with self.current():
            call(cu.cuStreamWaitEvent(self.stream, before, 0), what)
            places = (_address(to), self.context, _address(source), other.context)
            call(cu.cuMemcpyPeerAsync(*places, n_bytes, self.stream), what)
        after = self.now_event()
        with other.current():
            call(cu.cuStreamWaitEvent(other.stream, after, 0), what)

    def now_event(self) -> Any:
        """An event of all that the stream has been asked for; it holds until it is asked for again."""
        with self.current():
            if self._event is None:
                self._event = call(cu.cuEventCreate(cu.CUevent_flags.CU_EVENT_DISABLE_TIMING.value), "event")
            call(cu.cuEventRecord(self._event, self.stream), "event")
        return self._event

    def zero(self, to: At, n_bytes: int) -> None:
        """Fill with zeros."""
        with self.current():
            call(cu.cuMemsetD32Async(_address(to), 0, n_bytes // 4, self.stream), "filling memory")

    def build(self, source: str) -> Any:
        """Compile for this GPU, or take what was compiled before."""
        key = self.compiled.key(source, *OPTIONS, self.architecture, self.compiler)
        kept = self.compiled.get(key)
        if kept is not None:
            with self.current():
                code, module = cu.cuModuleLoadData(kept)
            if code == cu.CUresult.CUDA_SUCCESS:
                self._modules.append(module)
                return module
        try:
            made = compile_cubin(source, self.architecture)
        except CompileError as error:
            raise self._refused(error.message, key, source, error.log) from None
        try:
            with self.current():
                module = call(cu.cuModuleLoadData(made.code), "loading kernels")
        except DeviceLostError:
            raise
        except BackendError as error:
            raise self._refused(error.message, key, source, made.log) from None
        self.compiled.put(key, made.code)
        self._modules.append(module)
        return module

    def multiplies(self, shape: tuple[int, int, int]) -> bool:
        """Whether cuBLAS is installed, and worth it."""
        return self.library is not None and min(shape) >= LEAST_PRODUCT

    def multiply(
        self, a: At, b: At, c: At, shape: tuple[int, int, int], steps: tuple[int, int, int, int, int], *, add: bool
    ) -> bool:
        """By cuBLAS, where it is installed. What goes wrong there is told once, and from then on our kernels do it."""
        if self.library is None or not self.multiplies(shape):
            return False
        places = [place.block.address + place.offset for place in (a, b, c)]  # type: ignore[attr-defined]
        try:
            with self.current():
                if self.cublas is None:
                    self._workspace = self.allocate(WORKSPACE)
                    self.cublas = CuBLAS(self.library, int(self.stream), self._workspace.address)
                return self.cublas.multiply(*places, shape, steps, add=add)
        except DeviceLostError:
            raise
        except LlamaKitError as error:
            log.warning("products of long prompts run without cuBLAS: %s", error)
            self.library = None
            return False

    def kernel(self, module: Any, name: str) -> Any:
        """A function of a module."""
        with self.current():
            return Kernel(name, call(cu.cuModuleGetFunction(module, name.encode()), f"kernel {name}"))

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
        given = (tuple(values), tuple(types))
        with self.current():
            result = cu.cuLaunchKernel(kernel.function, n_group, 1, 1, n_item, 1, 1, 0, self.stream, given, 0)
            call(result, "running kernel {}", kernel.name)

    def identity(self) -> tuple[str, ...]:
        """The GPU and the versions of its driver, its compiler and cuBLAS."""
        library = "" if self.library is None else cublas_version(self.library)
        return (*super().identity(), self.architecture, self.compiler, library)

    def switch_off(self, feature: Feature) -> None:
        """Launch each kernel by itself; or leave all products to our kernels."""
        if feature is Feature.TAPES:
            self.graphs = False
        else:
            self.library = None

    def record(self, run: Callable[[], None]) -> Tape | None:
        """A graph of what the stream gets, which is launched at once. None where the driver cannot make one."""
        if not self.graphs:
            return None
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with self.current():
            call(cu.cuStreamBeginCapture(self.stream, mode), "recording a step")
            try:
                run()
            except BaseException:
                graph = cu.cuStreamEndCapture(self.stream)[1]
                if graph:
                    cu.cuGraphDestroy(graph)
                raise
            code, graph = cu.cuStreamEndCapture(self.stream)
            try:
                call((code,), "recording a step")
                made = call(cu.cuGraphInstantiate(graph, 0), "making a graph of a step")
            except DeviceLostError:
                raise
            except LlamaKitError as error:
                log.warning("steps are not recorded as graphs: %s", error)
                self.graphs = False
                return None
            finally:
                if graph:
                    cu.cuGraphDestroy(graph)
        return CUDATape(self, made)

    def give_graph_back(self, graph: Any, age: int) -> None:
        """Destroy a graph, unless it went with its context."""
        if age == self.age and self.context is not None:
            with suppress(LlamaKitError), self.current():
                cu.cuGraphExecDestroy(graph)

    def finish(self) -> None:
        """Wait."""
        with self.current():
            call(cu.cuStreamSynchronize(self.stream), "waiting for the device")

    def describe(self) -> dict[str, str]:
        """The GPU, and what compiled for it."""
        return {
            "device": f"{self.info.name} ({self.architecture})",
            "platform": ", ".join(self.info.details),
            "compiler": f"NVRTC {self.compiler}",
            "kernels": f"{self.traits.lanes} items a row{', steps as graphs' if self.graphs else ''}"
            f"{', cuBLAS for long prompts' if self.library is not None else ''}",
        }

    def close(self) -> None:
        """Wait for what is under way, give all memory back, and end the context."""
        if self.context is None:
            return
        with suppress(LlamaKitError):  # a device that is lost has nothing under way
            self.finish()
        if self.cublas is not None:
            with suppress(LlamaKitError), self.current():
                self.cublas.close()
        self.free_all()
        self._destroy()

    def _destroy(self) -> None:
        """End the context with all that is in it; of one that is lost, nothing needs to work."""
        if self.context is None:
            return
        for tape in list(self.tapes):
            tape.close()
        with suppress(LlamaKitError), self.current():
            if self.cublas is not None:
                self.cublas.close()
            for module in self._modules:
                cu.cuModuleUnload(module)
            if self._event is not None:
                cu.cuEventDestroy(self._event)
            if self.stream is not None:
                cu.cuStreamDestroy(self.stream)
        cu.cuCtxDestroy(self.context)
        self.context, self.stream, self._event = None, None, None
        self._modules, self.cublas, self._workspace = [], None, None

    def _refused(self, message: str, key: str, source: str, log: str) -> BackendError:
        path = self.compiled.keep_log(key, f"{log}\n\n{source}")
        where = f"all that the compiler said in {path}" if path else log[-2000:]
        return BackendError(f"{message} ({kernel_names(source)})", found=where)


class CUDATape(Tape):
    """A graph of launches."""

    def __init__(self, driver: CUDADriver, graph: Any) -> None:
        self.driver, self.graph = driver, graph
        self._gone = weakref.finalize(self, driver.give_graph_back, graph, driver.age)
        self._gone.atexit = False
        driver.tapes.add(self)

    def play(self) -> None:
        """Put it on the stream."""
        if not self._gone.alive:
            raise DeviceLostError(GIVEN_BACK)
        with self.driver.current():
            call(cu.cuGraphLaunch(self.graph, self.driver.stream), "running the graph of a step")

    def close(self) -> None:
        """Destroy it, once."""
        self._gone()


class Kernel:
    """A function, and its name for people."""

    def __init__(self, name: str, function: Any) -> None:
        self.name, self.function = name, function


def _new_context(device: Any) -> Any:
    """A context that nobody shares, and that is not that of the thread."""
    try:
        made = cu.cuCtxCreate(None, 0, device)
    except TypeError:  # bindings of CUDA 12
        made = cu.cuCtxCreate(0, device)
    context = call(made, "context")
    cu.cuCtxPopCurrent()  # making one makes it the thread's
    return context


def _address(place: At) -> Any:
    return cu.CUdeviceptr(place.block.address + place.offset)  # type: ignore[attr-defined]
