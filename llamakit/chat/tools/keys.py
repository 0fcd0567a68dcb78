"""Arguments that are written as names and values between markers, as in XML: reading them, and their grammar.

A string stands as it is; every other value is JSON. What a value is follows from the schema of its parameter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from llamakit.chat.tools.format import ToolFormat

Part = dict[str, Any]  # a format of a structural tag


class KeysReader:
    """Follows the arguments of one call; gives them as the text of a JSON object."""

    def __init__(self, format: ToolFormat, schema: Any) -> None:
        self._begin, self._end = format.key_begin.strip(), format.value_end.strip()
        self._middle, self._other = format.key_end.strip(), format.key_end_other.strip()
        self._newline = format.key_end.endswith("\n")  # one after the name, and one before the end, are not the value's
        self._properties = properties_of(schema)
        self._n = 0

    def feed(self, held: str) -> tuple[str, str, bool]:
        """What is new of the object, what stays held, and whether the object is complete."""
        told = ""
        while True:
            rest = held.lstrip()
            if not rest or (self._begin.startswith(rest) and rest != self._begin):
                return told, held, False
            if not rest.startswith(self._begin):
                return told + ("}" if self._n else "{}"), rest, True
            name, middle, value = self._head(rest[len(self._begin) :])
            value, end, after = value.partition(self._end)
            if not (middle and end):
                return told, held, False
            told += self._pair(name.strip(), value, other=middle == self._other)
            held = after

    def _head(self, rest: str) -> tuple[str, str, str]:
        """A name, what ends it, and what is behind that."""
        plain = rest.partition(self._middle)
        other = rest.partition(self._other) if self._other else ("", "", "")
        return other if other[1] and (not plain[1] or len(other[0]) < len(plain[0])) else plain

    def _pair(self, name: str, text: str, *, other: bool) -> str:
        if self._newline:
            text = text.removeprefix("\n").removesuffix("\n")
        self._n += 1
        schema = self._properties.get(name)
        if self._other:  # what a value is is written beside its name
            schema = None if other else {"type": "string"}
        return ("{" if self._n == 1 else ", ") + f"{msgspec.json.encode(name).decode()}: {value_of(text, schema)}"


def value_of(text: str, schema: Any) -> str:
    """The JSON of a value as it is written here."""
    if not takes_strings(schema):
        try:
            msgspec.json.decode(text)
            return text.strip()
        except (msgspec.DecodeError, RecursionError):
            pass
    return msgspec.json.encode(text).decode()


def takes_strings(schema: Any) -> bool:
    """Whether a parameter is a string, as far as its schema tells; unknown ones are JSON where they can be."""
    if not isinstance(schema, dict):
        return False
    kind = schema.get("type")
    if kind is not None:
        return kind == "string" or (isinstance(kind, list) and "string" in kind)
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if values:
        return all(isinstance(value, str) for value in values)
    return any(takes_strings(each) for key in ("anyOf", "oneOf", "allOf") for each in schema.get(key) or ())


def properties_of(schema: Any) -> dict[str, Any]:
    """The schemas of an object's properties."""
    found = schema.get("properties") if isinstance(schema, dict) else None
    return found if isinstance(found, dict) else {}


def keys_part(format: ToolFormat, schema: Any, literal: Any, *, lenient: bool, about: str) -> list[Part]:
    """The grammar of the arguments: required ones first, in the schema's order; `literal` makes parts of a text."""
    properties = properties_of(schema)
    required = schema.get("required") if isinstance(schema, dict) else None
    needed = set(required) if isinstance(required, list) else set()
    parts: list[Part] = []
    for name in sorted(properties, key=lambda each: each not in needed):
        pair = [*literal(format.key_begin + name + format.key_end_of(takes_strings(properties[name]))),
                *_value(format, properties[name], schema, lenient=lenient, about=f"{about}.{name}"),
                *literal(format.value_end)]  # fmt: skip
        whole: Part = {"type": "sequence", "elements": pair}
        parts.append(whole if name in needed else {"type": "optional", "content": whole})
    if not properties and (not isinstance(schema, dict) or schema.get("additionalProperties") is not False):
        name_part = {"type": "regex", "pattern": r"[\w.-]{1,64}"}
        pair = [
            *literal(format.key_begin),
            name_part,
            *literal(format.key_end),
            _any(format),
            *literal(format.value_end),
        ]
        parts.append({"type": "star", "content": {"type": "sequence", "elements": pair}})
    return parts


def _value(format: ToolFormat, schema: Any, root: Any, *, lenient: bool, about: str) -> list[Part]:
    if takes_strings(schema):
        values = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
        if values:
            texts = [{"type": "const_string", "value": str(value)} for value in values]
            return [texts[0] if len(texts) == 1 else {"type": "or", "elements": texts}]
        return [_any(format)]
    shared = {key: root[key] for key in ("$defs", "definitions") if isinstance(root, dict) and key in root}
    inner = schema if not shared or not isinstance(schema, dict) else {**schema, **shared}
    return [{"type": "json_schema", "json_schema": inner, "lenient": lenient, "about": about}]


def _any(format: ToolFormat) -> Part:
    return {"type": "any_text", "excludes": [format.value_end.strip()]}
