"""Saved sessions: the evaluated beginning of a text with its keys and values, in a GGUF file.

The file is bound to what made it by a key (model, rope settings, KV type), and names the adapters by their digests; the
keys and values are in the canonical layout of `KVCache.export`, so that any backend can read what another wrote. `take`
and `put` run on the engine's thread, `write` and `read` on any: nobody's answer waits for a disk.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llamakit.errors import ModelFileError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from llamakit.backend import KVSpec
    from llamakit.engine.engine import Engine
    from llamakit.gguf import GGUFFile

HASHED_BYTES = 1 << 20  # of a model's first tensors; with its table of tensors enough to tell two models apart
PrefixKey = tuple[tuple[tuple[str, float], ...], str]  # of the prefix tree: adapters by digest with scales, and salt
DEFAULT_KEY: PrefixKey = ((), "")
ARCHITECTURE = "llamakit-session"


class Beginning(msgspec.Struct, frozen=True):
    """Evaluated tokens: `data` as `KVCache.export` gives it, `adapters` what they were evaluated with."""

    tokens: list[int]
    data: Any
    adapters: tuple[tuple[str, float], ...] = ()


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


def take(engine: Engine, tokens: Sequence[int], key: PrefixKey = DEFAULT_KEY) -> Beginning:
    """The part of `tokens` that is evaluated, with its keys and values."""
    nodes, n = engine.space.tree.match(key, list(tokens))
    size = engine.space.tree.size
    cells = [nodes[p // size].block * size + p % size for p in range(n)]
    return Beginning(list(tokens[:n]), engine.space.kv.export(cells), key[0])


def write(path: Path, beginning: Beginning, key: str, kv_type: str) -> int:
    """Write it; the file appears whole or not at all. Returns the number of its bytes."""
    data = beginning.data
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", ARCHITECTURE)
        writer.add("llamakit.session.key", key)
        writer.add("llamakit.session.kv_type", kv_type)
        writer.add("llamakit.session.tokens", np.asarray(beginning.tokens, np.int32))
        if beginning.adapters:
            writer.add("llamakit.session.adapters", msgspec.json.encode(beginning.adapters).decode())
        writer.add_tensor("kv", np.ascontiguousarray(data).view(np.int8), GGMLType.I8, data.shape)
    return path.stat().st_size


def read(path: Path, key: str) -> Beginning:
    """What `write` wrote for the model of this key; ModelFileError if it is of another, or damaged."""
    with open_gguf(path) as file:
        if text_of(file.metadata, "general.architecture") != ARCHITECTURE:
            raise ModelFileError(f"{path} is not a saved session")
        if "kv" not in file.tensors or "llamakit.session.tokens" not in file.metadata:
            raise ModelFileError(f"{path} is a damaged session: its tokens, or their keys and values, are missing")
        if text_of(file.metadata, "llamakit.session.key") != key:
            raise ModelFileError(
                f"{path} was saved with another model, rope setting or --kv-type: delete it or choose another file"
            )
        beginning = _content(file, path)
        file.check()
    return beginning


def is_saved(path: Path) -> bool:
    """Whether a file is a saved session, whatever it is of."""
    try:
        with open_gguf(path) as file:
            return text_of(file.metadata, "general.architecture") == ARCHITECTURE
    except ModelFileError:
        return False


def put(path: Path, engine: Engine, beginning: Beginning, salt: str = "") -> list[int]:
    """Put it into the engine's cache and its prefix tree, for requests of this salt; returns its tokens."""
    tokens, space = beginning.tokens, engine.space
    _check(path, engine, beginning)
    table = space.new_table()
    if len(tokens) > engine.n_ctx or not space.find_room(table.missing(len(tokens))):
        raise ModelFileError(
            f"{path} holds {len(tokens)} tokens, the context {engine.n_ctx}: use a larger context (-c)"
        )
    if tokens:
        try:
            space.kv.restore(table.extend(len(tokens)), beginning.data)
            node, size = space.tree.root((beginning.adapters, salt)), space.tree.size
            for i, block in enumerate(table.blocks):
                node = space.tree.insert(node, tokens[i * size : (i + 1) * size], block)
        except (ValueError, TypeError, IndexError) as error:
            raise ModelFileError(f"{path} is a damaged session: {error}") from None
        finally:
            table.release()
    return tokens


def _content(file: GGUFFile, path: Path) -> Beginning:
    """The tokens of a saved session, and the keys and values of each of their cells."""
    try:
        tokens = np.asarray(file.metadata["llamakit.session.tokens"]).astype(np.int64, casting="same_kind").reshape(-1)
        data: npt.NDArray[np.uint8] = np.array(file.raw("kv")).reshape(file.tensors["kv"].shape)
        given = file.metadata.get("llamakit.session.adapters")
        adapters = msgspec.json.decode(str(given), type=tuple[tuple[str, float], ...]) if given is not None else ()
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise ModelFileError(f"{path} is a damaged session: {error}") from None
    return Beginning(tokens.tolist(), data, adapters)


def _check(path: Path, engine: Engine, beginning: Beginning) -> None:
    """ModelFileError where the tokens and their cells do not fit each other or the model."""
    tokens, n_bytes = beginning.tokens, beginning.data.nbytes
    if tokens and n_bytes != len(tokens) * engine.space.kv.export([0]).nbytes:
        raise ModelFileError(
            f"{path} is a damaged session: keys and values of {n_bytes:,} bytes for {len(tokens):,} tokens"
        )
    if tokens and not 0 <= min(tokens) <= max(tokens) < engine.tokenizer.n_vocab:
        raise ModelFileError(f"{path} is a damaged session: it has tokens that the model does not know")
