"""What there is to know of the way in which a family of models calls tools."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

ALPHANUMERIC = string.ascii_letters + string.digits
SHORT_ID = 9
NUMBER = "\0"  # in a text around a name: the number of the call


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are written: data, for reading them, for keeping answers to them, and for writing them in prompts.

    An answer is `section_begin`, calls with `separator` between two, `section_end`; with `listed` the calls are in the
    brackets of a JSON array. A call is `begin`, `before_name`, the name (as JSON, unless `plain_name`), `after_name`,
    the arguments, `after_arguments`, `end`. With `bare` there may be no markers. A NUL in these texts is the number of
    the call. `id_mark`: behind it the model may write an id, after the name. `arguments`: "json" for an object; "keys"
    for `key_begin`, name, `key_end`, value, `value_end` of each, strings as they are (`key_end_other`, where it is not
    "", is behind the names of other values); "python" for `name=value` as in Python. `several`: whether one answer can
    have several calls; `short_ids`: the ids of calls are nine letters and digits, or the template refuses them;
    `signs`: sets of texts, of which one is as a whole in the templates of the family, for those that do not show
    calls; `channels`: thoughts, answers and calls are messages in channels (harmony); `to_user`: text is a part of the
    answer like a call, to this name in place of a tool's.
    """

    name: str
    summary: str = ""
    signs: tuple[tuple[str, ...], ...] = ()
    section_begin: str = ""
    section_end: str = ""
    begin: str = ""
    end: str = ""
    bare: bool = False
    listed: bool = False
    before_name: str = '{"name": '
    after_name: str = ', "arguments": '
    id_mark: str = ""
    after_arguments: str = "}"
    plain_name: bool = False
    separator: str = ""
    several: bool = True
    short_ids: bool = False
    arguments: Literal["json", "keys", "python"] = "json"
    key_begin: str = ""
    key_end: str = ""
    key_end_other: str = ""
    value_end: str = ""
    channels: bool = False
    to_user: str = ""

    @property
    def opening(self) -> str:
        """What a text with calls has before the first of them."""
        return self.section_begin or self.begin

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that may be control tokens, which have to be seen in answers."""
        texts = [self.section_begin, self.section_end, self.begin, self.end]
        texts += [self.before_name, self.after_name, self.after_arguments] if self.plain_name else []
        texts += [self.id_mark, self.key_begin, self.key_end, self.key_end_other, self.value_end]
        found = [
            part
            for text in texts
            for part in (text.strip(), *re.findall(r"<[^<>\s]+>|\[[A-Z_]+\]|｜[^｜<>\s]+｜", text))
        ]
        return tuple(dict.fromkeys(filter(None, found)))

    def written(self, name: str, number: int = 0) -> str:
        """A call up to its arguments, without markers."""
        shown = name if self.plain_name else msgspec.json.encode(name).decode()
        return (self.before_name + shown + self.after_name).replace(NUMBER, str(number))

    def text(self, calls: Sequence[tuple[str, Any]]) -> str:
        """Calls as the model would write them: (name, arguments) of each; markers only where there must be some."""
        section, closing = ("", "") if self.bare else (self.section_begin, self.section_end)
        begin, end = ("", "") if self.bare else (self.begin, self.end)
        each = [self._inner(name, arguments, number) for number, (name, arguments) in enumerate(calls)]
        if not self.listed:
            return section + self.separator.join(begin + text + end for text in each) + closing
        row = self.separator.join(each)
        plain = self.bare and len(each) == 1 and not self.plain_name
        return (section or begin) + (row if plain else f"[{row}]") + (closing or end)

    @property
    def end_of_all(self) -> str:
        """What is after the last call."""
        return self.section_end or self.end

    def example(self) -> str:
        """What a call looks like, for models that are not told by their template."""
        if self.arguments == "json":
            text = self.text([("<name>", {})]).replace("{}", "<object>", 1)
            return text if self.plain_name else text.replace('"<name>"', "<name>", 1)
        return self.text([("<name>", {"<parameter>": "<value>"})])

    def new_id(self) -> str:
        """The id of a call."""
        if self.short_ids:
            return "".join(secrets.choice(ALPHANUMERIC) for _ in range(SHORT_ID))
        return "call_" + secrets.token_hex(12)

    def key_end_of(self, is_string: bool) -> str:
        """What is between the name of an argument and its value."""
        return self.key_end if is_string or not self.key_end_other else self.key_end_other

    def _inner(self, name: str, arguments: Any, number: int) -> str:
        return (
            self.written(name, number) + self._arguments(arguments) + self.after_arguments.replace(NUMBER, str(number))
        )

    def _arguments(self, arguments: Any) -> str:
        items = arguments.items() if isinstance(arguments, dict) else ()
        if self.arguments == "keys":
            return "".join(
                self.key_begin + str(k) + self.key_end_of(isinstance(v, str)) + _raw(v) + self.value_end
                for k, v in items
            )
        if self.arguments == "python":
            return ", ".join(f"{key}={value!r}" for key, value in items)
        return _spaced(arguments)


def _raw(value: Any) -> str:
    """A value beside its name: a string as it is, all else as JSON."""
    return value if isinstance(value, str) else _spaced(value)


def _spaced(value: Any) -> str:
    """JSON with spaces after commas and colons, as templates write it."""
    import json

    return json.dumps(value, ensure_ascii=False)
