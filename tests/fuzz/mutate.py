"""Ways to spoil a file: its bytes, values of its JSON, lines of its text, metadata and tensors of its GGUF."""

from __future__ import annotations

import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from llamakit.errors import UsageError
from llamakit.gguf import GGMLType, GGUFWriter, ValueType

MARK = "@@hostile@@"
INTERESTING = (
    0,
    1,
    2,
    31,
    32,
    255,
    65535,
    1 << 31,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 62,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
VALUES = (  # JSON, or nearly
    "null", "true", "-1", "0", "0.5", "1e308", "1e999", "NaN", "9223372036854775808", "1" + "0" * 400, '""', '"x"',
    '"\\ud800"', '"\\u0000"', '"\\u001b[31m"', '"' + "x" * 70_000 + '"', "[]", "{}", "[[]]",
    "[null]", "[-1]", '["a", 1]',
    '{"a": []}', '[{"type": []}]', '[{"type": {}}]', '{"": null}', "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
)  # fmt: skip
LINES = (
    "", "[", "[[", "]", "=", "a", 'a = "', "a = 1\na = 2", "a.b.c.d = 1", "\x00", "\ud800", "é",
    "\x1b[31m", "#", "x" * 5000,
    "threads = -1", "threads = 1e999", 'threads = "many"', "threads = []",
    "ctx_size = 99999999999999999999", "model = 3",
    "[sampling]\ntop_k = {}", "[backend.cpu]\nthreads = 'x'", "a = " + "[" * 5000, "seed = inf", "seed = 1979-05-27",
    "key weight=nan", "key weight=1e999 use", "key admin,use,nobody", "key \x85 use", "#key",
)  # fmt: skip
METADATA: tuple[tuple[Any, ValueType | None], ...] = (
    (-1, ValueType.INT32), (0, None), (1, None), (7, None), (1 << 31, ValueType.UINT32),
    ((1 << 64) - 1, ValueType.UINT64),
    ((1 << 63) - 1, ValueType.INT64), (1e38, None), (float("nan"), None), (float("inf"), None),
    (-0.5, None), (True, None),
    ("", None), ("x", None), ("x" * 70_000, None), ("\x1b[31m", None), ("{}", None), ("[]", None),
    ("{%", None), ([], None),
    ([1, 2], None), ([-1], None), (["a", ""], None), ([0.5], None), ([True], None), ("llama", None), (1 << 20, None),
)  # fmt: skip


def of_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four faults at places of chance."""
    raw = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not raw:
            break
        at = rng.randrange(min(len(raw), rng.choice([64, 512, len(raw)])))
        match rng.randrange(6):
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1:
                size = rng.choice([1, 2, 4, 8])
                raw[at : at + size] = struct.pack("<Q", rng.choice(INTERESTING))[:size]
            case 2:
                del raw[at:]
            case 3:
                del raw[at : at + rng.randint(1, 40)]
            case 4:
                raw[at:at] = raw[: rng.randint(1, 40)]
            case _:
                raw[at : at + 8] = rng.randbytes(8)
    return bytes(raw)


def of_json(rng: random.Random, value: Any) -> bytes:
    """A JSON value with one value of chance replaced, left out or put in."""
    made = copy.deepcopy(value)
    places = list(_places(made))
    if not places or rng.random() < 0.05:
        return rng.choice(VALUES).encode("utf-8", "surrogatepass")
    holder, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[f"{key}x"] = MARK
        case _:
            holder[key] = MARK
    text = json.dumps(made).replace(json.dumps(MARK), rng.choice(VALUES))
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    """(holder, key) of every value inside another."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def of_text(rng: random.Random, text: str) -> bytes:
    """Lines put in, left out and replaced; sometimes bytes that are no UTF-8."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        match rng.randrange(3):
            case 0:
                lines[at] = rng.choice(LINES)
            case 1:
                lines.insert(at, rng.choice(LINES))
            case _:
                lines[at] = lines[at][: rng.randint(0, len(lines[at]))]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return of_bytes(rng, data) if rng.random() < 0.3 else data


class GGUF:
    """A GGUF file as values: `metadata` by key, `tensors` by name."""

    def __init__(self, metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        self.metadata, self.tensors = metadata, tensors

    def write(self, path: Path, rng: random.Random | None = None) -> None:
        """The file; with `rng` one or two of its values, names or shapes are others."""
        metadata = {key: (value, None) for key, value in self.metadata.items()}
        tensors = dict(self.tensors)
        for _ in range(rng.randint(1, 2) if rng is not None else 0):
            assert rng is not None
            self._spoil(rng, metadata, tensors)
        with GGUFWriter(path) as writer:
            for key, (value, type_) in metadata.items():
                try:
                    writer.add(key, value, type_)
                except UsageError:  # a list that is not an array of one type
                    writer.add(key, "x")
            for name, values in tensors.items():
                if values.dtype == np.float16:
                    writer.add_tensor(name, values, GGMLType.F16, values.shape)
                elif values.dtype == np.int8:
                    writer.add_tensor(name, values, GGMLType.I8, values.shape)
                else:
                    writer.add_tensor(name, values.astype(np.float32))

    def _spoil(self, rng: random.Random, metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        if metadata and (not tensors or rng.random() < 0.6):
            key = rng.choice(list(metadata))
            if rng.random() < 0.2:
                del metadata[key]
            else:
                metadata[key] = rng.choice(METADATA)
            return
        name = rng.choice(list(tensors))
        values = tensors.pop(name)
        match rng.randrange(7):
            case 0:
                return
            case 1:
                tensors[f"{name}x"] = values
            case 2:
                tensors[name] = values.reshape(-1)
            case 3:
                tensors[name] = values.reshape(1, *values.shape)[:, :1]
            case 4:
                tensors[name] = np.full(values.shape, rng.choice([np.nan, np.inf, 1e38]), np.float32)
            case 5:
                tensors[name] = values.astype(np.int8)
            case _:
                tensors[name] = values.astype(np.float32).T.astype(np.float16)
