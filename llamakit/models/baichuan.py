"""Baichuan-7B: LLaMA under its own name. The 13B model has ALiBi instead of rope and is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.errors import ModelFileError
from llamakit.models.llama import Variant

if TYPE_CHECKING:
    from llamakit.models.hparams import HParams

VARIANT = Variant()
LAYERS_OF_13B = 40


def check(hparams: HParams) -> None:
    """Refuse the 13B model."""
    if hparams.n_layer == LAYERS_OF_13B:
        raise ModelFileError("Baichuan-13B uses ALiBi position biases, which are not supported; the 7B model is")
