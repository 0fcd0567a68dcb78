"""The format of calls that a template shows, found from the calls themselves, for families that nobody has told us of.

A call of a known function with known arguments is rendered, alone and as the first of two. What stands before, between
and behind the parts that are known are the texts of the format.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from llamakit.chat.tools.format import ToolFormat
from llamakit.chat.tools.marks import common_start

if TYPE_CHECKING:
    from collections.abc import Mapping

OPENS = re.compile(r"[<\[{(`]|[^\x00-\x7f]")  # with what a marker may begin
MARK = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
JSON_NAME = re.compile(r'\{\s*"(?:tool_)?name"\s*:\s*"\Z')
JSON_ARGUMENTS = re.compile(r'"\s*,\s*"(?:arguments|parameters)"\s*:\s*\Z')
SHORTEST = 3  # characters of what begins calls, or any text might be one


class _Call:
    """A call in a text: what is before its name, between name and arguments, its arguments' keys, what is behind."""

    def __init__(self, text: str, name: str, values: Mapping[str, Any], start: int = 0) -> None:
        """ValueError where the call is not in the text, from `start`, with all its parts."""
        at = text.index(name, start)
        end = at + len(name)
        self.before = text[start:at]
        self.keys: tuple[str, str, str, str] | None = None  # key_begin, key_end, key_end of other values, value_end
        found = _object(text, end, values)
        if found is not None:
            self.after_name, self.end = text[end : found[0]], found[1]
        else:
            self.after_name, self.end = self._pairs(text, end, values)

    def _pairs(self, text: str, start: int, values: Mapping[str, Any]) -> tuple[str, int]:
        """Two values beside their names, the first of which is a text; what is before them, and where they end."""
        (first, value), (second, other) = values.items()
        spots = []
        at = start
        for part in (first, str(value), second, str(other)):
            spot = text.index(part, at)
            spots.append((spot, spot + len(part)))
            at = spot + len(part)
        head, key_end, between, other_end = (
            text[a:b] for a, b in zip([start, *(end for _, end in spots)], [begin for begin, _ in spots], strict=False)
        )
        tail = text[at:]
        cut = max(
            (n for n in range(len(between) + 1) if tail.startswith(between[:n]) and head.endswith(between[n:])
             and (n == len(between) or OPENS.match(between, n))),
            default=0,
        )  # fmt: skip
        value_end, key_begin = between[:cut], between[cut:]
        if not (key_begin and key_end and value_end.strip()):
            raise ValueError("no markers")
        self.keys = key_begin, key_end, "" if other_end == key_end else other_end, value_end
        return head.removesuffix(key_begin), at + len(value_end)


def derived(one: str, two: str, names: tuple[str, str], values: Mapping[str, Any]) -> ToolFormat | None:
    """The format of a call to `names[0]` with `values` (a text and a number), which is `one`, and as the first of two,
    `two` (without the second name where the template shows one call); None where that cannot be told."""
    try:
        first = _Call(one, names[0], values)
        section, before, after, separator, closing = _around(first, one, two, names, values)
    except ValueError:
        return None
    if names[0] in before + section:
        return None
    several = names[1] in two
    key_begin, key_end, key_end_other, value_end = first.keys or ("", "", "", "")
    keys: dict[str, Any] = {"arguments": "json"}
    if first.keys:
        keys = {"arguments": "keys", "key_begin": key_begin, "key_end": key_end, "value_end": value_end}
        keys["key_end_other"] = key_end_other
    how = {"name": "derived", "summary": "as the chat template shows calls", "several": several, **keys}
    named, asked = JSON_NAME.search(before), JSON_ARGUMENTS.match(first.after_name)
    if named and asked and after.startswith("}"):
        begin, end = before[: named.start()], after[1:]
        how |= {"before_name": named[0][:-1], "after_name": first.after_name[1:], "after_arguments": "}"}
        if section.endswith("[") and closing.startswith("]") and not begin and not end:
            return _checked(ToolFormat(**how, section_begin=section[:-1], section_end=closing[1:], listed=True,
                                       separator=separator))  # fmt: skip
    else:
        mark = MARK.match(before)
        begin = "" if section else before[: mark.end() + _blank(before, mark.end())] if mark else before
        end = "" if section else _last(after)
        how |= {
            "plain_name": True, "before_name": before[len(begin) :], "after_name": first.after_name,
            "after_arguments": after[: len(after) - len(end)],
        }  # fmt: skip
    return _checked(ToolFormat(**how, section_begin=section, section_end=closing, begin=begin, end=end,
                               separator=separator))  # fmt: skip


def _around(
    first: _Call, one: str, two: str, names: tuple[str, str], values: Mapping[str, Any]
) -> tuple[str, str, str, str, str]:
    """What begins calls, is before each, behind each, between two, and ends calls."""
    if names[1] not in two:
        return "", first.before, one[first.end :], "", ""
    start = _Call(two, names[0], values).end
    second = _Call(two, names[1], values, start)
    common = _common_end(first.before, second.before)
    opening = OPENS.search(common)
    before = common if common == first.before or opening is None else common[opening.start() :]
    between, last = second.before[: len(second.before) - len(before)], two[second.end :]
    after = common_start(between, last)
    section = first.before[: len(first.before) - len(before)]
    if not section and last != after:
        raise ValueError("calls end, but do not begin")
    return section, before, after, between[len(after) :], last[len(after) :]


def _checked(format: ToolFormat) -> ToolFormat | None:
    """The format, if it has something that tells calls from text."""
    opening = format.opening.strip()
    return format if len(opening) >= SHORTEST and not opening.startswith("{") else None


def _object(text: str, start: int, values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Where the values are as a JSON object."""
    for match in re.compile(r"\{").finditer(text, start):
        try:
            found, end = json.JSONDecoder().raw_decode(text, match.start())
        except ValueError:
            continue
        if found == dict(values):
            return match.start(), end
    return None


def _common_end(one: str, two: str) -> str:
    return common_start(one[::-1], two[::-1])[::-1]


def _blank(text: str, at: int) -> int:
    """How much white space there is."""
    return len(text[at:]) - len(text[at:].lstrip())


def _last(text: str) -> str:
    """The last marker of a text, with the white space before it."""
    marks = list(MARK.finditer(text))
    return text[len(text[: marks[-1].start()].rstrip()) :] if marks else text
