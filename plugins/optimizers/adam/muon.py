"""`muon`: momentum with its matrices made orthogonal; AdamW for all that is not a hidden matrix.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the factor that makes a step as long as
AdamW's is that of Liu et al. 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from llamakit.plugins.optimizers.adam.adamw import AdamW, AdamWOptions
from msgspec import Meta

from llamakit.graph.attrs import MapAttrs, MatmulAttrs, ReduceAttrs, ScaleAttrs
from llamakit.graph.expression import scalar, sqrt, state
from llamakit.graph.graph import DType
from llamakit.graph.ops import Op
from llamakit.optimizer import WEIGHT

if TYPE_CHECKING:
    from llamakit.graph.graph import Tensor, Value
    from llamakit.optimizer import Update

# Of the quintic iteration: its slope at 0 is as large as its values stay between about 0.7 and 1.2.
A, B, C = 3.4445, -4.7750, 2.0315
AS_ADAMW = 0.2  # root mean square of AdamW's steps


class MuonOptions(AdamWOptions):
    """Those of AdamW are for the tensors that it moves."""

    momentum: Annotated[float, Meta(ge=0, lt=1, description="Share of the last step that is taken again.")] = 0.95
    iterations: Annotated[int, Meta(ge=1, le=20, description="Iterations that make a matrix orthogonal.")] = 5


class Muon(AdamW):
    """Matrices inside of the network move by orthogonal steps."""

    name = "muon"
    summary = "orthogonal steps for matrices, AdamW for the rest"
    Options = MuonOptions

    def states(self, tensor: Tensor) -> dict[str, DType]:
        """The momentum, and room for the step."""
        return {"momentum": DType.F32, "step": DType.F32} if is_hidden(tensor) else super().states(tensor)

    def update(self, update: Update) -> None:
        """Momentum, its length, the iteration, the step."""
        if not is_hidden(update.tensor):
            super().update(update)
            return
        mu, g = self.options.momentum, update.gradient
        moved = mu * update["momentum"] + g
        update.assign({"momentum": moved, "step": g + mu * moved})
        step, builder, name = update.tensors["step"], update.builder, update.tensor.name
        squares = builder.add(Op.REDUCE, f"{name}.squares", tensors=(step,), attrs=ReduceAttrs("sum_squares"))
        unit = MapAttrs(((0, state(0) / (sqrt(scalar(0)) + 1e-7)),))
        builder.add_all(Op.MAP, f"{name}.unit", (squares,), tensors=(step,), attrs=unit)
        orthogonal = self.orthogonal(update, builder.read(step))
        builder.add_all(Op.WRITE_STATE, f"{name}.step", (orthogonal,), tensors=(step,))
        longer = AS_ADAMW * math.sqrt(max(update.tensor.shape))
        update.assign({WEIGHT: self.moved(update, longer * update["step"])}, last=True)

    def orthogonal(self, update: Update, x: Value) -> Value:
        """x (n, m) with its singular values near 1: x = a x + b (x x^T) x + c (x x^T)^2 x, a few times."""
        builder, wide = update.builder, update.tensor.shape[0] <= update.tensor.shape[1]
        for i in range(self.options.iterations):
            name = f"{update.tensor.name}.iteration{i}"
            square = MatmulAttrs(transpose_a=not wide, transpose_b=wide)
            gram = builder.add(Op.MATMUL, f"{name}.gram", (x, x), attrs=square)  # of the smaller side
            fourth = builder.add(Op.MATMUL, f"{name}.fourth", (gram, gram))
            second = builder.add(Op.SCALE, f"{name}.b", (gram,), attrs=ScaleAttrs(B))
            fourth = builder.add(Op.SCALE, f"{name}.c", (fourth,), attrs=ScaleAttrs(C))
            both = builder.add(Op.ADD, f"{name}.both", (second, fourth))
            turned = builder.add(Op.MATMUL, f"{name}.turned", (both, x) if wide else (x, both))
            first = builder.add(Op.SCALE, f"{name}.a", (x,), attrs=ScaleAttrs(A))
            x = builder.add(Op.ADD, name, (first, turned))
        return x


def is_hidden(tensor: Tensor) -> bool:
    """Whether it is a matrix inside of the network: not an embedding, not a head, not a vector."""
    return len(tensor.shape) == 2 and not tensor.name.startswith(("token_embd", "output."))
