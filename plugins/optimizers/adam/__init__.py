"""Adam's family: `adamw`, `adamw_8bit`, and `muon`, which leaves to AdamW what is not a hidden matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.hookspecs import hookimpl

if TYPE_CHECKING:
    from llamakit.optimizer import Optimizer


@hookimpl
def llamakit_optimizers() -> list[type[Optimizer]]:
    """Give the registry this plugin's optimizers."""
    from llamakit.plugins.optimizers.adam.adamw import AdamW
    from llamakit.plugins.optimizers.adam.eight_bit import AdamW8Bit
    from llamakit.plugins.optimizers.adam.muon import Muon

    return [AdamW, AdamW8Bit, Muon]
