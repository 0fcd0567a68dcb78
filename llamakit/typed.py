"""Values of JSON as typed objects, from any thread.

msgspec works out how to read a class when it is first asked for one, and other threads see what is not finished yet:
two first requests at the same time ended the process. Here the first one is alone.
"""

from __future__ import annotations

import re
import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
FOUND = {
    "str": "string", "int": "number", "float": "number", "bool": "boolean", "NoneType": "null", "list": "array",
    "dict": "object",
}  # fmt: skip
WANTED = FOUND | {"int": "integer"}
TYPE = re.compile(rf"\b({'|'.join(FOUND)})\b(?=[^`]*`)")  # in backquotes
_known: set[Any] = set()
_alone = threading.Lock()


def convert(value: Any, cls: type[T]) -> T:
    """An object of `cls` from decoded JSON, strictly; msgspec.ValidationError, in JSON's words, if it does not fit."""
    _work_out(cls)
    try:
        return msgspec.convert(value, cls, strict=True)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(_in_jsons_words(str(error))) from None


def _in_jsons_words(text: str) -> str:
    """msgspec's message, "Expected `int`, got `str` - at `$.a`", with JSON's types for Python's."""
    if not text.startswith("Expected `"):
        return text
    what, at, place = text.partition(" - at `")  # where a field may have a type's name
    wanted, got, found = what.partition(", got `")
    words = TYPE.sub(lambda word: WANTED[word[0]], wanted), TYPE.sub(lambda word: FOUND[word[0]], found)
    return got.join(words) + at + place


def _work_out(cls: Any) -> None:
    if cls not in _known:
        with _alone:
            msgspec.json.Decoder(cls)
            _known.add(cls)
