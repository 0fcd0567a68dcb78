"""TOML that people write, or that lies in a folder of others: looked at before it is parsed.

`tomllib` takes time by the square of the names in a key: half a minute for 200 KB of `a.a.a`.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from llamakit.errors import UsageError

DEEPEST = 16  # names in a key; the settings have four at most
# A key of more, where one begins: on a line, in a header of a table, or in a table within a line.
NAME = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
LONG_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*+{NAME}(?:[ \t]*+\.[ \t]*+{NAME}){{{DEEPEST}}}", re.MULTILINE)


def decode(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text. ValueError or RecursionError for what is none; UsageError, with `where`, for keys of
    more names than are possible.
    """
    text = text.replace("\r\n", "\n")
    found = LONG_KEY.search(text)
    if found is not None:
        line = text.count("\n", 0, found.end()) + 1
        raise UsageError(f"{where}, line {line}: a key has more than {DEEPEST} names", hint="llamakit config --keys")
    return tomllib.loads(text)
