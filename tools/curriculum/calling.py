"""Tools of which the right one is to be called, with arguments that the user's words hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curriculum.example import Example, assistant, call, user
from curriculum.talk import SMALL_TALK
from curriculum.words import article

if TYPE_CHECKING:
    from curriculum.draw import Draw
    from curriculum.example import Message
    from curriculum.world import Level


@dataclass(frozen=True)
class Parameter:
    """One argument: `kind` says which words (or numbers) it takes."""

    name: str
    kind: str


@dataclass(frozen=True)
class Tool:
    """A tool, ways to ask for it ({name} of each parameter), and what may come back (with {value})."""

    name: str
    about: str
    parameters: tuple[Parameter, ...]
    asks: tuple[str, ...]
    result: str = ""
    answer: str = ""

    def definition(self) -> dict[str, Any]:
        """As clients send it."""
        properties = {p.name: {"type": "integer" if p.kind == "number" else "string"} for p in self.parameters}
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        return {"type": "function", "function": {"name": self.name, "description": self.about, "parameters": schema}}


def _tool(name: str, about: str, parameters: str, asks: str, result: str = "", answer: str = "") -> Tool:
    made = tuple(Parameter(*each.split(":")) for each in parameters.split())
    return Tool(name, about, made, tuple(asks.split(" | ")), result, answer)


COMMON = (
    _tool(
        "get_weather",
        "Weather of a city",
        "city:city",
        "What is the weather in {city}? | How is the weather in {city}? | Tell me the weather in {city}.",
        "temperature",
        "It is {value} degrees in {city}.",
    ),
    _tool(
        "get_time",
        "Time in a city",
        "city:city",
        "What time is it in {city}? | Tell me the time in {city}.",
        "hour",
        "It is {value} o'clock in {city}.",
    ),
    _tool(
        "add",
        "Add two numbers",
        "a:number b:number",
        "Add {a} and {b}. | Please add {a} and {b}.",
        "sum",
        "The sum is {value}.",
    ),
    _tool(
        "multiply",
        "Multiply two numbers",
        "a:number b:number",
        "Multiply {a} by {b}. | Please multiply {a} by {b}.",
        "product",
        "The product is {value}.",
    ),
    _tool(
        "set_timer",
        "Set a timer",
        "minutes:number",
        "Set a timer for {minutes} minutes. | Wake me in {minutes} minutes.",
    ),
    _tool(
        "play_game",
        "Start a game",
        "game:game",
        "I want to play {game}. | Let us play {game}. | Start a game of {game}.",
    ),
    _tool(
        "translate",
        "Translate a word",
        "word:object language:language",
        "Translate {word} into {language}. | What is {word} in {language}?",
    ),
    _tool(
        "turn_on_light",
        "Turn on the light of a room",
        "room:room",
        "Turn on the light in the {room}. | It is dark in the {room}.",
    ),
    _tool(
        "buy_food",
        "Buy food",
        "food:food count:number",
        "Buy {count} {food}. | Please get me {count} {food}. | I need {count} {food}.",
    ),
    _tool(
        "send_message",
        "Send a message",
        "person:person text:feeling",
        "Tell {person} that I am {text}. | Send {person} a message: {text}",
    ),
    _tool(
        "book_train",
        "Book a train",
        "city:city day:day",
        "Book a train to {city} on {day}. | I want to go to {city} on {day}.",
    ),
    _tool(
        "call_person",
        "Call somebody",
        "person:person",
        "Call {person}. | Please call {person}. | I must speak to {person}.",
    ),
)
VERBS = (
    "bring", "check", "clean", "draw", "find", "hide", "move", "open", "paint", "save", "sell", "show", "take", "watch",
)  # fmt: skip
KINDS = ("animal", "city", "food", "object", "person", "place")
PLACED = ("object", "animal", "person")  # what may be in a place


def invented(draw: Draw) -> Tool:
    """A tool made of a verb and a kind of thing, such as find_object."""
    verb, kind = draw.one([(verb, kind) for verb in VERBS for kind in draw.partners(KINDS, verb)])
    asks: tuple[str, ...] = (
        f"{verb.capitalize()} {{{kind}}}.",
        f"Please {verb} {{{kind}}}.",
        f"Can you {verb} {{{kind}}}?",
    )
    if kind in PLACED and draw.chance(0.3):
        asks = tuple(f"{ask[:-1]} in the {{place}}{ask[-1]}" for ask in asks)
        return Tool(
            f"{verb}_{kind}",
            f"{verb} {article(kind)} in a place",
            (Parameter(kind, kind), Parameter("place", "place")),
            asks,
        )
    return Tool(f"{verb}_{kind}", f"{verb} {article(kind)}", (Parameter(kind, kind),), asks)


def _arguments(draw: Draw, tool: Tool) -> dict[str, Any]:
    return {
        p.name: draw.number(1, 99) if p.kind == "number" else draw.value(p.kind, tool.name) for p in tool.parameters
    }


def _said(draw: Draw, tool: Tool, arguments: dict[str, Any]) -> str:
    """The user's words: things have an article where one is usual."""
    shown = dict(arguments)
    if tool not in COMMON:
        for kind in ("animal", "object"):
            shown |= {kind: f"the {arguments[kind]}"} if kind in arguments else {}
        if "place" in arguments and len(arguments) == 1:
            shown["place"] = f"the {arguments['place']}"
    return draw.one(tool.asks).format(**shown)


def _toolbox(draw: Draw, level: Level) -> list[Tool]:
    tools: dict[str, Tool] = {}
    for _ in range(draw.number(1, min(4, level.phrasings + 1))):
        tool = draw.one(COMMON) if draw.chance(0.5) else invented(draw)
        tools.setdefault(tool.name, tool)
    return list(tools.values())


def make(draw: Draw, level: Level) -> Example:
    """Some tools and something to do with one of them, maybe several turns; at times nothing to do at all."""
    tools = _toolbox(draw, level)
    messages: list[Message] = []
    turns = draw.number(1, 3)
    for turn in range(turns):
        if turn < turns - 1 and draw.chance(0.2):
            asked, answer = draw.one(SMALL_TALK)
            messages += [user(asked), assistant(answer)]
            continue
        tool = draw.one(tools)
        arguments = _arguments(draw, tool)
        messages += [user(_said(draw, tool, arguments)), call(tool.name, arguments)]
        if turn < turns - 1:
            messages += _outcome(draw, tool, arguments)
    return Example("tool", messages, [tool.definition() for tool in tools], judge="call")


def _outcome(draw: Draw, tool: Tool, arguments: dict[str, Any]) -> list[Message]:
    """What the tool gives back, and what is said of it."""
    value = draw.number(1, 30)
    content = json.dumps({tool.result: value}) if tool.result else '{"ok": true}'
    said = tool.answer.format(value=value, **arguments) if tool.answer else "Done."
    return [{"role": "tool", "name": tool.name, "content": content}, assistant(said)]


def no_tool(draw: Draw, level: Level) -> Example:
    """Tools that are of no use for what the user says."""
    asked, answer = draw.one(SMALL_TALK)
    return Example("no-tool", [user(asked), assistant(answer)], [t.definition() for t in _toolbox(draw, level)])
