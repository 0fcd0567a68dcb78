"""docs/rest.md: the REST API, from the same description as /openapi.json."""

from __future__ import annotations

import json
from typing import Any

from llamakit.plugins.frontends.rest.app import routes
from llamakit.plugins.frontends.rest.metrics import Metrics
from llamakit.plugins.frontends.rest.openapi import describe
from llamakit.plugins.frontends.rest.options import ServeOptions
from llamakit.plugins.frontends.rest.state import ServerState

from llamakit.pool import ModelPool, opener
from llamakit.registry import Registry

TITLES = {
    "llamacpp": "llama.cpp",
    "openai": "OpenAI",
    "anthropic": "Anthropic",
    "ollama": "Ollama",
    "adapters": "LoRA adapters",
}
WORDS = {"string": "text", "integer": "whole number", "boolean": "true or false"}
HEAD = """# REST API

`llamakit serve -m model.gguf` answers at http://127.0.0.1:8080. The server itself shows this page at `/docs`, with a
way to try each operation, and as OpenAPI 3.1 at `/openapi.json`. What differs from the server of 2023 is in
[rest-2023.md](rest-2023.md).

"""


def rest(registry: Registry) -> str:
    """The page."""
    pool = ModelPool({"model": "model.gguf"}, opener(registry, {}))
    state = ServerState(ServeOptions(), registry, pool, Metrics())
    root = describe(state, routes(state))
    text = HEAD + root["info"]["description"] + "\n"
    for tag in root["tags"]:
        operations = [
            (path, method, operation)
            for path, methods in root["paths"].items()
            for method, operation in methods.items()
            if operation["tags"] == [tag["name"]]
        ]
        text += f"\n## {TITLES.get(tag['name'], tag['name'].capitalize())}\n\n{tag['description']}\n"
        text += "".join(operation_text(path, method, operation, root) for path, method, operation in operations)
    return text + sampler_options(root)


def operation_text(path: str, method: str, operation: dict[str, Any], root: dict[str, Any]) -> str:
    """One operation."""
    text = f"\n### `{method.upper()} {path}`\n\n{operation['summary']}."
    text += f" {operation['description']}\n" if "description" in operation else "\n"
    parameters = [
        (p["name"], p["schema"] | {"description": p.get("description", "")}) for p in operation.get("parameters", ())
    ]
    text += table("parameter", parameters, root)
    media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    fields = properties(media.get("schema", {}), root)
    text += table("field", [(name, schema) for name, schema in fields if "x-sampler" not in schema], root)
    if any("x-sampler" in schema for _, schema in fields):
        text += "\nAlso every [sampler option](#sampler-options).\n"
    answers = operation["responses"]["200"]["content"]
    shown = next(iter(answers.values()))["schema"]
    text += table("answer", properties(shown, root), root)
    if len(answers) > 1:
        text += f"\nWith `stream`: `{list(answers)[1]}`.\n"
    return text


def sampler_options(root: dict[str, Any]) -> str:
    """The options that bodies share, with the defaults of the chat API; where `/completion` differs, it is told."""
    chat, native = (sampler_fields(path, root) for path in ("/v1/chat/completions", "/completion"))
    for name, schema in chat.items():
        default = native[name].get("default")
        if default != schema.get("default"):
            chat[name] = schema | {"description": f"{schema['description']} At `/completion` the default is {default}."}
    text = "\n## Sampler options\n\nThose of samplers from other packages are called `<sampler>.<option>`.\n"
    return text + table("field", list(chat.items()), root)


def sampler_fields(path: str, root: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sampler options among the fields of a body."""
    media = root["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return {name: schema for name, schema in properties(media["schema"], root) if "x-sampler" in schema}


def properties(schema: dict[str, Any], root: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The fields of an object, of the objects in an array, or of the object among several choices."""
    schema = resolve(schema, root)
    for choice in schema.get("anyOf", ()):
        if found := properties(choice, root):
            return found
    if schema.get("type") == "array":
        return properties(schema.get("items") or {}, root)
    return list(schema.get("properties", {}).items())


def resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, where a reference stands for it."""
    found: dict[str, Any] = schema
    if "$ref" in schema:
        found = root["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def table(kind: str, fields: list[tuple[str, dict[str, Any]]], root: dict[str, Any]) -> str:
    """Rows of a Markdown table; nothing for nothing."""
    if not fields:
        return ""
    answer = kind == "answer"
    text = f"\n| {kind} | type | {'' if answer else 'default | '}meaning |\n|---|---|{'' if answer else '---|'}---|\n"
    for name, given in fields:
        schema = plain(given)
        default = schema.get("default")
        shown = "" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"
        kind_text = type_text(schema, root) + (f", {limits(schema)}" if limits(schema) and not answer else "")
        meaning = schema.get("description", "").replace("|", "\\|")
        text += f"| `{name}` | {kind_text} | {'' if answer else shown + ' | '}{meaning} |\n"
    return text


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of `T | None` as that of T."""
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    return schema | parts[0] if len(parts) == 1 else schema


def type_text(schema: dict[str, Any], root: dict[str, Any], depth: int = 0) -> str:
    """A type in words."""
    schema = plain(resolve(schema, root) if "$ref" in schema else schema)
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "anyOf" in schema and not schema.get("type"):
        return " or ".join(dict.fromkeys(type_text(part, root, depth + 1) for part in schema["anyOf"]))
    kind = schema.get("type", "anything")
    if kind == "array" and schema.get("items") and depth < 2:
        return f"array of {type_text(schema['items'], root, depth + 1)}"
    return " or ".join(WORDS.get(k, k) for k in kind) if isinstance(kind, list) else WORDS.get(kind, kind)


def limits(schema: dict[str, Any]) -> str:
    """The values that are possible, in words."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        return f"above {schema['exclusiveMinimum']}" + (f", up to {high}" if high is not None else "")
    if low is not None and high is not None and high < (1 << 31) - 1:
        return f"{low} to {high}"
    return f"{low} or more" if low is not None else ""
