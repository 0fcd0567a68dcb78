"""Saved sessions: the evaluated tokens of a sequence with their keys and values, in a GGUF file.

The file is bound to what made it by a key (model, rope settings, KV type); the keys and values are in the
canonical layout of `KVCache.export`, so that any backend can read what another wrote.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from llamakit.engine.kv_cache import BlockTable
from llamakit.engine.sequence import Past
from llamakit.errors import ModelFileError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf

if TYPE_CHECKING:
    from pathlib import Path

    from llamakit.backend import KVSpec
    from llamakit.engine.engine import Engine
    from llamakit.gguf import GGUFFile

HASHED_BYTES = 1 << 20  # of a model's first tensors; with its table of tensors enough to tell two models apart


def model_key(file: GGUFFile, spec: KVSpec) -> str:
    """What a saved session belongs to: the model's tensors and how its keys and values are stored."""
    digest = hashlib.sha256()
    for info in file.tensors.values():
        digest.update(f"{info.name} {info.type.name} {info.shape} {info.offset};".encode())
    left = HASHED_BYTES
    for name in file.tensors:
        piece = file.raw(name)[:left]
        digest.update(piece.tobytes())
        left -= len(piece)
        if left <= 0:
            break
    rope = spec.rope
    digest.update(repr((spec.type, spec.n_layer, spec.n_head_kv, spec.head_dim_k, spec.head_dim_v, rope)).encode())
    return digest.hexdigest()


def save(path: Path, past: Past, key: str) -> None:
    """Write a sequence's past; the file appears whole or not at all."""
    table = past.table
    data = table.kv.export(table.cells(0, table.length))
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llamakit-session")
        writer.add("llamakit.session.key", key)
        writer.add("llamakit.session.kv_type", table.kv.spec.type)
        writer.add("llamakit.session.tokens", np.asarray(past.tokens, np.int32))
        writer.add_tensor("kv", np.ascontiguousarray(data).view(np.int8), GGMLType.I8, data.shape)


def load(path: Path, engine: Engine, key: str) -> Past:
    """Read a sequence's past into the engine's cache."""
    with open_gguf(path) as file:
        if file.metadata.get("general.architecture") != "llamakit-session":
            raise ModelFileError(f"{path} is not a saved session")
        if file.metadata.get("llamakit.session.key") != key:
            raise ModelFileError(
                f"{path} was saved with another model, rope setting or --kv-type: delete it or choose another file"
            )
        tokens = [int(token) for token in np.asarray(file.metadata["llamakit.session.tokens"])]
        data = np.array(file.raw("kv")).reshape(file.tensors["kv"].shape)
    if len(tokens) > engine.n_ctx:
        raise ModelFileError(
            f"{path} holds {len(tokens)} tokens, the context {engine.n_ctx}: use a larger context (-c)"
        )
    table = BlockTable(engine.pool, engine.kv)
    cells = table.extend(len(tokens))
    if tokens:
        engine.kv.restore(cells, data)
    return Past(tokens, table)
