"""Baichuan-7B: LLaMA under its own name. The 13B model has ALiBi instead of rope and is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.errors import ModelFileError
from llamakit.hookspecs import hookimpl
from llamakit.models import Architecture, LlamaFamily

if TYPE_CHECKING:
    from llamakit.models import HParams
    from llamakit.models.architecture import ModelFile

LAYERS_OF_13B = 40


class Baichuan(LlamaFamily):
    """The 7B model."""

    name = "baichuan"
    summary = "Baichuan-7B"

    def read(self, file: ModelFile) -> HParams:
        """As the family, without the 13B model."""
        hparams = super().read(file)
        if hparams.n_layer == LAYERS_OF_13B:
            raise ModelFileError("Baichuan-13B uses ALiBi position biases, which are not supported; the 7B model is")
        return hparams


@hookimpl
def llamakit_architectures() -> list[type[Architecture]]:
    """Give the registry this plugin's architectures."""
    return [Baichuan]
