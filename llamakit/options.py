"""Options declared once.

A component declares its options as a subclass of `Options`: a strict, typed msgspec Struct whose fields carry
bounds and a description. Config keys, CLI flags, REST fields, OpenAPI entries, controls on the web page and
the reference page of the docs are all made from that one declaration.

    class TopKOptions(Options):
        top_k: Annotated[int, Meta(ge=0, le=1_000_000, description="Keep the k likeliest tokens; 0 keeps all.")] = 40
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from llamakit.errors import LONGEST_NAME, UsageError, shown
from llamakit.typed import convert

MOST_NAMES = 40  # longer lists are not shown whole
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
MOST_BYTES = 2.0**63


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of every component's options. Every field has a type with bounds, a description, a default."""


class OptionField(msgspec.Struct, frozen=True, kw_only=True):
    """One option, as the command line, the config and the docs need it."""

    name: str
    kind: str  # "int", "float", "str", "bool", "choice" or "json"
    default: Any
    description: str = ""
    choices: tuple[Any, ...] = ()
    interval: str = ""  # such as "0..1", "above 0", for people

    def parse(self, text: str) -> object:
        """The value that `text`, from the environment or a command line, stands for."""
        try:
            if self.kind in ("int", "float"):
                return int(text) if self.kind == "int" else float(text)
            if self.kind == "bool":
                return _BOOLS[text.strip().lower()]
            if self.kind == "choice":
                return next(choice for choice in self.choices if str(choice) == text)
            return msgspec.json.decode(text) if self.kind == "json" else text
        except (ValueError, KeyError, StopIteration, msgspec.DecodeError):
            raise UsageError(f"{self.name} cannot be {text!r}; possible: {self.possible}", param=self.name) from None

    @property
    def possible(self) -> str:
        """What the value can be, for people."""
        return self.interval or WORDS.get(self.kind, self.kind)

    @property
    def shown_default(self) -> str:
        """The default, for people: nothing where there is none."""
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if self.default is None or self.default in ("", [], (), {}):
            return ""
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "json": "JSON"}
_BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@lru_cache(maxsize=512)
def fields_of(cls: type[msgspec.Struct]) -> tuple[OptionField, ...]:
    """The options that a class declares, in order."""
    schema = json_schema(cls)["properties"]
    fields = []
    for field in msgspec.structs.fields(cls):
        part = _without_null(schema[field.encode_name])
        fields.append(
            OptionField(
                name=field.name,
                kind=_kind(part),
                default=field.default_factory() if callable(field.default_factory) else field.default,
                description=part.get("description", ""),
                choices=tuple(part.get("enum", ())),
                interval=_interval(part),
            )
        )
    return tuple(fields)


def json_schema(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """JSON Schema of the class, with bounds, descriptions and defaults."""
    (schema,), definitions = msgspec.json.schema_components([cls])
    name = schema["$ref"].rsplit("/", 1)[-1]
    found: dict[str, Any] = definitions[name]
    return found


def ui(*, disabled_by: tuple[str, str, object] | None = None, **hints: object) -> dict[str, Any]:
    """Hints for an option's control on the web page, for `Meta(extra_json_schema=ui(step=0.1))`; all may be left out.

    `step`; `off`: the value that does nothing; `slider`: its (low, high), where the bounds are too wide for one;
    `scale`: "log"; `unit`; `widget`: "text" for several lines; `advanced`: shown on demand; `group`, `order`.
    `disabled_by`: (option, "==" or ">", value): without effect while that holds.
    """
    if disabled_by is not None:
        hints["disabled_by"] = [dict(zip(("field", "op", "value"), disabled_by, strict=True))]
    return {"x-ui": hints}


def build_options(cls: type[Options], values: Mapping[str, object], *, where: str = "") -> Any:
    """Make the options from values; a wrong one is a `UsageError` that names field, value and what is possible."""
    fields = {field.name: field for field in fields_of(cls)}
    prefix = f"{where}: " if where else ""
    for name in values:
        if name not in fields:
            raise UsageError(f"{prefix}no option {name!r}", found=near(name, fields), param=name)
    try:
        return convert(dict(values), cls)
    except msgspec.ValidationError as error:
        for name, value in values.items():
            try:
                convert({name: value}, cls)
            except msgspec.ValidationError:
                wanted = fields[name].possible
                raise UsageError(f"{prefix}{name} is {shown(value)}; possible: {wanted}", param=name) from None
        raise UsageError(f"{prefix}{error}") from None


def near(name: str, known: Iterable[str]) -> str:
    """What was found for a misspelt name: the names nearest to it, else all of them."""
    names = list(known)
    every = f"there are: {', '.join(names)}" if len(names) <= MOST_NAMES else ""
    return nearest(name, names) or every


def nearest(name: str, known: Iterable[str]) -> str:
    """The names nearest to a misspelt one as a phrase, or nothing."""
    found = difflib.get_close_matches(name[:LONGEST_NAME], list(known), 3, 0.6)  # it takes longer than linear time
    return f"{', '.join(found)} {'is' if len(found) == 1 else 'are'} nearest" if found else ""


def size_in_bytes(text: str, param: str) -> int:
    """Bytes that a size such as "4G", "512 MiB" or "1000" stands for; units are powers of 1024."""
    match = SIZE.fullmatch(text.strip())
    value = float(match[1]) * UNITS[match[2].upper()] if match else MOST_BYTES
    if value >= MOST_BYTES:
        found = text if len(text) <= 40 else text[:40] + "..."
        hint = "a number of bytes, or one with K, M, G or T"
        raise UsageError(f"{param} cannot be {found!r}", hint=hint, param=param)
    return int(value)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of `T | None` as that of T."""
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    return schema | parts[0] if len(parts) == 1 else schema


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "choice"
    return {"integer": "int", "number": "float", "string": "str", "boolean": "bool"}.get(schema.get("type", ""), "json")


def _interval(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(str(choice) for choice in schema["enum"] if choice != "")
    low, high, above, below = (
        _number(schema[key]) if key in schema else ""
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    )
    if above:
        return f"above {above}, up to {high}" if high else f"above {above}"
    if low and high:
        return f"{low}..{high}"
    if low and below:
        return f"{low} to below {below}"
    if low:
        return f"{low} or more"
    return f"up to {high}" if high else ""


def _number(value: float) -> str:
    """A bound for people: 1000000000 rather than 1000000000.0, and no exponent for whole numbers."""
    return str(int(value)) if value == int(value) else f"{value:g}"
