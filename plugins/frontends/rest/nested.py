"""Names in the objects within a body that mean nothing there, told as `messages[].audio` or `stream_options.every`.

Which names there are: of a field that is a Struct, or a list of them, the Struct's; of one that is decoded as it comes,
those that its class says with `Meta(extra=known(...))`. Where neither says any, anything may be within.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY: Final = "names"


@dataclass(frozen=True)
class Names:
    """Those that an object may have, with those of the objects in its values where they are known.

    `types`: the values of `type` of the objects that are looked at, () for all of them.
    """

    within: Mapping[str, Names | None]
    types: tuple[str | None, ...] = ()


def known(*names: str, types: tuple[str | None, ...] = (), **within: Names) -> dict[str, Names]:
    """`Meta(extra=...)` of a field: the names of its objects; `within`: those whose own objects are known too."""
    return {KEY: Names(dict.fromkeys(names) | within, types)}


def unknown_names(values: Mapping[str, Any], cls: type[Any], most: int) -> dict[str, Names]:
    """Names within the values of a body's fields that mean nothing, at most so many: place -> the names there are.

    `null` counts as absent. An array's objects are looked at together, so that long conversations cost little.
    """
    found: dict[str, Names] = {}
    for field, names in _names_within(cls).items():
        if field in values:
            for place, there in _unknown(values[field], names, field):
                if len(found) >= most:
                    return found
                found[place] = there
    return found


def _unknown(value: Any, names: Names, place: str) -> Iterator[tuple[str, Names]]:
    objects = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]
    if names.types:
        objects = [each for each in objects if each.get("type") in names.types]
    place += "[]" if isinstance(value, list) else ""
    others = set[str]().union(*objects).difference(names.within)
    for each in objects if others else ():
        for name, inner in each.items():
            if inner is not None and name in others:
                others.discard(name)
                yield f"{place}.{name}", names
    for name, within in names.within.items():
        for each in objects if within is not None else ():
            yield from _unknown(each.get(name), within, f"{place}.{name}")


@lru_cache(maxsize=256)
def _names_within(cls: type[Any]) -> dict[str, Names]:
    """The names that are known within the fields of a Struct, by the field's name in JSON."""
    kind: Any = msgspec.inspect.type_info(cls)
    return {field.encode_name: names for field in kind.fields if (names := _names_of(field.type)) is not None}


def _names_of(kind: Any) -> Names | None:
    """Those of the objects that a type is of."""
    match kind:
        case msgspec.inspect.Metadata():
            return (kind.extra or {}).get(KEY) or _names_of(kind.type)
        case msgspec.inspect.UnionType():
            return next((names for each in kind.types if (names := _names_of(each)) is not None), None)
        case msgspec.inspect.ListType():
            return _names_of(kind.item_type)
        case msgspec.inspect.StructType():
            return Names({field.encode_name: _names_of(field.type) for field in kind.fields})
    return None
