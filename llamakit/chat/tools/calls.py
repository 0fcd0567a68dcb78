"""Calls of tools as they are told: whole, or in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class ToolCall(msgspec.Struct, frozen=True):
    """A call: the tool's name, its arguments as the text of a JSON object, an id; `cut`: the answer ended within it."""

    name: str
    arguments: str
    id: str = ""
    cut: bool = False


class CallDelta(msgspec.Struct, frozen=True):
    """What is new of the call `index` of an answer. The first has `name` and `id`; with `done` it is complete."""

    index: int
    arguments: str = ""
    name: str = ""
    id: str = ""
    done: bool = False


def joined(deltas: Iterable[CallDelta]) -> list[ToolCall]:
    """The calls that deltas make."""
    merged = merge(deltas)
    return [ToolCall(each.name, each.arguments, each.id, cut=not each.done) for each in merged]


def merge(deltas: Iterable[CallDelta]) -> list[CallDelta]:
    """One delta for each call, in order of their numbers."""
    found: dict[int, list[CallDelta]] = {}
    for delta in deltas:
        found.setdefault(delta.index, []).append(delta)
    return [
        CallDelta(
            index, "".join(each.arguments for each in some), next((each.name for each in some if each.name), ""),
            next((each.id for each in some if each.id), ""), any(each.done for each in some),
        )
        for index, some in sorted(found.items())
    ]  # fmt: skip
