"""Answers of many megabytes: what of them is JSON already is not copied into the rest, and goes out in blocks.

Nothing else runs while a hundred megabytes are copied at once, other streams least of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import falcon

MARK = b"\0"  # stands for what is put in later: JSON has this nowhere else
BLOCK = 64 << 10  # bytes


class LongJson:
    """A value that is JSON already, in parts that follow one another."""

    def __init__(self, parts: Iterable[bytes | bytearray]) -> None:
        self.parts = list(parts)

    @classmethod
    def array(cls, items: Iterable[bytes | bytearray]) -> Self:
        """An array of such values."""
        parts: list[bytes | bytearray] = []
        for item in items:
            parts += (b"," if parts else b"[", item)
        return cls([*parts, b"]"] if parts else [b"[]"])


def json_pieces(value: Any, order: Any = None) -> Iterator[bytes | bytearray]:
    """The JSON of a value in pieces, which are joined without anything between them; `order`: of keys, as msgspec's."""
    found: list[LongJson] = []

    def put_in_later(part: object) -> msgspec.Raw:
        if not isinstance(part, LongJson):
            raise NotImplementedError(f"{type(part).__name__} has no JSON")
        found.append(part)
        return msgspec.Raw(MARK)

    first, *texts = msgspec.json.encode(value, enc_hook=put_in_later, order=order).split(MARK)
    yield first
    for part, text in zip(found, texts, strict=True):
        yield from part.parts
        yield text


def blocks(some: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """The same bytes in blocks of about `BLOCK`: small pieces are joined, and large ones are cut."""
    waiting: list[bytes | bytearray | memoryview] = []
    size = 0
    for piece in some:
        if size + len(piece) <= BLOCK:
            waiting.append(piece)
            size += len(piece)
            continue
        view = memoryview(piece)
        for start in range(0, len(piece), BLOCK):
            if size:
                yield b"".join(waiting)
            waiting = [view[start : start + BLOCK]]
            size = len(waiting[0])
    if size:
        yield b"".join(waiting)


def send(resp: falcon.Response, value: Any, order: Any = None) -> None:
    """Answer with a value that may be long."""
    made = list(json_pieces(value, order))
    length = sum(map(len, made))
    resp.content_type = "application/json"
    if length <= BLOCK:
        resp.data = b"".join(made)
    else:
        resp.content_length, resp.stream = length, blocks(made)
