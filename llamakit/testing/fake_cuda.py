# ruff: noqa: D102, N802 (names are those of the driver, which documents them)
"""A driver of NVIDIA without a GPU, for `cuda.bindings.driver`: it keeps the rules, and kernels run on the host.

Every call is held against the context that is current on the thread that makes it. What is misused is noted in
`misuses`, since a destructor that fails tells nobody. Modules are the kernels' source, which `testing.shim` builds.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from llamakit.gpu.source import read
from llamakit.testing import shim

MAGIC = b"\x7fELFfake"


class CUresult(enum.IntEnum):
    """Some of the driver's codes."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_NOT_SUPPORTED = 801
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701
    CUDA_ERROR_LAUNCH_FAILED = 719


OK = CUresult.CUDA_SUCCESS


class Context:
    """What a context holds."""

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}
        self.pinned: dict[int, int] = {}
        self.streams: set[Any] = set()
        self.modules: set[Any] = set()
        self.alive, self.fault = True, OK


class CUdeviceptr(int):
    """An address."""


class FakeCUDA(ModuleType):
    """The functions that the plugin calls. `stop_at`: the launch that faults; `room`: bytes of memory."""

    def __init__(self, room: int = 1 << 28, n_device: int = 1, *, old_bindings: bool = False) -> None:
        super().__init__("cuda.bindings.driver")
        self.CUresult, self.CUdeviceptr, self.room, self.n_device = CUresult, CUdeviceptr, room, n_device
        self.CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=SimpleNamespace(value=1))
        self.CU_MEMHOSTALLOC_DEVICEMAP = 2
        self.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
        self.capturing: list[Any] | None = None
        self.graphs: set[Any] = set()
        self.graph_error = OK
        self.graphs_end_early = False  # whether the last launch of a graph is left out
        self.CUdevice_attribute = SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor"
        )
        self.CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=SimpleNamespace(value=2))
        self.peers, self.peer_error, self.events = True, OK, set[Any]()
        self.old_bindings, self.version, self.init = old_bindings, 12080, OK
        self.capability = {"major": 9, "minor": 0}
        self.calls: list[str] = []
        self.misuses: list[str] = []
        self.contexts: list[Context] = []
        self.n_launch, self.stop_at, self.launch_error = 0, -1, CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
        self.load_error = OK
        self.peak = 0
        self._stacks = threading.local()

    # -- contexts -------------------------------------------------------------------------------------------------

    @property
    def stack(self) -> list[Any]:
        """Contexts of this thread, the current one last."""
        if not hasattr(self._stacks, "of"):
            self._stacks.of = []
        found: list[Any] = self._stacks.of
        return found

    @property
    def used(self) -> int:
        return sum(sum(context.memory.values()) for context in self.contexts)

    def _enter(self, name: str, *, needs: Any = None) -> tuple[CUresult, Context]:
        """The current context of a call that needs one."""
        self.calls.append(name)
        if not self.stack:
            self.misuses.append(f"{name} without a context")
            return CUresult.CUDA_ERROR_INVALID_CONTEXT, Context()
        context = self.stack[-1]
        if not isinstance(context, Context) or not context.alive:
            self.misuses.append(f"{name} in a context of others, or one that is gone")
            return CUresult.CUDA_ERROR_INVALID_CONTEXT, Context()
        return context.fault, context

    def cuInit(self, flags: int) -> Any:
        return (self.init,)

    def cuDriverGetVersion(self) -> Any:
        return OK, self.version

    def cuDeviceGetCount(self) -> Any:
        return OK, self.n_device

    def cuDeviceGet(self, index: int) -> Any:
        return OK, index

    def cuDeviceGetName(self, n: int, device: int) -> Any:
        return OK, b"Fake GPU\0"

    def cuDeviceGetAttribute(self, name: str, device: int) -> Any:
        return OK, self.capability[name]

    def cuDeviceTotalMem(self, device: int) -> Any:
        return OK, self.room

    def cuCtxCreate(self, *given: Any) -> Any:
        if self.old_bindings == (len(given) == 3):
            raise TypeError("cuCtxCreate() takes other arguments")
        self.calls.append("cuCtxCreate")
        self.contexts.append(Context())
        self.stack.append(self.contexts[-1])
        return OK, self.contexts[-1]

    def cuCtxDestroy(self, context: Context) -> Any:
        self.calls.append("cuCtxDestroy")
        if not context.alive:
            self.misuses.append("a context is destroyed twice")
        for address in (*context.memory, *context.pinned):
            shim.libc().free(address)
        context.memory, context.pinned, context.alive = {}, {}, False
        return (context.fault,)

    def cuCtxPushCurrent(self, context: Any) -> Any:
        if isinstance(context, Context) and not context.alive:
            self.misuses.append("a context that is gone is made current")
        self.stack.append(context)
        return (OK,)

    def cuCtxPopCurrent(self) -> Any:
        return OK, self.stack.pop()

    # -- memory ---------------------------------------------------------------------------------------------------

    def cuMemGetInfo(self) -> Any:
        code, _ = self._enter("cuMemGetInfo")
        return code, self.room - self.used, self.room

    def cuMemAlloc(self, n_bytes: int) -> Any:
        code, context = self._enter("cuMemAlloc")
        if code is OK and self.used + n_bytes > self.room:
            code = CUresult.CUDA_ERROR_OUT_OF_MEMORY
        if code is not OK:
            return code, 0
        address = shim.libc().malloc(n_bytes)
        ctypes.memset(address, shim.GARBAGE, n_bytes)
        context.memory[address] = n_bytes
        self.peak = max(self.peak, self.used)
        return OK, CUdeviceptr(address)

    def cuMemFree(self, address: int) -> Any:
        code, context = self._enter("cuMemFree")
        if int(address) not in context.memory:
            self.misuses.append("memory is freed that is not of this context, or was freed before")
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        del context.memory[int(address)]
        shim.libc().free(int(address))
        return (code,)

    def cuMemHostAlloc(self, n_bytes: int, flags: int) -> Any:
        code, context = self._enter("cuMemHostAlloc")
        if flags != self.CU_MEMHOSTALLOC_DEVICEMAP:
            self.misuses.append("memory of the host that the device does not see")
        address = shim.libc().malloc(n_bytes)
        ctypes.memset(address, shim.GARBAGE, n_bytes)
        context.pinned[address] = n_bytes
        return code, address

    def cuMemFreeHost(self, address: int) -> Any:
        code, context = self._enter("cuMemFreeHost")
        if context.pinned.pop(int(address), 0) == 0:
            self.misuses.append("memory of the host is freed twice, or is none of this context")
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        shim.libc().free(int(address))
        return (code,)

    def _move(self, name: str, to: int, source: int, n_bytes: int, stream: Any, *places: int) -> Any:
        code, context = self._enter(name)
        if self.capturing is not None:
            self.misuses.append(f"{name} while a graph is recorded")
        self._asked(stream)
        if stream not in context.streams:
            self.misuses.append(f"{name} on a stream of another context")
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        seen = context.memory | context.pinned
        for place in places:
            if not any(a <= int(place) and int(place) + n_bytes <= a + n for a, n in seen.items()):
                self.misuses.append(f"{name}: memory that is not there")
                return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        if code is OK:
            ctypes.memmove(int(to), int(source), n_bytes)
        return (code,)

    def _asked(self, stream: Any) -> None:
        """It is asked for something that may change memory."""
        if stream.lent:
            self.misuses.append("a device goes on while another still reads its memory")
        stream.age += 1

    def cuMemcpyHtoDAsync(self, to: int, source: int, n_bytes: int, stream: Any) -> Any:
        return self._move("cuMemcpyHtoDAsync", to, source, n_bytes, stream, to)

    def cuMemcpyDtoHAsync(self, to: int, source: int, n_bytes: int, stream: Any) -> Any:
        return self._move("cuMemcpyDtoHAsync", to, source, n_bytes, stream, source)

    def cuMemcpyDtoDAsync(self, to: int, source: int, n_bytes: int, stream: Any) -> Any:
        return self._move("cuMemcpyDtoDAsync", to, source, n_bytes, stream, to, source)

    # -- several devices ------------------------------------------------------------------------------------------

    def cuDeviceCanAccessPeer(self, device: int, other: int) -> Any:
        return OK, int(self.peers and device != other)

    def cuEventCreate(self, flags: int) -> Any:
        code, context = self._enter("cuEventCreate")
        event = Event(context)
        self.events.add(event)
        return code, event

    def cuEventDestroy(self, event: Any) -> Any:
        code, _ = self._enter("cuEventDestroy")
        self.events.remove(event)
        return (code,)

    def cuEventRecord(self, event: Any, stream: Any) -> Any:
        code, context = self._enter("cuEventRecord")
        if stream not in context.streams or event.context is not context:
            self.misuses.append("an event of one context is recorded in another")
        event.stream, event.age = stream, stream.age
        return (code,)

    def cuStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> Any:
        code, context = self._enter("cuStreamWaitEvent")
        if stream not in context.streams or event not in self.events:
            self.misuses.append("a stream of another context waits, or for an event that is gone")
        stream.waited[event.stream] = event.age
        stream.lent = {other: age for other, age in stream.lent.items() if other is not event.stream or age > event.age}
        return (code,)

    def cuMemcpyPeerAsync(self, to: int, own: Any, source: int, other: Any, n_bytes: int, stream: Any) -> Any:
        code, context = self._enter("cuMemcpyPeerAsync")
        for address, owner in ((to, own), (source, other)):
            if not any(a <= int(address) and int(address) + n_bytes <= a + n for a, n in owner.memory.items()):
                self.misuses.append("cuMemcpyPeerAsync: memory that is not there")
                return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        if own is not context or stream not in own.streams:
            self.misuses.append("cuMemcpyPeerAsync on a stream of another context")
        if self.peer_error is not OK:
            return (self.peer_error,)
        if any(stream.waited.get(each, -1) < each.age for each in other.streams):
            self.misuses.append("a copy does not wait for what the other device was asked for")
        stream.age += 1
        for each in other.streams:
            each.lent[stream] = stream.age
        if code is OK:
            ctypes.memmove(int(to), int(source), n_bytes)
        return (code,)

    def cuMemsetD32Async(self, to: int, value: int, n: int, stream: Any) -> Any:
        words = (ctypes.c_uint32 * n)(*([value] * n)) if value else (ctypes.c_uint32 * n)()
        return self._move("cuMemsetD32Async", to, ctypes.addressof(words), 4 * n, stream, to)

    # -- streams, modules, launches ---------------------------------------------------------------------------------

    def cuStreamCreate(self, flags: int) -> Any:
        code, context = self._enter("cuStreamCreate")
        stream = Stream()
        context.streams.add(stream)
        return code, stream

    def cuStreamDestroy(self, stream: Any) -> Any:
        code, context = self._enter("cuStreamDestroy")
        context.streams.remove(stream)
        return (code,)

    def cuStreamSynchronize(self, stream: Any) -> Any:
        code, context = self._enter("cuStreamSynchronize")
        if stream not in context.streams:
            self.misuses.append("waiting for a stream of another context")
        return (code,)

    def cuModuleLoadData(self, data: bytes) -> Any:
        code, context = self._enter("cuModuleLoadData")
        if self.load_error is not OK or not data.startswith(MAGIC):
            return (self.load_error or CUresult.CUDA_ERROR_INVALID_IMAGE), None
        source = data.removeprefix(MAGIC).decode().replace(read("prelude_cuda.h"), read("prelude_host.h"))
        module = shim.build(source)
        context.modules.add(module)
        return code, (context, module)

    def cuModuleUnload(self, module: Any) -> Any:
        code, context = self._enter("cuModuleUnload")
        context.modules.discard(module[1])
        return (code,)

    def cuModuleGetFunction(self, module: Any, name: bytes) -> Any:
        code, _ = self._enter("cuModuleGetFunction")
        if not hasattr(module[1], f"run_{name.decode()}"):
            return CUresult.CUDA_ERROR_NOT_FOUND, None
        return code, (*module, name.decode())

    def cuLaunchKernel(self, function: Any, gx: int, gy: int, gz: int, x: int, y: int, z: int, *rest: Any) -> Any:
        code, context = self._enter("cuLaunchKernel")
        _, stream, (values, types), _ = rest
        owner, library, name = function
        if owner is not context or stream not in context.streams:
            self.misuses.append(f"kernel {name} of another context")
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        if self.capturing is not None:
            self.capturing.append((function, gx, gy, gz, x, y, z, *rest))
            return (code,)
        self._asked(stream)
        self.n_launch += 1
        if self.n_launch == self.stop_at:
            code = self.launch_error
            if code is not CUresult.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES:
                context.fault = code
        if code is OK:
            given = [type_(value) for type_, value in zip(types, values, strict=True)]
            shim.run(library, name, gx, x, given, self.n_launch)
        return (code,)

    def cuStreamBeginCapture(self, stream: Any, mode: Any) -> Any:
        code, _ = self._enter("cuStreamBeginCapture")
        self.capturing = []
        return (code,)

    def cuStreamEndCapture(self, stream: Any) -> Any:
        code, _ = self._enter("cuStreamEndCapture")
        graph, self.capturing = Graph(self.capturing or []), None
        self.graphs.add(graph)
        return code, graph

    def cuGraphInstantiate(self, graph: Any, flags: int) -> Any:
        code, _ = self._enter("cuGraphInstantiate")
        if self.graph_error is not OK:
            return self.graph_error, None
        made = Graph(graph.launches)
        self.graphs.add(made)
        return code, made

    def cuGraphDestroy(self, graph: Any) -> Any:
        code, _ = self._enter("cuGraphDestroy")
        self.graphs.remove(graph)
        return (code,)

    def cuGraphExecDestroy(self, graph: Any) -> Any:
        return self.cuGraphDestroy(graph)

    def cuGraphLaunch(self, graph: Any, stream: Any) -> Any:
        code, _ = self._enter("cuGraphLaunch")
        if graph not in self.graphs:
            self.misuses.append("a graph is launched that was destroyed")
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        for launch in graph.launches[: -1 if self.graphs_end_early else None]:
            (code,) = self.cuLaunchKernel(*launch)
        return (code,)


