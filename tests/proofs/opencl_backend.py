"""`linear` and `rms_norm` on OpenCL through the backend contract: it carries a device with its own memory.

The proof needs three ops and no more: state tensors, KV caches and adapters are not implemented, and say so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyopencl as cl

from llamakit.backend import Buffer, Device, DeviceInfo, Executable, Footprint, InputLayout, Memory, Precision
from llamakit.gguf import native
from llamakit.graph.graph import Dim
from llamakit.graph.ops import Op

SOURCE = """
kernel void embedding(global const int *tokens, global const float *w, global float *y, int n) {
    int r = get_global_id(0), i = get_global_id(1);
    y[r * n + i] = w[(long)tokens[r] * n + i];
}
kernel void linear(global const float *x, global const float *w, global float *y, int n_in, int n_out) {
    int r = get_global_id(0), o = get_global_id(1);
    float sum = 0;
    for (int k = 0; k < n_in; ++k) sum = fma(x[r * n_in + k], w[(long)o * n_in + k], sum);
    y[r * n_out + o] = sum;
}
kernel void add_bias(global float *y, global const float *b, int n) {
    y[get_global_id(0) * n + get_global_id(1)] += b[get_global_id(1)];
}
kernel void rms_norm(global const float *x, global const float *w, global float *y, int n, float epsilon) {
    int r = get_global_id(0);
    float sum = 0;
    for (int i = 0; i < n; ++i) sum = fma(x[r * n + i], x[r * n + i], sum);
    float factor = 1 / sqrt(sum / n + epsilon);
    for (int i = 0; i < n; ++i) y[r * n + i] = x[r * n + i] * factor * w[i];
}
"""


def first_device() -> Any:
    """A device that computes right (PoCL 3.0 release candidates do not), or None."""
    try:
        platforms = cl.get_platforms()
    except cl.LogicError:
        return None
    good = [p for p in platforms if "PoCL 3.0-rc" not in p.version]
    return good[0].get_devices()[0] if good else None


class OpenCLWeight:
    """A tensor, dequantised, in device memory."""

    def __init__(self, device: OpenCLDevice, source: Any) -> None:
        raw = np.concatenate([piece for _, piece in source.pieces()])
        data = native.dequantize(source.type, raw, source.shape)
        self.name, self.shape, self.n_bytes = source.name, source.shape, data.nbytes
        self.buffer = cl.Buffer(device.context, cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR, hostbuf=data)


class OpenCLBuffer(Buffer):
    """An output: copied to the host when it is asked for."""

    on_host = False

    def __init__(self, queue: Any, buffer: Any, shape: tuple[int, ...]) -> None:
        self._queue, self._buffer, self.shape = queue, buffer, shape

    def numpy(self) -> Any:
        out = np.empty(self.shape, np.float32)
        cl.enqueue_copy(self._queue, out, self._buffer)
        return out


class OpenCLExecutable(Executable):
    """Nodes as kernel launches, one buffer a value."""

    def __init__(self, device: OpenCLDevice, graph: Any, weights: Any) -> None:
        self.device, self.graph, self.weights = device, graph, weights
        layout = InputLayout(graph.inputs)
        self._block = np.zeros(layout.n_values, np.int32)
        self.inputs = layout.views(self._block)
        flags = cl.mem_flags.READ_WRITE
        sizes = {n.output.id: 4 * int(np.prod([int(s) for s in n.output.shape])) for n in graph.nodes}
        sizes |= {graph.inputs[name].id: view.nbytes for name, view in self.inputs.items()}
        self._values = {i: cl.Buffer(device.context, flags, size) for i, size in sizes.items()}

    def run(self, sizes: Any, *, longest: int = 0) -> Any:
        queue = self.device.queue
        for name, view in self.inputs.items():
            cl.enqueue_copy(queue, self._values[self.graph.inputs[name].id], view)
        for node in self.graph.nodes:
            self._launch(node, sizes["rows"])
        queue.finish()
        cut = lambda v: tuple(sizes["rows"] if isinstance(s, Dim) else s for s in v.shape)  # noqa: E731
        return {n: OpenCLBuffer(queue, self._values[v.id], cut(v)) for n, v in self.graph.outputs.items()}

    def _launch(self, node: Any, rows: int) -> None:
        k, queue, out = self.device.kernels_, self.device.queue, self._values[node.output.id]
        weight = self.weights[node.tensors[0].name].buffer
        width = np.int32(int(node.output.shape[-1]))
        if node.op is Op.EMBEDDING:
            tokens = self._values[node.inputs[0].id]
            k["embedding"](queue, (rows, int(width)), None, tokens, weight, out, width)
            return
        x, n_in = self._values[node.inputs[0].id], np.int32(int(node.inputs[0].shape[-1]))
        if node.op is Op.RMS_NORM:
            k["rms_norm"](queue, (rows,), None, x, weight, out, width, np.float32(node.attrs.epsilon))
            return
        k["linear"](queue, (rows, int(width)), None, x, weight, out, n_in, width)
        if node.tensors[1] is not None:
            k["add_bias"](queue, (rows, int(width)), None, out, self.weights[node.tensors[1].name].buffer, width)


class OpenCLDevice(Device):
    """One OpenCL device and a queue."""

    def __init__(self, device: Any) -> None:
        self.info = DeviceInfo(device.name, "cpu")
        self.context = cl.Context([device])
        self.queue = cl.CommandQueue(self.context)
        program = cl.Program(self.context, SOURCE).build(["-cl-std=CL1.2"])
        names = ("embedding", "linear", "add_bias", "rms_norm")
        self.kernels_ = {name: cl.Kernel(program, name) for name in names}

    def supports(self, node: Any) -> bool:
        adapted = node.inputs[-1] is not None and node.op is not Op.RESHAPE and len(node.inputs) > 1
        return node.op in (Op.EMBEDDING, Op.LINEAR, Op.RMS_NORM) and not adapted

    def precision(self, node: Any, weight_type: Any) -> Precision:
        return Precision(operand=0.0, accumulator=2.0**-23)

    def memory(self) -> Memory:
        size = self.context.devices[0].global_mem_size
        return Memory(size, size)

    def footprint(self, graph: Any, sources: Any, kv: Any = None) -> Footprint:
        weights = sum(4 * int(np.prod(tensor.shape)) for tensor in graph.parameters.values())
        values = [value for node in graph.nodes for value in node.outputs]
        return Footprint(weights=weights, program=sum(4 * int(np.prod([int(s) for s in v.shape])) for v in values))

    def load(self, source: Any, uses: Any) -> OpenCLWeight:
        return OpenCLWeight(self, source)

    def compile(self, graph: Any, weights: Any, *, kv: Any = None, adapters: Any = None, states: Any = None) -> Any:
        return OpenCLExecutable(self, graph, weights)

    def state(self, shape: Any) -> Any:
        raise NotImplementedError

    def kv_size(self, spec: Any) -> int:
        raise NotImplementedError

    def kv_cache(self, spec: Any) -> Any:
        raise NotImplementedError

    def adapter_table(self, targets: Any, n_slot: int) -> Any:
        raise NotImplementedError
