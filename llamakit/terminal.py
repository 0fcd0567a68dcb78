"""Text from files and from models on a terminal: what is not text must not steer it."""

from __future__ import annotations

import re

# C0 but newline and tab, DEL, C1, and what turns the direction of writing round.
CODES = (*range(9), *range(11, 32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
NO_TEXT = range(0xD800, 0xE000)  # bytes of a file's name that are no UTF-8, for instance: they cannot be written
HARMFUL = dict.fromkeys((*CODES, *NO_TEXT), "\ufffd")
NO_BREAKS = HARMFUL | {9: " ", 10: " ", 0x2028: " ", 0x2029: " "}
ESCAPES = {code: f"\\u{code:04x}" for code in CODES}
STYLE = re.compile(r"(\x1b\[[0-9;]*m)")


def safe(text: str) -> str:
    """Text without control characters but newline and tab: each is shown as U+FFFD."""
    return text.translate(HARMFUL)


def one_line(text: str) -> str:
    """The same on one line: names and other values from files cannot forge lines of ours."""
    return text.translate(NO_BREAKS)


def keep_style(text: str) -> str:
    """A line of ours with colours in it, and with whatever it quotes: of control sequences only colours are left."""
    return "".join(part if STYLE.fullmatch(part) else safe(part) for part in STYLE.split(text))


def json_text(value: object) -> str:
    """A value as JSON on one line: control characters are escapes, and so is what is no UTF-8 in names of files."""
    import json

    import msgspec

    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), separators=(",", ":"))
    return text.translate(ESCAPES)
