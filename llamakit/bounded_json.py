"""JSON that others send: counted before it is decoded, because nothing else runs while it is."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import msgspec

from llamakit.errors import UsageError
from llamakit.turns import turn

MOST_VALUES = 1 << 21  # of one text
DEEPEST = 64  # arrays and objects inside one another; no API needs a tenth of it but JSON schemas
PER_LARGE = 10  # values that a text, a name, an array or an object counts as: making one takes so much longer
SEEN = 100  # characters or values of which messages show less


def check_cost(data: bytes, what: str = "the body", param: str = "", most: int = MOST_VALUES) -> int:
    """What decoding this counts as; UsageError where it is more than `most`."""
    from llamakit import _text

    cost: int = _text.json_cost(data, PER_LARGE)
    if cost > most:
        raise UsageError(
            f"{what} has too many values",
            hint=f"possible: {MOST_VALUES:,} numbers, of which a text, a name, an array or an object takes "
            f"{PER_LARGE}, four escapes of a text one, a number with a fraction two, and one of more than 19 digits "
            "half as many as it has digits",
            param=param,
        )
    return cost


def check_depth(value: Any, data: bytes, what: str = "the body", param: str = "") -> None:
    """Refuse deep nesting; it only walks what has enough brackets to be deep."""
    if not isinstance(value, (dict, list)) or data.count(b"[") + data.count(b"{") <= DEEPEST:
        return
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for part in level
            for item in (part.values() if type(part) is dict else part)
            if type(item) is list or type(item) is dict
        ]
        if not level:
            return
    raise too_deep(what, param)


def has_more_values(value: Any, most: int) -> bool:
    """Whether a value has more than so many within it, numbers too; those of each level are counted at once."""
    level, n = [value], 0
    while level:
        parts = [part for part in level if type(part) is list or type(part) is dict]
        n += sum(map(len, parts))
        if n > most:
            return True
        level = [item for part in parts for item in (part.values() if type(part) is dict else part)]
    return False


def too_deep(what: str = "the body", param: str = "") -> UsageError:
    """The error for deep nesting."""
    return UsageError(f"{what} nests deeper than {DEEPEST} levels", param=param)


class Inner:
    """Decodes JSON within JSON, which counted as a single text there; what is decoded with one of these is bounded."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def decode(self, text: str, what: str, param: str = "") -> Any:
        """The value; msgspec.DecodeError for what is no JSON, UsageError for too much or too deep."""
        data = text.encode()
        with turn(len(data)):
            self._left -= check_cost(data, what, param, self._left)
            try:
                value = msgspec.json.decode(data)
            except RecursionError:
                raise too_deep(what, param) from None
            check_depth(value, data, what, param)
        return value


def begin_of(value: Any) -> Any:
    """So much of a value as a message of a line can show: nothing else would run while all of it was written out."""
    return _begin_of(value, [SEEN])


def _begin_of(value: Any, left: list[int]) -> Any:
    """The first values of all that are within, as many as are `left`."""
    left[0] -= 1
    if isinstance(value, str):
        return value[:SEEN]
    if isinstance(value, dict):
        return {key[:SEEN]: _begin_of(each, left) for key, each in takewhile(lambda _: left[0] > 0, value.items())}
    if isinstance(value, (list, tuple)):
        return [_begin_of(each, left) for each in takewhile(lambda _: left[0] > 0, value)]
    return value
