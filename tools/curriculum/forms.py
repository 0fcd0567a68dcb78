"""JSON to fill from a text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from curriculum.example import Example, assistant, user

if TYPE_CHECKING:
    from curriculum.draw import Draw, Person
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
WIDE_ASKS = (
    "Write {the} as JSON.", "Give me {the} as JSON.", "Return {keys} as JSON.", "Return a JSON object with {keys}.",
    "As JSON: {keys}", "As JSON, please: {keys}", "What are {the}? Answer as JSON.", "Answer in JSON with {keys}.",
    "Put {the} into JSON.", "I need {keys} as JSON.", "JSON: {keys}", "Make JSON of {the}.", "Extract {the}.",
    "Fill in {keys}.", "Tell me {the} as JSON.", "Please write {keys} as JSON.", "Output JSON with the keys {keys}.",
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
        if level.wide and key == "object" and draw.chance(0.5):
            sentences[-1] = f"{person.name} has a {draw.one(draw.words['colour'])} {values[key]}."
    if level.wide:
        _tell_more(draw, level, sentences, told, person)
    kinds = {"name": "person"} | {key: kind for key, kind, _ in told}
    keys = draw.some(list(values), draw.number(1, len(values)))
    if "name" in keys:
        keys.sort(key=lambda key: key != "name")
    schema = _schema(keys, kinds)
    if level.wide and draw.chance(0.4):
        asked = draw.one(WIDE_ASKS).format(keys=_listed(keys), the=_listed([f"the {key}" for key in keys]))
    elif draw.chance(0.15):
        asked = "Fill this JSON schema: " + json.dumps({key: schema["properties"][key] for key in keys})
    else:
        asked = draw.one(BARE) if draw.chance(0.15) else draw.one(ASKS).format(keys=_listed(keys))
    text = " ".join(sentences)
    prompt = f"{text}\n{asked}" if draw.chance(0.5) else f"{text} {asked}"
    answer = json.dumps({key: values[key] for key in keys})
    return Example("json", [user(prompt), assistant(answer)], judge="json", schema=schema)


def _tell_more(draw: Draw, level: Level, sentences: list[str], told: list[Any], person: Person) -> None:
    """He or she for the name at times, and a sentence about somebody else, of whom nothing is asked."""
    for i in range(1, len(sentences)):
        if sentences[i].startswith(person.name) and draw.chance(level.pronouns):
            sentences[i] = person.pronoun + sentences[i].removeprefix(person.name)
    rest = [each for each in FIELDS if each not in told]
    if rest and draw.chance(0.3):
        _, kind, says = draw.one(rest)
        other = draw.one([name for name in draw.words["person"] if name != person.name])
        value = draw.number(1, 99) if kind == "number" else draw.value(kind, other)
        text = draw.one(says).format(n=other, v=value)
        sentences.insert(draw.one((0, len(sentences))), text)
