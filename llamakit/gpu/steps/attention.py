"""The step of attention: over the cache, or among the rows of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamakit.gpu.lower import count, width
from llamakit.gpu.source import CHUNK, stored_defines
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.gpu.lower import Lowering, Sizes, Step, Types
    from llamakit.graph.graph import Node


MOST_SPLITS = 32
BLOCKS_A_SPLIT = 8  # at least
FEW = 16  # rows whose heads are too few units for a device, so that positions are split too


def splits(node: Node) -> int:
    """Into how many parts the positions of a sequence are split where rows are few: as many as its table could need."""
    tables = node.input("block_tables")
    return 1 if tables is None else max(min(int(tables.shape[1]) // BLOCKS_A_SPLIT, MOST_SPLITS), 1)


def _space(node: Node, types: Types) -> int:
    """What the parts make."""
    n, (n_row, n_head, head) = splits(node), node.output.shape
    return min(int(n_row), FEW) * int(n_head) * n * (int(head) + 2) if n > 1 else 0


def _attention(b: Lowering, node: Node, number: int) -> Step:
    return _step(b, node) if node.attrs.layer is None or b.kv is None else _cached(b, node, number)


def _cached(b: Lowering, node: Node, number: int) -> Step:
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
    n_split = splits(node) if b.kernels.traits.lanes > 1 else 1
    if n_split > 1:
        positions_each = -(-table_width * kv.spec.block_size // n_split // CHUNK) * CHUNK
        n_split = -(-table_width * kv.spec.block_size // positions_each)
        defines = {"HEAD_V": layer.head_dim_v, "SPLIT": positions_each, **stored}
        attend_part = b.kernels.get("attention", "cells", None, defines)
        merge, parts = b.kernels.get("merge_attention", "cells", None, defines), b.workspace(number)

    def step(sizes: Sizes) -> None:
        n = rows.of(sizes)
        b.kernels.items(store, n * n_block, *written, n, n_k, n_v, k_bytes, row)
        if n_split > 1 and n <= FEW:
            units = n * n_head * n_split
            b.kernels.units(attend_part, units, *read, slopes, sinks, parts, n, *shape, *extra)
            b.kernels.units(merge, n * n_head, parts, sinks, y, n, n_head, n_split, extra[1])
            return
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
WORKSPACES: dict[Op, Callable[[Node, Types], int]] = {Op.ATTENTION: _space}
