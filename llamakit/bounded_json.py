"""JSON that others send: counted before it is decoded, because nothing else runs while it is."""

from __future__ import annotations

from typing import Any

import msgspec

from llamakit.errors import LONGEST_NAME, UsageError
from llamakit.serialized import serialized

MOST_COST = 1 << 21  # of one text: as many small numbers, or fewer of what takes longer
DEEPEST = 64  # arrays and objects inside one another; no API needs a tenth of it but JSON schemas
PER_LARGE = 10  # small numbers that a text, a name, an array or an object counts as: making one takes so much longer
MOST_SHOWN = 100  # values of which messages show less
KINDS = {
    dict: "an object", list: "an array", tuple: "an array", str: "a string", bool: "a boolean", type(None): "null"
}  # fmt: skip


def decode(data: bytes, what: str = "the body", param: str = "", most: int = MOST_COST) -> tuple[Any, int]:
    """The value of a JSON text, and what it counted as.

    msgspec.DecodeError for what is no JSON, UsageError for what counts as more than `most` or nests too deep.
    """
    cost = check_cost(data, what, param, most)
    try:
        value = msgspec.json.decode(data)
    except RecursionError:
        raise too_deep(what, param) from None
    check_depth(value, data, what, param)
    return value, cost


def check_cost(data: bytes, what: str = "the body", param: str = "", most: int = MOST_COST) -> int:
    """What decoding this counts as; UsageError where it is more than `most`."""
    from llamakit import _text

    cost: int = _text.json_cost(data, PER_LARGE)
    if cost > most:
        left = "" if most == MOST_COST else f", which are left of {MOST_COST:,}"
        raise UsageError(
            f"{what} has too many values",
            hint=f"possible: {most:,} small numbers{left}; a text, a name, an array or an object counts as {PER_LARGE} "
            "of them, four escapes of a text as one, a number with a fraction or an exponent as two, one of more than "
            "19 digits as half as many as it has digits, and one from 1e14 on with a fraction or an exponent as more",
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


class NestedJson:
    """Decodes JSON within JSON, which counted as a single text there: all that one of these decodes counts together."""

    def __init__(self) -> None:
        self._left = MOST_COST

    def decode(self, text: str, what: str, param: str = "") -> Any:
        """The value; errors as for the function of this name."""
        data = text.encode()
        with serialized(len(data)):
            value, cost = decode(data, what, param, self._left)
        self._left -= cost
        return value


def begin_of(value: Any) -> Any:
    """So much of a value as a message of a line can show: nothing else would run while all of it was written out.

    "…" stands for what is left out. Of names that begin alike for longer than is shown, one is.
    """
    return _begin_of(value, [MOST_SHOWN + 1])


def short(value: Any, most: int) -> str:
    """The text of a value for a message, of at most so many characters; it ends in "…" where there is more.

    A text is as it is, any other value as JSON has it.
    """
    text = value if isinstance(value, str) else json_of(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def quoted(value: Any, most: int) -> str:
    """The same with quotation marks around a text."""
    return repr(short(value, most)) if isinstance(value, str) else short(value, most)


def json_of(value: Any) -> str:
    """So much of a value as messages show, as JSON."""
    try:
        return msgspec.json.encode(begin_of(value)).decode()
    except (RecursionError, OverflowError, ValueError, TypeError):
        return "a value that cannot be shown"


def kind_of(value: Any) -> str:
    """What a value is, by JSON's name for it, such as "an array"."""
    return KINDS.get(type(value), "a number")


def _begin_of(value: Any, left: list[int]) -> Any:
    """The first values of all that are within, as many as are `left`."""
    left[0] -= 1
    if isinstance(value, dict):
        shown: dict[Any, Any] = {}
        for key, each in value.items():
            if left[0] <= 0:
                shown["…"] = "…"
                break
            shown[_cut(key)] = _begin_of(each, left)
        return shown
    if isinstance(value, (list, tuple)):
        items: list[Any] = []
        for each in value:
            if left[0] <= 0:
                items.append("…")
                break
            items.append(_begin_of(each, left))
        return items
    return _cut(value)


def _cut(value: Any) -> Any:
    """A text as far as messages show one, and any other value as it is."""
    return f"{value[:LONGEST_NAME]}…" if isinstance(value, str) and len(value) > LONGEST_NAME else value