class Event:
    """A point of a stream: all that it had been asked for when it was recorded."""

    def __init__(self, context: Context) -> None:
        self.context, self.age = context, 0
        self.stream: Stream | None = None


class Stream:
    """A stream; as a number it is its address.

    `age`: how much it was asked for. `waited`: for how much of other streams it waited. `lent`: what others read of its
    memory, until it waits for them.
    """

    def __init__(self) -> None:
        self.age = 0
        self.waited: dict[Any, int] = {}
        self.lent: dict[Any, int] = {}

    def __int__(self) -> int:
        return id(self)


class FakeBLAS:
    """cuBLAS as the plugin calls it, over host memory; matrices are columns one after the other.

    `fail`: its code; `exact`: whether operands keep their 24 bits, or are rounded to 11.
    """

    def __init__(self, cuda: FakeCUDA) -> None:
        self.cuda, self.handles, self.products, self.fail = cuda, 0, 0, 0
        self.exact = True
        self.stream: int | None = None
        self.workspace: tuple[int, int] | None = None

    def cublasCreate_v2(self, place: Any) -> int:
        self.cuda._enter("cublasCreate_v2")
        place._obj.value = 1
        self.handles += 1
        return 0

    def cublasDestroy_v2(self, handle: Any) -> int:
        self.cuda._enter("cublasDestroy_v2")
        self.handles -= 1
        return 0

    def cublasGetProperty(self, number: int, place: Any) -> int:
        place._obj.value = (12, 4, 1)[number]
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        self.stream = stream.value
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, place: Any, n_bytes: Any) -> int:
        self.workspace = place.value, n_bytes.value
        return 0

    def cublasSgemm_v2(
        self, handle: Any, op_a: int, op_b: int, m: int, n: int, k: int, alpha: Any, a: Any, lda: int, b: Any, ldb: int,
        beta: Any, c: Any, ldc: int,
    ) -> int:  # fmt: skip
        _, context = self.cuda._enter("cublasSgemm_v2")
        if self.fail:
            return self.fail
        if self.stream not in {id(stream) for stream in context.streams}:
            self.cuda.misuses.append("cuBLAS on a stream of another context")
        left = _matrix(a.value, k, m, lda).T if op_a else _matrix(a.value, m, k, lda)
        right = _matrix(b.value, n, k, ldb).T if op_b else _matrix(b.value, k, n, ldb)
        if not self.exact:
            left, right = (matrix.astype(np.float16).astype(np.float32) for matrix in (left, right))
        out = _matrix(c.value, m, n, ldc)
        out[...] = alpha._obj.value * (left @ right) + (beta._obj.value * out if beta._obj.value else 0)
        self.products += 1
        return 0


def _matrix(address: int, n_row: int, n_column: int, step: int) -> Any:
    """A matrix whose columns lie `step` floats apart."""
    floats = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
    flat = np.ctypeslib.as_array(floats, (step * (n_column - 1) + n_row,))
    return np.lib.stride_tricks.as_strided(flat, (n_row, n_column), (4, 4 * step))


class Graph:
    """Launches that were recorded."""

    def __init__(self, launches: list[Any]) -> None:
        self.launches = launches
