"""Steps by op: each makes, of a node, a function that launches its kernels; `WORKSPACES`: what it needs meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.gpu.steps import attention, experts, linear, states, training, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.gpu.lower import Lowering, Step, Types
    from llamakit.graph.graph import Node
    from llamakit.graph.ops import Op

    Make = Callable[[Lowering, Node, int], Step]

STEPS: dict[Op, Make] = {
    **values.STEPS,
    **linear.STEPS,
    **attention.STEPS,
    **experts.STEPS,
    **training.STEPS,
    **states.STEPS,
}
WORKSPACES: dict[Op, Callable[[Node, Types], int]] = {
    **linear.WORKSPACES,
    **attention.WORKSPACES,
    **experts.WORKSPACES,
    **training.WORKSPACES,
    **states.WORKSPACES,
}
