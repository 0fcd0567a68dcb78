"""JSON to fill from a text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from curriculum.example import Example, assistant, user

if TYPE_CHECKING:
    from curriculum.draw import Draw
    from curriculum.world import Level

# Field, kind of its values, ways to say it. {n} is the name, {v} the value.
FIELDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("age", "number", ("{n} is {v} years old.", "{n} is {v}.")),
    ("city", "city", ("{n} lives in {v}.", "{n} is from {v}.")),
    ("job", "job", ("{n} works as a {v}.", "{n} is a {v} by trade.")),
    ("food", "food", ("{n} likes {v}.", "{n} likes to eat {v}.")),
    ("pet", "animal", ("{n} has a pet {v}.", "{n} keeps a {v}.")),
    ("colour", "colour", ("{n} wears {v}.", "The coat of {n} is {v}.")),
    ("game", "game", ("{n} plays {v}.",)),
    ("language", "language", ("{n} speaks {v}.",)),
    ("day", "day", ("{n} comes on {v}.",)),
    ("place", "place", ("{n} is at the {v}.", "{n} went to the {v}.")),
    ("object", "object", ("{n} has a {v}.", "{n} owns a {v}.")),
)
ASKS = (
    "Write {keys} as JSON.", "Give me {keys} as JSON.", "Fill in as JSON: {keys}", "JSON with {keys}, please.",
    "Make a JSON object with {keys}.", "Extract {keys} as JSON.", "Find {keys} and answer as JSON.",
)  # fmt: skip
BARE = ("As JSON.", "Write this as JSON.", "Give me this as JSON.")


def _schema(keys: list[str], kinds: dict[str, str]) -> dict[str, Any]:
    properties = {key: {"type": "integer" if kinds[key] == "number" else "string"} for key in keys}
    return {"type": "object", "properties": properties, "required": keys, "additionalProperties": False}


def _listed(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + " and " + keys[-1]


def make(draw: Draw, level: Level) -> Example:
    """A text about somebody and the fields to write, in the order in which they are asked for."""
    person = draw.people(1, level.invented)[0]
    told = draw.some(FIELDS, draw.number(1, 2 + level.phrasings // 2))
    values: dict[str, Any] = {"name": person.name}
    sentences = []
    for key, kind, says in told:
        values[key] = draw.number(1, 99) if kind == "number" else draw.value(kind, person.name)
        sentences.append(draw.one(says[: level.phrasings]).format(n=person.name, v=values[key]))
    kinds = {"name": "person"} | {key: kind for key, kind, _ in told}
    keys = draw.some(list(values), draw.number(1, len(values)))
    if "name" in keys:
        keys.sort(key=lambda key: key != "name")
    schema = _schema(keys, kinds)
    if draw.chance(0.15):
        asked = "Fill this JSON schema: " + json.dumps({key: schema["properties"][key] for key in keys})
    else:
        asked = draw.one(BARE) if draw.chance(0.15) else draw.one(ASKS).format(keys=_listed(keys))
    text = " ".join(sentences)
    prompt = f"{text}\n{asked}" if draw.chance(0.5) else f"{text} {asked}"
    answer = json.dumps({key: values[key] for key in keys})
    return Example("json", [user(prompt), assistant(answer)], judge="json", schema=schema)
