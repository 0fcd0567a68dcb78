"""Saved sessions: the evaluated beginning of a text with its keys and values, in a GGUF file.

The file is bound to what made it by a key (model, rope settings, KV type), and names the adapters by their digests; the
keys and values are in the canonical layout of `KVCache.export`, so that any backend can read what another wrote. A
digest tells whether it is as it was written: a wrong bit in keys and values would only be a wrong answer. `room`,
`take` and `put` run on the engine's thread, `write` and `read` on any: nobody's answer waits for a disk.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llamakit.errors import ModelFileError, UnavailableError
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

    def digest(self) -> str:
        """Of all that is in it."""
        made = hashlib.blake2b(msgspec.json.encode(self.adapters), digest_size=32)
        for part in (np.asarray(self.tokens, np.int32), np.ascontiguousarray(self.data)):
            made.update(part.data)
        return made.hexdigest()


class Room(msgspec.Struct, frozen=True):
    """What a saved session must fit into: tokens of a context and of the vocabulary, bytes of a cell by layers."""

    n_ctx: int
    n_vocab: int
    n_layer: int
    row_bytes: int


def model_key(file: GGUFFile, spec: KVSpec) -> str:
    """What a saved session belongs to: the model's tensors and how its keys and values are stored.

    ModelChangedError if the file is not what it was when it was opened.
    """
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
    file.check()
    first, n = spec.layers[0], len(spec.layers)
    shape: object = (spec.type, n, first.n_head_kv, first.head_dim_k, first.head_dim_v, first.rope)
    digest.update(repr(shape if spec.layers == (first,) * n else (spec.type, spec.layers)).encode())
    return digest.hexdigest()


def room(engine: Engine) -> Room:
    """What an engine has room for."""
    n_layer, _, row_bytes = engine.space.kv.export([0]).shape
    return Room(engine.n_ctx, engine.tokenizer.n_vocab, n_layer, row_bytes)


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
        writer.add("llamakit.session.digest", beginning.digest())
        writer.add("llamakit.session.tokens", np.asarray(beginning.tokens, np.int32))
        if beginning.adapters:
            writer.add("llamakit.session.adapters", msgspec.json.encode(beginning.adapters).decode())
        if beginning.tokens:
            writer.add_tensor("kv", np.ascontiguousarray(data).view(np.int8), GGMLType.I8, data.shape)
    return path.stat().st_size


def read(path: Path, key: str, room: Room) -> Beginning:
    """What `write` wrote for the model of this key; ModelFileError if it is of another, damaged, or too large."""
    with open_gguf(path) as file:
        if text_of(file.metadata, "general.architecture") != ARCHITECTURE:
            raise ModelFileError(f"{path} is not a saved session")
        if text_of(file.metadata, "llamakit.session.key") != key:
            raise ModelFileError(
                f"{path} was saved with another model, rope setting or --kv-type: delete it or choose another file"
            )
        beginning = _content(file, path, room)
        digest = text_of(file.metadata, "llamakit.session.digest")
        file.check()
    if beginning.digest() != digest:
        raise _damaged(path, "it is not what was written")
    return beginning


def is_saved(path: Path) -> bool:
    """Whether a file is a saved session, whatever it is of."""
    try:
        with open_gguf(path) as file:
            return text_of(file.metadata, "general.architecture") == ARCHITECTURE
    except ModelFileError:
        return False


def put(path: Path, engine: Engine, beginning: Beginning, salt: str = "") -> list[int]:
    """Put it into the engine's cache and its prefix tree, for requests of this salt; returns its tokens.

    UnavailableError while running requests hold the blocks that it needs.
    """
    tokens, space = beginning.tokens, engine.space
    table = space.new_table()
    if not space.find_room(table.missing(len(tokens))):
        raise UnavailableError(
            f"there is no room for the {len(tokens):,} tokens of {path} while other requests run",
            hint="try again later",
        )
    if tokens:
        try:
            space.kv.restore(table.extend(len(tokens)), beginning.data)
            node, size = space.tree.root((beginning.adapters, salt)), space.tree.size
            for i, block in enumerate(table.blocks):
                node = space.tree.insert(node, tokens[i * size : (i + 1) * size], block)
            space.tree.use(node)
        except (ValueError, TypeError, IndexError) as error:
            raise _damaged(path, error) from None
        finally:
            table.release()
    return tokens


def _content(file: GGUFFile, path: Path, room: Room) -> Beginning:
    """The tokens of a saved session, and the keys and values of each of their cells; sizes are checked before."""
    if "llamakit.session.tokens" not in file.metadata:
        raise _damaged(path, "its tokens are missing")
    try:
        raw = np.asarray(file.metadata["llamakit.session.tokens"])
        n, shape = raw.size, file.tensors["kv"].shape if "kv" in file.tensors else None
        if n > room.n_ctx:
            raise ModelFileError(f"{path} holds {n:,} tokens, the context {room.n_ctx:,}: use a larger context (-c)")
        if n and shape != (room.n_layer, n, room.row_bytes):
            raise _damaged(path, f"keys and values of shape {shape} for {n:,} tokens")
        tokens = raw.astype(np.int64, casting="same_kind").reshape(-1)
        if n and not 0 <= tokens.min() <= tokens.max() < room.n_vocab:
            raise _damaged(path, "it has tokens that the model does not know")
        data: npt.NDArray[np.uint8] = np.array(file.raw("kv")).reshape(shape) if n else np.zeros(0, np.uint8)
        given = file.metadata.get("llamakit.session.adapters")
        adapters = msgspec.json.decode(str(given), type=tuple[tuple[str, float], ...]) if given is not None else ()
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise _damaged(path, error) from None
    return Beginning(tokens.tolist(), data, adapters)


def _damaged(path: Path, why: object) -> ModelFileError:
    return ModelFileError(f"{path} is a damaged session: {why}", hint="delete it, and save it again")
