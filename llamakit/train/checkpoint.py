"""Checkpoints: all that a run needs to go on as if it had never stopped, in one GGUF file that is whole or not there.

Tensors are the trained weights and the optimizer's states, by name, so that no order of evaluation can exchange them.
The key `llamakit.training` holds the rest as JSON.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
from msgspec import Meta

from llamakit.errors import NO_ROOM, LlamaKitError, ModelFileError
from llamakit.gguf import open_gguf
from llamakit.gguf.constants import GGMLType
from llamakit.gguf.writer import GGUFWriter
from llamakit.train.cursor import CursorState
from llamakit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy.typing as npt

    from llamakit.backend import State

KEY, VERSION = "llamakit.training", 1
CHECKPOINTS = "checkpoints"  # folder of them within that of a run
NAME = re.compile(r"step-(\d+)\.gguf")
Count = Annotated[int, Meta(ge=0)]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run is. `step`: updates done; `best_loss` and `best_step`: of validations; `worse`: since then."""

    step: Count
    cursor: CursorState
    best_loss: float | None = None
    best_step: Count = 0
    worse: Count = 0
    tokens: Count = 0


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What the JSON holds.

    `base`: the base's path; `base_digest` and `data_digest`: SHA-256 of the contents; `samples_digest`: of the samples
    that tokenizer and chat template made of the data; `windows_digest`: of the windows that those were packed into
    ("": of a checkpoint from before there was one).
    """

    version: int = VERSION
    base: str
    base_digest: str
    data_digest: str
    samples_digest: str = ""
    windows_digest: str = ""
    options: TrainOptions
    progress: Progress


class _Version(msgspec.Struct, frozen=True):
    """What is read first."""

    version: int | None = None


def save(path: Path, head: Checkpoint, states: dict[str, State]) -> None:
    """Write a checkpoint. LlamaKitError if the disk does not take it; what was there before stays."""
    try:
        with GGUFWriter(path) as writer:
            writer.add("general.architecture", "llamakit-training")
            writer.add("general.type", "checkpoint")
            writer.add(KEY, msgspec.json.encode(head).decode())
            for name, state in states.items():
                writer.add_tensor(name, partial(_values, state), GGMLType.F32, tuple(state.shape))
    except OSError as error:
        raise write_error(path, error) from None


def _values(state: State) -> npt.NDArray[np.float32]:
    """Read when its turn to be written comes: all states at once would double what training takes."""
    return np.ascontiguousarray(state.read(), np.float32)


def write_error(path: Path, error: OSError) -> LlamaKitError:
    """Why a file of a run, or the folder of a run, could not be written."""
    room = error.errno in NO_ROOM
    hint = "make room, or another --out" if room else "another --out"
    with suppress(OSError):
        run = path.parent.parent if path.parent.name == CHECKPOINTS else path if path.is_dir() else path.parent
        if numbered(run / CHECKPOINTS):
            act = "make room" if room else "make it writable"
            hint = f"the last checkpoint is as it was; {act} and go on with llamakit finetune resume {run}"
    found = getattr(error, "found", "")
    return LlamaKitError(f"{path} cannot be written: {error.strerror or error}", found=found, hint=hint)


def read_head(path: Path) -> Checkpoint:
    """The JSON of a checkpoint. ModelFileError if it is none, or of another version."""
    with open_gguf(path) as file:
        text = file.metadata.get(KEY)
    if not isinstance(text, str):
        raise ModelFileError(f"{path} is not a checkpoint of llamakit finetune")
    try:
        version = msgspec.json.decode(text, type=_Version).version
        if version != VERSION:
            raise ModelFileError(f"{path} is a checkpoint of version {version}, this LlamaKit reads {VERSION}")
        return msgspec.json.decode(text, type=Checkpoint)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, fault: object) -> ModelFileError:
    """The error for a checkpoint that does not hold what it must."""
    return ModelFileError(f"{path} is a damaged checkpoint: {fault}", hint="delete it, and the one before is taken")


def restore(path: Path, states: dict[str, State]) -> None:
    """Fill the states from a checkpoint. ModelFileError names a tensor that is missing or of another shape."""
    with open_gguf(path) as file:
        for name, state in states.items():
            if name not in file.tensors or tuple(file.tensors[name].shape) != state.shape:
                found = file.tensors[name].shape if name in file.tensors else "missing"
                raise ModelFileError(f"{path}: state {name!r} must be {state.shape}, it is {found}")
            state.write(file.tensor(name))


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a folder by step."""
    try:
        if not folder.is_dir():
            return []
    except OSError:  # a name that is too long; who makes the folder says so
        return []
    return sorted((int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)))


def latest(folder: Path) -> tuple[Path, Checkpoint]:
    """The last checkpoint that can be read. ModelFileError if there is none, with the reasons."""
    reasons = []
    for _, path in reversed(numbered(folder)):
        try:
            return path, read_head(path)
        except LlamaKitError as error:
            reasons.append(str(error))
    raise ModelFileError(f"{folder} has no checkpoint to go on from", found="\n".join(reasons))


def best(folder: Path) -> tuple[Path, Checkpoint]:
    """The checkpoint with the best validation; the last where nothing was validated."""
    path, head = latest(folder)
    found = dict(numbered(folder)).get(head.progress.best_step)
    return (found, read_head(found)) if found is not None else (path, head)


def prune(folder: Path, keep: int, best_step: int) -> None:
    """Delete all but the last `keep` checkpoints and the best."""
    for step, path in numbered(folder)[:-keep]:
        if step != best_step:
            path.unlink(missing_ok=True)


def digest_of_files(paths: Iterable[Path]) -> str:
    """SHA-256 of the content of files, one behind the other, such as the parts of a model."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
