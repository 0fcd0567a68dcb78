"""Steps that read weights row by row: embeddings and linears, with adapters.

Few rows of activations meet the packed weight directly. For many, a slice of the weight at a time is made float32, and
multiplied as matrices are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llamakit.gguf import GGMLType
from llamakit.gpu.lower import count, width
from llamakit.gpu.steps.values import multiply
from llamakit.graph.graph import Source
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llamakit.gpu.driver import At
    from llamakit.gpu.lower import Lowering, Operand, Sizes, Step, Types
    from llamakit.gpu.memory import Part
    from llamakit.gpu.source import Kernels
    from llamakit.graph.graph import Node, Tensor, Value

FEW = 16  # rows that meet a packed weight
TILES = (1, 4, 8)  # rows that a weight's values may be unpacked for at once
SLICE = 1 << 22  # values of a weight that are float32 at once


def type_of(tensor: Tensor, types: Types) -> GGMLType:
    """A tensor's type; states are float32."""
    return GGMLType.F32 if tensor.source is Source.STATE else types[tensor.name]


def most_tile(kernels: Kernels) -> int:
    """The most of them: items in groups have fewer registers each."""
    return TILES[-1] if kernels.traits.lanes == 1 else TILES[-2]


def slice_rows(shape: tuple[int, ...]) -> int:
    """Rows of a slice."""
    return max(min(math.prod(shape[:-1]), SLICE // shape[-1]), 1)


def slice_space(tensor: Tensor | None, types: Types) -> int:
    """Values of a slice; none are needed where the weight is float32."""
    if tensor is None or type_of(tensor, types) is GGMLType.F32:
        return 0
    return slice_rows(tensor.shape) * tensor.shape[-1]


def slices(b: Lowering, weight: Operand, space: At, rows: range | None = None) -> Iterator[tuple[At, int, int]]:
    """(place, first row, rows) of a weight as float32, a slice at a time; `rows`: which of it."""
    n_in = weight.shape[-1]
    wanted = range(math.prod(weight.shape[:-1])) if rows is None else rows
    most = slice_rows(weight.shape)
    for part in weight.parts:
        first, stop = max(part.first, wanted.start), min(part.first + part.n_row, wanted.stop)
        if weight.type is GGMLType.F32:
            if stop > first:
                yield part.place.plus(4 * (first - part.first) * n_in), first, stop - first
            continue
        for begin in range(first, stop, most):
            n = min(most, stop - begin)
            decode(b, weight.type, part, n_in, space, n, begin=begin)
            yield space, begin, n


def decode(
    b: Lowering, type: GGMLType, part: Part, n_in: int, to: At, n: int, *, chosen: At | None = None, begin: int = 0
) -> None:
    """`n` rows of a weight as float32: those that `chosen` names, or those from `begin` on."""
    kernel = b.kernels.get("decode_rows", "rows", type)
    b.kernels.items(
        kernel, n * -(-n_in // 32), part.place, to if chosen is None else chosen, to, part.first, part.n_row, n, n_in,
        begin, int(chosen is not None),
    )  # fmt: skip


def direct(
    b: Lowering, weight: Operand, x: At, y: At, n: int, bias: At | None = None, pairs: tuple[At, int] | None = None
) -> None:
    """y = x W^T for few rows; `pairs`: which expert each row takes, and how many rows share a row of x."""
    *_, n_out, n_in = weight.shape
    most = most_tile(b.kernels)
    tile = 1 if pairs is not None else next((t for t in TILES if t >= n and t <= most), most)
    defines: dict[str, int | str] = {"TILE": tile}
    if pairs is not None:
        defines["PAIRS"] = 1
    kernel = b.kernels.get("linear", "rows", weight.type, defines)
    chosen, share = pairs or (x, 1)
    for part in weight.parts:
        units = n * n_out if pairs is not None else -(-n // tile) * part.n_row
        b.kernels.units(
            kernel, units, part.place, x, x if bias is None else bias, y, chosen, part.first, part.n_row, n, n_out,
            n_in, int(bias is not None), share,
        )  # fmt: skip


def sorted_pairs(b: Lowering, weight: Operand, x: At, y: At, n_tile: int, order: At, share: int) -> None:
    """y = x W^T for the pairs of `n_tile` tiles, each of one expert: see `place_pairs` in mixture.cl."""
    *_, n_out, n_in = weight.shape
    kernel = b.kernels.get("linear", "rows", weight.type, {"TILE": most_tile(b.kernels), "SORTED": 1})
    for part in weight.parts:
        b.kernels.units(
            kernel, n_tile * n_out, part.place, x, x, y, order, part.first, part.n_row, n_tile, n_out, n_in, 0, share
        )


def product(b: Lowering, weight: Operand, x: At, y: At, n: int, space: At, bias: At | None = None) -> None:
    """y = x W^T (+ bias), for any number of rows."""
    n_out, n_in = weight.shape
    if n <= FEW:
        direct(b, weight, x, y, n, bias)
        return
    for place, first, rows in slices(b, weight, space):
        to, shift = y.plus(4 * first), None if bias is None else bias.plus(4 * first)
        multiply(b.kernels, x, place, to, (n, rows, n_in), (n_in, 1, 1, n_in, n_out), shift)


def _linear(b: Lowering, node: Node, number: int) -> Step:
    weight, bias, space = b.operand(node.tensors[0]), node.tensors[1], b.workspace(number)
    x, y, rows = b.at(node.inputs[0]), b.at(node.output), count(node.output, len(node.output.shape) - 1)
    shift = None if bias is None else b.vector(bias)
    adapt = _adapter(b, node, x, y)

    def step(sizes: Sizes) -> None:
        n = rows.of(sizes)
        if n:
            product(b, weight, x, y, n, space, shift)
            adapt(n)

    return step


def _embedding(b: Lowering, node: Node, number: int) -> Step:
    weight, rows = b.operand(node.tensors[0]), count(node.output, len(node.output.shape) - 1)
    tokens, y = b.at(node.inputs[0]), b.at(node.output)
    adapt = _adapter(b, node, tokens, y)

    def step(sizes: Sizes) -> None:
        n = rows.of(sizes)
        for part in weight.parts:
            decode(b, weight.type, part, weight.shape[1], y, n, chosen=tokens)
        adapt(n)

    return step


def _adapter(b: Lowering, node: Node, x: At, y: At) -> Callable[[int], None]:
    """What the adapters of the rows' slots add."""
    slots: Value | None = node.inputs[1]
    tensor, table = node.tensors[0], b.adapters
    if slots is None or table is None or tensor is None or tensor.name not in table.targets:
        return lambda n: None
    name, where, entry, embedding = tensor.name, b.at(slots), table.entry(tensor.name), int(node.op is Op.EMBEDDING)
    n_in, n_out = tensor.shape[-1], width(node.output)
    shrink, expand = b.kernels.get("shrink", "mixture"), b.kernels.get("expand", "mixture")

    def adapt(n: int) -> None:
        rank = table.ranks.get(name, 0)
        if not rank or not n:
            return
        h = table.scratch(n * rank)
        b.kernels.units(shrink, n * rank, x, x, where, entry, table.pool, h, n, n_in, rank, embedding)
        b.kernels.items(expand, n * n_out, h, where, entry, table.pool, y, n, n_out, rank, embedding)

    return adapt


STEPS = {Op.LINEAR: _linear, Op.EMBEDDING: _embedding}
WORKSPACES: dict[Op, Callable[[Node, Types], int]] = {
    Op.LINEAR: lambda node, types: slice_space(node.tensors[0], types) if int(node.output.shape[0]) > FEW else 0
}
