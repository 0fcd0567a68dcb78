"""Values of JSON as typed objects, from any thread.

msgspec works out how to read a class when it is first asked for one, and other threads see what is not finished yet:
two first requests at the same time ended the process. Here the first one is alone.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_known: set[Any] = set()
_alone = threading.Lock()


def convert(value: Any, cls: type[T]) -> T:
    """An object of `cls` from decoded JSON, strictly; msgspec.ValidationError for what does not fit."""
    _work_out(cls)
    return msgspec.convert(value, cls, strict=True)


def _work_out(cls: Any) -> None:
    if cls not in _known:
        with _alone:
            msgspec.json.Decoder(cls)
            _known.add(cls)
