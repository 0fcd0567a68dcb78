"""Steps that read weights row by row: embeddings and linears, with adapters.

Few rows of activations meet the quantised weight directly. For many, a slice of the weight at a time is made float32,
and multiplied as matrices are. Weights lie in panels or as in the file, with kernels for either.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from llamakit.gguf import GGMLType
from llamakit.gpu.lower import count, width
from llamakit.gpu.packings import FEW_BACK, MANY, PANEL, PLACES, STEP
from llamakit.gpu.source import GROUP_MATMUL
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
MOST_ITEMS = 256  # that take a panel together


def type_of(tensor: Tensor, types: Types) -> GGMLType:
    """A tensor's type; states are float32."""
    return GGMLType.F32 if tensor.source is Source.STATE else types[tensor.name]


def most_tile(kernels: Kernels) -> int:
    """The most of them: items in groups have fewer registers each."""
    return TILES[-1] if kernels.traits.lanes == 1 else TILES[-2]


def slice_rows(shape: tuple[int, ...]) -> int:
    """Rows of a slice."""
    n_row, most = math.prod(shape[:-1]), SLICE // shape[-1]
    return max(min(n_row, most // PANEL * PANEL or most), 1)


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
            decode(b, weight, part, space, n, begin=begin)
            yield space, begin, n


def decode(
    b: Lowering, weight: Operand, part: Part, to: At, n: int, *, chosen: At | None = None, begin: int = 0
) -> None:
    """`n` rows of a part as float32: those of the tensor's rows that `chosen` names, or those from `begin` on."""
    n_in = weight.shape[-1]
    if not weight.packed:
        kernel = b.kernels.get("decode_rows", "rows", weight.type)
        b.kernels.items(
            kernel, n * -(-n_in // 32), part.place, to if chosen is None else chosen, to, part.first, part.n_row, n,
            n_in, begin, int(chosen is not None),
        )  # fmt: skip
        return
    n_step, get = -(-n_in // STEP), b.kernels.get
    if chosen is not None:
        kernel = get("panel_gather", "panel_rows", weight.type, packed=True)
        b.kernels.items(kernel, n * n_step * 4, part.place, chosen, to, part.first, part.n_row, n, n_in)
        return
    kernel, first = get("panel_decode", "panel_rows", weight.type, packed=True), begin - part.first
    n_panel = -(-(first + n) // PANEL) - first // PANEL
    b.kernels.items(kernel, n_panel * n_step * PLACES, part.place, to, first, n, n_in)


def direct(
    b: Lowering, weight: Operand, x: At, y: At, n: int, bias: At | None = None, pairs: tuple[At, int] | None = None
) -> None:
    """y = x W^T for few rows; `pairs`: which expert each row takes, and how many rows share a row of x."""
    *_, n_out, n_in = weight.shape
    most = TILES[-1] if weight.packed else most_tile(b.kernels)
    tile = 1 if pairs is not None else next((t for t in TILES if t >= n and t <= most), most)
    defines: dict[str, int | str] = {"TILE": tile}
    if pairs is not None:
        defines["PAIRS"] = 1
    run, chosen, share = linear(b, weight, defines), *(pairs or (x, 1))
    for part in weight.parts:
        units = n * units_of(weight) if pairs is not None else -(-n // tile) * units_of(weight, part)
        run(
            units, part.place, x, x if bias is None else bias, y, chosen, part.first, part.n_row, n, n_out,
            n_in, int(bias is not None), share,
        )  # fmt: skip


def sorted_pairs(b: Lowering, weight: Operand, x: At, y: At, n_tile: int, order: At, share: int) -> None:
    """y = x W^T for the pairs of `n_tile` tiles, each of one expert: see `place_pairs` in mixture.cl."""
    *_, n_out, n_in = weight.shape
    run, units = linear(b, weight, {"TILE": most_tile(b.kernels), "SORTED": 1}), n_tile * units_of(weight)
    for part in weight.parts:
        run(units, part.place, x, x, y, order, part.first, part.n_row, n_tile, n_out, n_in, 0, share)


def linear(b: Lowering, weight: Operand, defines: dict[str, int | str]) -> Callable[..., None]:
    """The kernel of products with few rows, to be run with its units and arguments.

    A panel has four times the items of a row, if it has so many steps, and the device such groups for this kernel.
    """
    kernels, get = b.kernels, b.kernels.get
    if not weight.packed:
        return partial(kernels.units, get("linear", "rows", weight.type, defines))
    items = 1
    if kernels.traits.lanes > 1:
        steps = -(-weight.shape[-1] // STEP)
        items = min(4 * kernels.traits.lanes, PLACES << (steps - 1).bit_length(), MOST_ITEMS)
    kernel = get("panel_linear", "panel_rows", weight.type, defines | {"ITEMS": items}, packed=True)
    most = 1 << kernels.driver.most_items(kernel).bit_length() - 1
    if items > most:
        items = most
        kernel = get("panel_linear", "panel_rows", weight.type, defines | {"ITEMS": items}, packed=True)
    if items == 1:
        return partial(kernels.units, kernel)
    return lambda units, *given: kernels.groups(kernel, units, items, *given)


def units_of(weight: Operand, part: Part | None = None) -> int:
    """Its units for the rows of a part, or for those of an expert, which may begin and end within panels."""
    n = weight.shape[-2] if part is None else part.n_row
    if not weight.packed:
        return n
    return -(-n // PANEL) if part is not None else (n + 2 * PANEL - 2) // PANEL


def product(b: Lowering, weight: Operand, x: At, y: At, n: int, space: At, bias: At | None = None) -> None:
    """y = x W^T (+ bias), for any number of rows."""
    n_out, n_in = weight.shape
    if n <= FEW:
        direct(b, weight, x, y, n, bias)
        return
    if in_tiles(b, weight, n):
        kernel, added = tiles(b, "panel_product", weight), x if bias is None else bias
        for part in weight.parts:
            n_group = -(-n // MANY) * -(-part.n_row // (2 * PANEL))
            given = (part.place, x, added, y, part.first, part.n_row, n, n_out, n_in, int(bias is not None))
            b.kernels.groups(kernel, n_group, GROUP_MATMUL, *given)
        return
    for place, first, rows in slices(b, weight, space):
        to, shift = y.plus(4 * first), None if bias is None else bias.plus(4 * first)
        multiply(b.kernels, x, place, to, (n, rows, n_in), (n_in, 1, 1, n_in, n_out), shift)


def transposed(b: Lowering, weight: Operand, dy: At, dx: At, n: int, space: At) -> None:
    """dx = dy W."""
    n_out, n_in = weight.shape
    if in_tiles(b, weight, n):
        kernel = tiles(b, "panel_back", weight)
        for part in weight.parts:
            n_group = -(-n // FEW_BACK) * -(-n_in // STEP)
            given = (part.place, dy, dx, part.first, part.n_row, n, n_out, n_in, int(part.first > 0))
            b.kernels.groups(kernel, n_group, GROUP_MATMUL, *given)
        return
    for place, first, rows in slices(b, weight, space):
        multiply(b.kernels, dy.plus(4 * first), place, dx, (n, n_in, rows), (n_out, 1, n_in, 1, n_in), add=first > 0)


def in_tiles(b: Lowering, weight: Operand, n: int) -> bool:
    """Whether `n` rows meet panels by tiles: where items work together, and no library is there for products."""
    n_out, n_in = weight.shape
    return weight.packed and b.kernels.traits.lanes > 1 and not b.kernels.driver.multiplies((n, n_out, n_in))


def tiles(b: Lowering, name: str, weight: Operand) -> Any:
    """A kernel of products of many rows with panels."""
    return b.kernels.get(name, "panel_tiles", weight.type, packed=True)


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
            decode(b, weight, part, y, n, chosen=tokens)
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
