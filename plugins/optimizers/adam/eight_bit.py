"""`adamw_8bit`: AdamW with its moments in eight bits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llamakit.plugins.optimizers.adam.adamw import AdamW

from llamakit.graph.expression import absolute, maximum, minimum, sign, sqrt
from llamakit.graph.graph import DType
from llamakit.optimizer import WEIGHT

if TYPE_CHECKING:
    from llamakit.graph.graph import Tensor
    from llamakit.optimizer import Update

LEAST_OF_8BIT = 4096  # values: of smaller tensors the moments stay in float32, there is nothing to save


class AdamW8Bit(AdamW):
    """The same with a byte for each mean.

    Eight linear bits for 256 values with one scale would lose all small ones. So roots are stored, which spread the
    values over the codes: of |m| the square root, with its sign, of v the fourth root. What is rounded to zero all the
    same cannot make a step too long: |m| / sqrt(v) is held to the bound that it has without rounding
    (Kingma and Ba 2014, section 2.1).
    """

    name = "adamw_8bit"
    summary = "AdamW with moments in eight bits: a quarter of their memory"

    def states(self, tensor: Tensor) -> dict[str, DType]:
        """Roots of the means."""
        dtype = DType.I8 if math.prod(tensor.shape) >= LEAST_OF_8BIT else DType.F32
        return {"m_root": dtype, "v_root": dtype}

    def update(self, update: Update) -> None:
        """As AdamW, between taking the roots' powers and taking roots."""
        m_root, v_root = update["m_root"], update["v_root"]
        v_square = v_root * v_root
        m, v = self.moments(update, m_root * absolute(m_root), v_square * v_square)
        longest = max(1.0, (1 - self.options.beta1) / math.sqrt(1 - self.options.beta2))
        direction = minimum(maximum(self.direction(update, m, v), -longest), longest)
        update.assign(
            {
                "m_root": sign(m) * sqrt(absolute(m)),
                "v_root": sqrt(sqrt(v)),
                WEIGHT: self.moved(update, direction),
            }
        )
