"""The options of `/set`: sampler options from their JSON schemas, and the few that belong to a request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from llamakit.errors import UsageError
from llamakit.options import OptionField, Options, json_schema, near

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMS = ("grammar", "lark", "json_schema", "regex", "choices", "structural_tag")  # of which an answer has one at most
KINDS = {"integer": "int", "number": "float", "string": "str", "boolean": "bool"}


class AnswerOptions(Options, frozen=True):
    """What an answer may be, beside the options of samplers."""

    seed: Annotated[int, Meta(ge=-1, le=(1 << 63) - 1, description="Seed of random numbers; -1 = a new one.")] = -1
    max_tokens: Annotated[int, Meta(ge=-1, le=1 << 30, description="Tokens of an answer; -1 = until its end.")] = -1
    stop: Annotated[list[str], Meta(description="Texts that end an answer, as a JSON list.")] = []
    samplers: Annotated[str, Meta(description="Samplers in order, such as top_k;top_p;temperature.")] = ""


class Knob(msgspec.Struct, frozen=True):
    """One option: how it is shown and parsed (`field`), and what its value may be (`schema`)."""

    field: OptionField
    schema: Mapping[str, Any]

    def parse(self, text: str) -> object:
        """The value that `text` stands for; a `UsageError` says what is possible."""
        if self.field.kind == "json" and not text.lstrip().startswith(("[", "{", '"', "null")):
            value: object = [text] if self.schema.get("type") == "array" else self.field.parse(text)
        else:
            value = self.field.parse(text)
        if not fits(value, self.schema):
            raise UsageError(
                f"{self.field.name} cannot be {text!r}; possible: {self.field.possible}", param=self.field.name
            )
        return value


def fits(value: object, schema: Mapping[str, Any]) -> bool:
    """Whether a value is within the bounds of a schema's number or enumeration; other kinds are left to the sampler."""
    if "enum" in schema:
        return value in schema["enum"]
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return True
    if not math.isfinite(value):
        return False
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    return bool(low <= value <= high and above < value < below)


def knobs_of(schema: Mapping[str, Any], prefix: str = "") -> dict[str, Knob]:
    """The options that a JSON Schema of a class declares, each under `prefix` and its name."""
    definitions = schema.get("$defs", {})
    if "$ref" in schema:
        schema = definitions.get(str(schema["$ref"]).rsplit("/", 1)[-1], {})
    found = {}
    for name, part in schema.get("properties", {}).items():
        options = [p for p in part.get("anyOf", ()) if p.get("type") != "null"]
        inner = {**part, **options[0]} if len(options) == 1 else part
        field = OptionField(
            name=prefix + name, kind="choice" if "enum" in inner else KINDS.get(inner.get("type", ""), "json"),
            default=part.get("default"), description=str(part.get("description", "")),
            choices=tuple(inner.get("enum", ())), interval=interval(inner),
        )  # fmt: skip
        found[prefix + name] = Knob(field, inner)
    return found


def interval(schema: Mapping[str, Any]) -> str:
    """What is possible, for people: "0..1", "above 0"."""
    if "enum" in schema:
        return ", ".join(str(choice) for choice in schema["enum"])
    low, high, above = schema.get("minimum"), schema.get("maximum"), schema.get("exclusiveMinimum")
    if above is not None:
        return f"above {above}" + (f", up to {high}" if high is not None else "")
    if low is not None:
        return f"{low}..{high}" if high is not None else f"{low} or more"
    return f"up to {high}" if high is not None else ""


class Settings:
    """What was set, by name; what was not is left to the model's or the server's defaults."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)
        self.start = dict(values)
        self.own = knobs_of(json_schema(AnswerOptions))

    def knobs(self, sampling: Mapping[str, Knob]) -> dict[str, Knob]:
        """All options there are."""
        return {**self.own, **sampling}

    def set(self, knobs: Mapping[str, Knob], name: str, text: str) -> tuple[object, list[str]]:
        """Set an option from text; returns the value, and the names of those that it took the place of."""
        knob = knobs.get(self.name(knobs, name))
        if knob is None:
            raise UsageError(f"no option {name!r}", found=near(name, knobs), hint="/set lists them")
        value = knob.parse(text)
        return value, self.put(knob.field.name, value)

    def put(self, name: str, value: object) -> list[str]:
        """Set an option; of the forms that an answer may have the last one holds. Returns those that no longer do."""
        gone = [each for each in FORMS if each != name and self.values.get(each)] if name in FORMS and value else []
        for each in gone:
            del self.values[each]
        self.values[name] = value
        return gone

    def reset(self, knobs: Mapping[str, Knob], name: str) -> None:
        """Back to what it was at the start: one option, or `all`."""
        if name == "all":
            self.values = dict(self.start)
            return
        name = self.name(knobs, name)
        if name not in knobs:
            raise UsageError(f"no option {name!r}", found=near(name, knobs), hint="/reset all")
        self.values.pop(name, None)
        if name in self.start:
            self.values[name] = self.start[name]

    @staticmethod
    def name(knobs: Mapping[str, Knob], name: str) -> str:
        """The name of an option as it is declared; `-` stands for `_`, and `temp` for `temperature`."""
        name = name.lstrip("-").replace("-", "_")
        return {"temp": "temperature"}.get(name, name) if name not in knobs else name

    def lines(self, knobs: Mapping[str, Knob]) -> list[str]:
        """A line for each option, changed ones first, marked by a star."""
        width = max(map(len, knobs), default=0)
        changed = [name for name in knobs if name in self.values]
        lines = []
        for name in [*changed, *(name for name in knobs if name not in self.values)]:
            field = knobs[name].field
            value = self.values.get(name, field.default)
            within = f"[{field.interval}] " if field.interval else ""
            lines.append(
                f"{'*' if name in changed else ' '} {name:<{width}}  {shown(value):<8} {within}{field.description}"
            )
        return lines


def shown(value: object) -> str:
    """A value as people type it."""
    return value if isinstance(value, str) and value else msgspec.json.encode(value).decode()
