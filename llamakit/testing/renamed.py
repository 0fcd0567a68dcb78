"""A model file under the name of another architecture, to try an architecture on weights that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.gguf import GGUFWriter, open_gguf

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_renamed(source: Path, out: Path, architecture: str, changes: Mapping[str, object] | None = None) -> Path:
    """Copy a file; `changes`: keys without the prefix of the architecture, None removes one."""
    with open_gguf(source) as file, GGUFWriter(out) as writer:
        old = str(file.metadata["general.architecture"])
        for key in file.metadata:
            name = f"{architecture}.{key.removeprefix(f'{old}.')}" if key.startswith(f"{old}.") else key
            writer.add(name, file.metadata[key], *file.metadata.value_type(key))
        writer.add("general.architecture", architecture)
        for key, value in (changes or {}).items():
            writer.add(f"{architecture}.{key}", value)
        for info in file.tensors.values():
            writer.add_tensor(info.name, file.raw(info.name).copy(), info.type, info.shape)
    return out
