"""What a training run leaves in its folder, and the file that is meant where the folder is named as an adapter."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from llamakit.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

ADAPTER, MODEL = "adapter.gguf", "model.gguf"
PEFT_CONFIG = "adapter_config.json"


def adapter_of_run(path: Path) -> Path:
    """The adapter in the folder of a run; `path` itself if it is anything else, such as a PEFT folder."""
    inside = path / ADAPTER
    return inside if _is_file(inside) and not _is_file(path / PEFT_CONFIG) else path


def not_an_adapter(folder: Path) -> ModelFileError:
    """The error for a folder without an adapter that can be used."""
    if _is_file(folder / PEFT_CONFIG):
        return ModelFileError(
            f"{folder} is a PEFT folder; an adapter that a model runs with is one file",
            hint=f"llamakit lora import {folder} -m BASE.gguf -o adapter.gguf",
        )
    message = f"{folder} is a folder without an adapter: it has neither {ADAPTER} nor {PEFT_CONFIG}"
    model = folder / MODEL
    if _is_file(model):
        return ModelFileError(message, found=f"{model}, a whole model", hint=f"-m {model}")
    return ModelFileError(message, hint="name the adapter's file, or the folder of a training run or of PEFT")


def _is_file(path: Path) -> bool:
    """Whether it is there; of a name that is too long or may not be looked at, whoever opens the file tells."""
    with suppress(OSError, ValueError):
        return path.is_file()
    return False
