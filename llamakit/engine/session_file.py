"""Saved sessions: the evaluated beginning of a text with its keys and values, in a GGUF file.

The file is bound to what made it by a key (model, rope settings, KV type), and names the adapters by their digests; the
keys and values are in the canonical layout of `KVCache.export`, so that any backend can read what another wrote. A
digest tells whether it is as it was written: a wrong bit in keys and values would only be a wrong answer. `room` runs
on the engine's thread, `take` and `put` on any that can call it, `write` and `read` on any: nobody's answer waits for a
disk, nor for gigabytes that are copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llamakit.engine.kv_space import MOST_COPIED
from llamakit.errors import ModelFileError, UnavailableError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from llamakit.backend import KVSpec
    from llamakit.engine.engine import Engine
    from llamakit.gguf import GGUFFile

Call = Callable[[Callable[[], Any]], Any]  # what calls a function on the engine's thread
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


def take(engine: Engine, tokens: Sequence[int], key: PrefixKey, call: Call) -> Beginning:
    """The part of `tokens` that is evaluated, with its keys and values.

    `call` has the engine's thread do a part at a time: a long context is gigabytes, and answers go on in between. What
    others need the room for meanwhile is left out.
    """
    wanted = list(tokens)
    per_call = _per_call(call(lambda: room(engine)), engine)

    def part(start: int) -> tuple[int, Any]:
        """How much is known, and the keys and values of the next."""
        nodes, n = engine.space.tree.match(key, wanted)
        size, stop = engine.space.size, min(n, start + per_call)
        cells = [nodes[p // size].block * size + p % size for p in range(start, stop)]
        return n, engine.space.kv.export(cells)

    known, found = call(partial(part, 0))
    n_layer, done, row_bytes = found.shape
    if done == known:
        return Beginning(wanted[:done], found, key[0])
    del wanted[known:]  # more may be evaluated meanwhile
    data = np.empty((n_layer, known, row_bytes), np.uint8)
    data[:, :done] = found
    while done < known:
        known_now, found = call(partial(part, done))
        data[:, done : done + found.shape[1]] = found
        done, known = done + found.shape[1], min(known, known_now)
    return Beginning(wanted[:done], data[:, :done], key[0])


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


def put(path: Path, engine: Engine, beginning: Beginning, salt: str, call: Call) -> list[int]:
    """Put it into the engine's cache and its prefix tree, for requests of this salt; returns its tokens.

    By `call`, as `take` does. UnavailableError while running requests hold the blocks that it needs.
    """
    tokens, space, key = beginning.tokens, engine.space, (beginning.adapters, salt)
    n = len(tokens)
    per_call = _per_call(call(lambda: room(engine)), engine)

    def part(start: int) -> None:
        nodes, known = space.tree.match(key, tokens[:start])
        table, stop = space.new_table(), min(n, start + per_call)
        table.share([node.block for node in nodes], known)  # or room would be found for the rest in these
        try:
            if known < start or not space.find_room(table.missing((stop if start else n) - start)):
                raise UnavailableError(
                    f"there is no room for the {n:,} tokens of {path} while other requests run", hint="try again later"
                )
            space.kv.restore(table.extend(stop - start), beginning.data[:, start:stop])
            node, first = nodes[-1] if start else space.tree.root(key), len(nodes)
            for i, block in enumerate(table.blocks[first:], first):
                node = space.tree.insert(node, tokens[i * space.size : min(stop, (i + 1) * space.size)], block)
            space.tree.use(node)
        except (ValueError, TypeError, IndexError) as error:
            raise _damaged(path, error) from None
        finally:
            table.release()

    for start in range(0, n, per_call):
        call(partial(part, start))
    return tokens


def _per_call(room: Room, engine: Engine) -> int:
    """Tokens of which keys and values are copied in one go: whole blocks."""
    size = engine.space.size
    return max(1, MOST_COPIED // (room.n_layer * room.row_bytes * size)) * size


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
