"""Expressions over the elements of states: what the op `map` computes, written with Python's operators.

    m, v, w, g = (state(i) for i in range(4))
    new_m = 0.9 * m + 0.1 * g
    new_w = w - scalar(0) * new_m / (sqrt(v) + 1e-8)

An expression is data. `instructions` makes a flat list of it in which what occurs twice is computed once; a backend
compiles or interprets that list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamakit.graph.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Iterable

UNARY = ("sqrt", "abs", "sign")
BINARY = ("add", "sub", "mul", "div", "max", "min")
LEAVES = ("constant", "scalar", "state")


@dataclass(frozen=True, slots=True)
class Expression:
    """One operation; `value` is a constant's number, or which scalar or state is read."""

    op: str
    parts: tuple[Expression, ...] = ()
    value: float = 0.0

    def __add__(self, other: Expression | float) -> Expression:
        return Expression("add", (self, wrap(other)))

    def __radd__(self, other: float) -> Expression:
        return Expression("add", (wrap(other), self))

    def __sub__(self, other: Expression | float) -> Expression:
        return Expression("sub", (self, wrap(other)))

    def __rsub__(self, other: float) -> Expression:
        return Expression("sub", (wrap(other), self))

    def __mul__(self, other: Expression | float) -> Expression:
        return Expression("mul", (self, wrap(other)))

    def __rmul__(self, other: float) -> Expression:
        return Expression("mul", (wrap(other), self))

    def __truediv__(self, other: Expression | float) -> Expression:
        return Expression("div", (self, wrap(other)))

    def __rtruediv__(self, other: float) -> Expression:
        return Expression("div", (wrap(other), self))


def wrap(value: Expression | float) -> Expression:
    """A number as a constant; an expression as it is."""
    return value if isinstance(value, Expression) else Expression("constant", value=float(value))


def state(index: int) -> Expression:
    """The element of state number `index`."""
    return Expression("state", value=index)


def scalar(index: int) -> Expression:
    """Number `index` of the op's input `scalars`, given at each run."""
    return Expression("scalar", value=index)


def sqrt(x: Expression) -> Expression:
    """Square root."""
    return Expression("sqrt", (x,))


def absolute(x: Expression) -> Expression:
    """|x|."""
    return Expression("abs", (x,))


def sign(x: Expression) -> Expression:
    """-1, 0 or 1."""
    return Expression("sign", (x,))


def maximum(a: Expression | float, b: Expression | float) -> Expression:
    """The larger of two."""
    return Expression("max", (wrap(a), wrap(b)))


def minimum(a: Expression | float, b: Expression | float) -> Expression:
    """The smaller of two."""
    return Expression("min", (wrap(a), wrap(b)))


@dataclass(frozen=True, slots=True)
class Instruction:
    """One operation of a flat program; `a` and `b` are numbers of earlier instructions, -1 where there is none."""

    op: str
    a: int = -1
    b: int = -1
    value: float = 0.0


def instructions(roots: Iterable[Expression]) -> tuple[list[Instruction], list[int]]:
    """A program that computes all `roots`, and for each of them the number of the instruction that gives it."""
    program: list[Instruction] = []
    known: dict[Instruction, int] = {}
    made: dict[Expression, int] = {}
    results = []
    for root in roots:
        stack = [root]
        while stack:
            top = stack[-1]
            missing = [part for part in top.parts if part not in made]
            if top in made or missing:
                stack.extend(missing) if top not in made else stack.pop()
                continue
            parts = [made[part] for part in top.parts] + [-1, -1]
            instruction = Instruction(top.op, parts[0], parts[1], top.value)
            if instruction not in known:
                known[instruction] = len(program)
                program.append(instruction)
            made[top] = known[instruction]
            stack.pop()
        results.append(made[root])
    return program, results


def check(roots: Iterable[Expression], n_state: int, n_scalar: int) -> None:
    """GraphError unless every operation is known and every state and scalar that is read is there."""
    for each in instructions(roots)[0]:
        n_part = (each.a >= 0) + (each.b >= 0)
        wanted = 2 if each.op in BINARY else 1 if each.op in UNARY else 0
        if each.op not in (*UNARY, *BINARY, *LEAVES) or n_part != wanted:
            raise GraphError(f"expression: {each.op!r} of {n_part} operands is not an operation")
        n = n_state if each.op == "state" else n_scalar
        if each.op in ("state", "scalar") and not 0 <= each.value < n:
            raise GraphError(f"expression: {each.op} {each.value:g} is read, there are {n}")
