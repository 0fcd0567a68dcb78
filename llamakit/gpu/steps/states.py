"""Steps over all elements of states: reductions, and expressions, for each of which a kernel is written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llamakit.gpu.memory import I8_BLOCK
from llamakit.graph.expression import instructions
from llamakit.graph.graph import DType
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamakit.gpu.lower import Lowering, Sizes, Step, Types
    from llamakit.graph.attrs import MapAttrs
    from llamakit.graph.expression import Instruction
    from llamakit.graph.graph import Node, Tensor

KINDS = {DType.F32: 0, DType.BF16: 1, DType.I8: 2}
REDUCTIONS = ("sum", "sum_squares", "max_abs")
PARTS = 1024  # of a reduction
FORMS = {
    "add": "{a} + {b}", "sub": "{a} - {b}", "mul": "{a} * {b}", "div": "{a} / {b}", "sqrt": "SQRT({a})",
    "max": "({a} > {b} ? {a} : {b})", "min": "({a} < {b} ? {a} : {b})", "abs": "FABS({a})",
    "sign": "(float)(({a} > 0.0f) - ({a} < 0.0f))",
}  # fmt: skip


def scales_at(tensor: Tensor) -> int:
    """Where the scales of an i8 state begin, in bytes."""
    return -(-math.prod(tensor.shape) // I8_BLOCK) * I8_BLOCK


def map_source(attrs: MapAttrs, dtypes: Sequence[DType]) -> str:
    """A kernel of an elementwise assignment: an item takes an element, or 256 of them where a state is i8."""
    program, results = instructions(expression for _, expression in attrs.assignments)
    states = "".join(f", BUF(u8, s{i}), const int at{i}" for i in range(len(dtypes)))
    uses = "".join(f"    USE(u8, s{i});\n" for i in range(len(dtypes)))
    block = I8_BLOCK if DType.I8 in dtypes else 1
    codes = [(number, result) for (number, _), result in zip(attrs.assignments, results, strict=True)]
    kept = [number for number, _ in codes if dtypes[number] is DType.I8]
    lines = [f"        float v{i} = {_form(each, dtypes)};" for i, each in enumerate(program)]
    for number, result in codes:
        to = f"new{number}[i - first] = v{result}" if number in kept else (
            f"set_element(s{number}, {KINDS[dtypes[number]]}, i, v{result})"
        )  # fmt: skip
        lines.append(f"        {to};")
    body = "\n".join(lines)
    arrays = "".join(f"    float new{number}[{block}];\n" for number in kept)
    after = "".join(f"    set_codes(s{n}, first, last - first, at{n}, new{n});\n" for n in kept)
    return (
        f"KERNEL void map(BUF(const float, scalars), const int n{states}) {{\n    USE(const float, scalars);\n{uses}"
        f"{arrays}    if (INDEX * {block} >= n) return;\n    int first = (int)INDEX * {block};\n"
        f"    int last = n - first < {block} ? n : first + {block};\n"
        f"    for (int i = first; i < last; ++i) {{\n{body}\n    }}\n{after}}}\n"
    )


def _form(each: Instruction, dtypes: Sequence[DType]) -> str:
    """An instruction in C."""
    if each.op == "constant":
        return f"BITS_FLOAT({_bits(each.value)}u)"
    if each.op == "scalar":
        return f"scalars[{int(each.value)}]"
    if each.op == "state":
        number = int(each.value)
        return f"element(s{number}, {KINDS[dtypes[number]]}, i, at{number})"
    return FORMS[each.op].format(a=f"v{each.a}", b=f"v{each.b}")


def _bits(value: float) -> int:
    import numpy as np

    return int(np.float32(value).view(np.uint32))


def _map(b: Lowering, node: Node, number: int) -> Step:
    states = [tensor for tensor in node.tensors if tensor is not None]
    dtypes = [tensor.dtype for tensor in states]
    kernel = b.kernels.own("map", "states", map_source(node.attrs, dtypes))
    scalars, n = b.at(node.inputs[0]), math.prod(states[0].shape)
    given = [each for tensor in states for each in (b.states[tensor.name].place, scales_at(tensor))]
    items = -(-n // I8_BLOCK) if DType.I8 in dtypes else n
    return lambda sizes: b.kernels.items(kernel, items, scalars, n, *given)


def _reduce(b: Lowering, node: Node, number: int) -> Step:
    tensor = node.tensors[0]
    assert tensor is not None
    start, end = b.kernels.get("reduce", "states"), b.kernels.get("finish_reduce", "states")
    n, kind, dtype = math.prod(tensor.shape), REDUCTIONS.index(node.attrs.kind), KINDS[tensor.dtype]
    state, parts, y = b.states[tensor.name].place, b.workspace(number), b.at(node.output)

    def step(sizes: Sizes) -> None:
        b.kernels.items(start, PARTS, state, parts, n, dtype, scales_at(tensor), kind, PARTS)
        b.kernels.items(end, 1, parts, y, kind, PARTS)

    return step


STEPS = {Op.MAP: _map, Op.REDUCE: _reduce}
WORKSPACES: dict[Op, Callable[[Node, Types], int]] = {Op.REDUCE: lambda node, types: PARTS}
