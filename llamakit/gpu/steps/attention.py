"""The step of attention: over the cache, or among the rows of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamakit.gpu.lower import count, width
from llamakit.gpu.source import stored_defines
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from llamakit.gpu.lower import Lowering, Sizes, Step
    from llamakit.graph.graph import Node


def _attention(b: Lowering, node: Node, number: int) -> Step:
    return _step(b, node) if node.attrs.layer is None or b.kv is None else _cached(b, node)


def _cached(b: Lowering, node: Node) -> Step:
    q, k, v, positions, sequences, cells, tables = node.inputs
    a, kv, stored = node.attrs, b.kv, stored_defines(b.kv.spec.type if b.kv else "f16")
    assert kv is not None
    assert k is not None
    assert tables is not None
    layer, (k_bytes, row) = kv.spec.layers[a.layer], kv.rows[a.layer]
    n_k, n_v = layer.n_values
    n_head, n_head_kv, table_width = int(node.output.shape[1]), layer.n_head_kv, int(tables.shape[1])
    store = b.kernels.get("store_cells", "cells", None, stored)
    attend = b.kernels.get("attention", "cells", None, {"HEAD_V": layer.head_dim_v, **stored})
    rows, n_block = count(node.output, 1), (n_k + n_v) // int(stored["STORED_BLOCK"])
    written = (b.at(k), b.at(v), b.at(cells), kv.layers[a.layer])
    read = (b.at(q), kv.layers[a.layer], *(b.at(value) for value in (positions, sequences, tables)))
    slopes, sinks = b.constant(np.array(a.slopes, np.float32)), b.vector(node.tensors[0])
    shape = (n_head, n_head_kv, layer.head_dim_k, k_bytes, row, table_width, kv.spec.block_size, a.window or 0)
    extra = (int(bool(a.slopes)), int(node.tensors[0] is not None), float(a.scale), float(a.soft_cap))
    y = b.at(node.output)

    def step(sizes: Sizes) -> None:
        n = rows.of(sizes)
        b.kernels.items(store, n * n_block, *written, n, n_k, n_v, k_bytes, row)
        b.kernels.units(attend, n * n_head, *read, slopes, sinks, y, n, *shape, *extra)

    return step


def _step(b: Lowering, node: Node) -> Step:
    q, k, v, positions, sequences = node.inputs[:5]
    assert k is not None
    assert v is not None
    a, n_head, n_head_kv = node.attrs, int(node.output.shape[1]), int(k.shape[1])
    kernel = b.kernels.get("step_attention", "step_attention", None, {"HEAD_K": width(k), "HEAD_V": width(v)})
    slopes, sinks = b.constant(np.array(a.slopes, np.float32)), b.vector(node.tensors[0])
    places = (*(b.at(value) for value in (q, k, v, positions, sequences)), slopes, sinks, b.at(node.output))
    log_sums = b.at(node.outputs[1]) if a.log_sum_exp else b.arena
    rows = count(node.output, 1)
    extra = (int(bool(a.slopes)), int(node.tensors[0] is not None), int(a.log_sum_exp))

    def step(sizes: Sizes) -> None:
        n = rows.of(sizes)
        b.kernels.units(
            kernel, n * n_head, *places, log_sums, n, n_head, n_head_kv, a.window or 0, *extra, float(a.scale),
            float(a.soft_cap),
        )  # fmt: skip

    return step


STEPS = {Op.ATTENTION: _attention}
