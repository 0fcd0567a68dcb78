"""JSON Schemas of bodies, answers and errors, from the classes that the server itself uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.body import sampler_options
from llamakit.plugins.frontends.rest.errors import body_of
from llamakit.plugins.frontends.rest.meanings import ANSWERED, ASKED

from llamakit.errors import UsageError
from llamakit.options import json_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamakit.plugins.frontends.rest.route import Operation
    from llamakit.plugins.frontends.rest.state import ServerState

Schema = dict[str, Any]
PLACE = "#/components/schemas/{name}"
STRICT: Schema = {"type": "boolean", "default": False, "description": "Unknown fields are an error, not ignored."}
SAMPLER = "x-sampler"  # marks the fields of a body that are options of a sampler


class Schemas:
    """The schemas of some operations: `components` by name, and `of(type)` for one of their types."""

    def __init__(self, state: ServerState, operations: Iterable[Operation]) -> None:
        operations = list(operations)
        self._samplers = state.registry.samplers()
        types = [type_ for op in operations for type_ in (op.body, op.response) if type_ is not None]
        types = list(dict.fromkeys([*types, *(cls.Options for cls in self._samplers.values())]))
        schemas, self.components = short_names(*msgspec.json.schema_components(types, ref_template=PLACE))
        self._schemas = dict(zip(types, schemas, strict=True))
        options = self._sampler_properties(state)
        for cls in self._samplers.values():  # they are described where they may be used
            self.components.pop(_name(self._schemas[cls.Options]), None)
        self._merge(operations, options)
        self._explain({op.body for op in operations}, ASKED, {})
        self._explain({op.response for op in operations}, ANSWERED, options)

    def of(self, type_: Any) -> Schema:
        """The schema of a type, most often a reference; anything at all for None."""
        return self._schemas[type_] if type_ is not None else {}

    def parameters(self, query: Any) -> list[Schema]:
        """The parameters in the URL that a Struct declares."""
        declared = json_schema(query) if query is not None else {"properties": {}}
        found = []
        for name, schema in declared["properties"].items():
            value = {"name": name, "in": "query", "schema": {k: v for k, v in schema.items() if k != "description"}}
            if meaning := schema.get("description") or ASKED.get(name):
                value["description"] = meaning
            if name in declared.get("required", ()):
                value["required"] = True
            found.append(value)
        return found

    def _sampler_properties(self, state: ServerState) -> dict[str, Schema]:
        """Every sampler option by its name in a body, with the default that the server's settings give it."""
        owners = {cls.Options: name for name, cls in self._samplers.items()}
        found = {}
        for key, option in sampler_options(state).items():
            schema = dict(self.components[_name(self._schemas[option.cls])]["properties"][option.field.name])
            if key in state.sampling:
                schema["default"] = state.sampling[key]
            found[key] = schema | {SAMPLER: owners[option.cls]}
        return found

    def _merge(self, operations: list[Operation], options: dict[str, Schema]) -> None:
        """Give the bodies what is not in their classes: the options of all samplers, and `strict`."""
        sampled = {op.body: op.defaults for op in operations if op.sampling}
        for body in {op.body for op in operations if op.body is not None}:
            name = _name(self.of(body))
            if name:
                own = self.components[name]["properties"]
                more = {key: value for key, value in options.items() if key not in own} if body in sampled else {}
                for key, value in sampled.get(body, {}).items() if more else ():
                    more[key] = more[key] | {"default": value}
                self.components[name] = self.components[name] | {"properties": own | more | {"strict": STRICT}}

    def _explain(self, types: set[Any], meanings: dict[str, str], options: dict[str, Schema]) -> None:
        """Describe the fields of these types that do not describe themselves; settings as the options that they are."""
        for name in {_name(part) for type_ in types for part in _parts(self.of(type_))} - {""}:
            properties = self.components[name].get("properties", {})
            for field, own in properties.items():
                meaning = (
                    meanings.get(f"{name}.{field}") or meanings.get(field) or options.get(field, {}).get("description")
                )
                if meaning and "description" not in own:
                    properties[field] = own | {"description": meaning}


def short_names(schemas: tuple[Schema, ...], components: dict[str, Schema]) -> tuple[list[Schema], dict[str, Schema]]:
    """The same with components that several modules have called `name` as ApiName, such as "OllamaChatBody"."""
    text = msgspec.json.encode([list(schemas), components])
    for name in components:
        module, _, last = name.rpartition(".")
        api = module.rpartition(".")[2].partition("_")[0].title()
        if module and f"{api}{last}" not in components:
            text = text.replace(f'"{name}"'.encode(), f'"{api}{last}"'.encode())
            text = text.replace(PLACE.format(name=name).encode() + b'"', PLACE.format(name=api + last).encode() + b'"')
    renamed: tuple[list[Schema], dict[str, Schema]] = tuple(msgspec.json.decode(text))
    return renamed


def _parts(schema: Schema) -> list[Schema]:
    """The schema, or those that it chooses among or lists."""
    inner = schema.get("anyOf") or [schema["items"]] if "anyOf" in schema or "items" in schema else []
    return [part for each in inner for part in _parts(each)] or [schema]


def _name(schema: Schema) -> str:
    """The component that a schema refers to."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def error_schema(resource: Any) -> tuple[str, Schema]:
    """Name and schema of the errors that a resource answers: the common one, or that of its `error_body`."""
    make = getattr(resource, "error_body", None)
    if make is None:
        return "Error", ERROR
    sample = make(UsageError("what was asked", found="what was found", hint="what would work", param="field"))
    owner = getattr(make, "__self__", resource)  # a dialect's, where its API has several resources
    return f"{type(owner).__module__.rpartition('.')[2].partition('_')[0].title()}Error", like(sample)


def like(value: Any) -> Schema:
    """A schema for values of the form of this one; texts may be null."""
    if isinstance(value, dict):
        return {"type": "object", "properties": {key: like(each) for key, each in value.items()}}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, (int, float)):
        return {"type": "number"}
    return {"type": ["string", "null"]} if value is None or isinstance(value, str) else {}


ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": like(body_of(UsageError("x", param="y"))["error"])
        | {
            "required": ["code", "message", "param", "found", "hint", "type"],
            "description": "What was asked and why not (`message`), what was found, what would work (`hint`), and the"
            " field at fault (`param`).",
        }
    },
}
