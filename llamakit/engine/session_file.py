"""Saved sessions: the evaluated beginning of a text with its keys and values, in a GGUF file.

The file is bound to what made it by a key (model, rope settings, KV type); the keys and values are in the
canonical layout of `KVCache.export`, so that any backend can read what another wrote.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from llamakit.errors import ModelFileError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from llamakit.backend import KVSpec
    from llamakit.engine.engine import Engine
    from llamakit.gguf import GGUFFile

HASHED_BYTES = 1 << 20  # of a model's first tensors; with its table of tensors enough to tell two models apart
DEFAULT_KEY = ((), "")  # of the prefix tree: no adapters, no salt


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
    first, n = spec.layers[0], len(spec.layers)
    shape: object = (spec.type, n, first.n_head_kv, first.head_dim_k, first.head_dim_v, first.rope)
    digest.update(repr(shape if spec.layers == (first,) * n else (spec.type, spec.layers)).encode())
    return digest.hexdigest()


def save(path: Path, engine: Engine, tokens: Sequence[int], key: str) -> int:
    """Write the evaluated beginning of `tokens`; the file appears whole or not at all. Returns how many they are."""
    nodes, n = engine.space.tree.match(DEFAULT_KEY, list(tokens))
    size = engine.space.tree.size
    cells = [nodes[p // size].block * size + p % size for p in range(n)]
    data = engine.space.kv.export(cells)
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llamakit-session")
        writer.add("llamakit.session.key", key)
        writer.add("llamakit.session.kv_type", engine.space.kv.spec.type)
        writer.add("llamakit.session.tokens", np.asarray(tokens[:n], np.int32))
        writer.add_tensor("kv", np.ascontiguousarray(data).view(np.int8), GGMLType.I8, data.shape)
    return n


def load(path: Path, engine: Engine, key: str) -> list[int]:
    """Read a saved beginning into the engine's cache and its prefix tree; returns its tokens."""
    with open_gguf(path) as file:
        if file.metadata.get("general.architecture") != "llamakit-session":
            raise ModelFileError(f"{path} is not a saved session")
        if "kv" not in file.tensors or "llamakit.session.tokens" not in file.metadata:
            raise ModelFileError(f"{path} is a damaged session: its tokens, or their keys and values, are missing")
        if file.metadata.get("llamakit.session.key") != key:
            raise ModelFileError(
                f"{path} was saved with another model, rope setting or --kv-type: delete it or choose another file"
            )
        tokens, data = _content(file, path, engine)
        file.check()
    table = engine.space.new_table()
    if len(tokens) > engine.n_ctx or not engine.space.find_room(table.missing(len(tokens))):
        raise ModelFileError(
            f"{path} holds {len(tokens)} tokens, the context {engine.n_ctx}: use a larger context (-c)"
        )
    if tokens:
        try:
            engine.space.kv.restore(table.extend(len(tokens)), data)
            node, size = engine.space.tree.root(DEFAULT_KEY), engine.space.tree.size
            for i, block in enumerate(table.blocks):
                node = engine.space.tree.insert(node, tokens[i * size : (i + 1) * size], block)
        except (ValueError, TypeError, IndexError) as error:
            raise ModelFileError(f"{path} is a damaged session: {error}") from None
        finally:
            table.release()
    return tokens


def _content(file: GGUFFile, path: Path, engine: Engine) -> tuple[list[int], npt.NDArray[np.uint8]]:
    """The tokens of a saved session, and the keys and values of each of their cells; ModelFileError if they are not."""
    try:
        tokens = np.asarray(file.metadata["llamakit.session.tokens"]).astype(np.int64, casting="same_kind").reshape(-1)
        data = np.array(file.raw("kv")).reshape(file.tensors["kv"].shape)
        like = engine.space.kv.export([0])
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is a damaged session: {error}") from None
    if len(tokens) and data.nbytes != len(tokens) * like.nbytes:
        raise ModelFileError(
            f"{path} is a damaged session: keys and values of {data.nbytes:,} bytes for {len(tokens):,} tokens"
        )
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < engine.tokenizer.n_vocab:
        raise ModelFileError(f"{path} is a damaged session: it has tokens that the model does not know")
    return tokens.tolist(), data
