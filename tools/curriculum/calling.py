"""Tools of which the right one is to be called, with arguments that the user's words hold."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from curriculum import copying, questions, talk
from curriculum.example import Example, assistant, call, user
from curriculum.talk import SMALL_TALK
from curriculum.wide import polite
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


# More ways to ask for the common tools.
WIDE_ASKS: dict[str, tuple[str, ...]] = {
    "get_weather": (
        "Is it warm in {city}?", "What is the weather like in {city}?", "Weather in {city}?", "Will it rain in {city}?",
        "I go to {city} today. What is the weather there?", "Show me the weather of {city}.",
        "How cold is it in {city}?", "Is it warm in {city}? Tell me the weather.", "Check the weather in {city}.",
    ),
    "get_time": (
        "What is the time in {city}?", "How late is it in {city}?", "Time in {city}?",
        "Which time is it in {city} now?",
        "I need the time in {city}.", "Give me the time in {city}.",
    ),
    "add": (
        "What is {a} plus {b}?", "What is {a} + {b}?", "How much is {a} and {b}?", "What is the sum of {a} and {b}?",
        "{a} + {b}", "Add {b} to {a}.",
    ),
    "multiply": (
        "What is {a} times {b}?", "What is {a} * {b}?", "How much is {a} times {b}?", "{a} * {b}",
        "What is the product of {a} and {b}?",
    ),
    "set_timer": (
        "Timer for {minutes} minutes.", "Start a timer of {minutes} minutes.", "Remind me in {minutes} minutes.",
        "Set the timer to {minutes} minutes.", "The eggs need {minutes} minutes.",
    ),
    "play_game": ("Can we play {game}?", "Shall we play {game}?", "{game}, please.", "I would like a game of {game}."),
    "translate": (
        "How do you say {word} in {language}?", "What is the {language} word for {word}?", "{word} in {language}?",
        "Translate the word {word} into {language}.", "I need {word} in {language}.",
    ),
    "turn_on_light": (
        "Light in the {room}.", "Switch on the light in the {room}.", "I cannot see anything in the {room}.",
        "Make it bright in the {room}.", "Turn the light on in the {room}.", "The {room} is dark.",
    ),
    "buy_food": ("Get {count} {food}.", "Order {count} {food}.", "We need {count} {food}.",
                 "Can you buy {count} {food}?"),
    "send_message": ("Write to {person}: {text}", "Let {person} know that I am {text}.", "Message {person}: {text}"),
    "book_train": (
        "I need a train to {city} on {day}.", "Train to {city} on {day}.",
        "On {day} I must be in {city}. Book a train.",
        "Buy a ticket to {city} for {day}.",
    ),
    "call_person": ("Phone {person}.", "Ring {person}.", "I want to talk to {person}.", "Give {person} a call."),
}  # fmt: skip
WIDE_VERBS = (
    "add", "build", "buy", "carry", "catch", "choose", "close", "cook", "count", "cut", "delete", "describe", "drop",
    "eat", "feed", "fix", "follow", "greet", "hold", "invite", "list", "lock", "make", "meet", "order", "pay", "print",
    "push", "read", "remove", "rent", "repair", "search", "send", "start", "stop", "teach", "throw", "turn", "visit",
    "wake", "wash", "weigh", "write",
)  # fmt: skip
WIDE_KINDS = ("animal", "city", "food", "game", "job", "object", "person", "place", "room")


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


def invented_wide(draw: Draw) -> Tool:
    """A tool of one or two things, whose arguments may have names of their own."""
    verb, kind = draw.one([(v, k) for v in VERBS + WIDE_VERBS for k in draw.partners(WIDE_KINDS, v)])
    the = "" if kind in ("city", "food", "game", "person") else "the "
    first = Parameter(draw.one((kind, kind, "name", "item", "what")), kind)
    ask = f"{verb.capitalize()} {the}{{{first.name}}}"
    about = f"{verb.capitalize()} {article(kind)}"
    second = draw.one((None, None, "place", "room", "colour", "day", "number", "person"))
    if second is None or second == kind:
        return Tool(f"{verb}_{kind}", about, (first,), (f"{ask}.",))
    joined = {
        "place": "in the {place}", "room": "in the {room}", "colour": "in {colour}", "day": "on {day}",
        "number": "{number} times", "person": "for {person}",
    }[second]  # fmt: skip
    name = f"{verb}_{kind}{draw.one(('', '_' + second))}"
    return Tool(name, f"{about} {joined.split('{')[0]}{article(second)}", (first, Parameter(second, second)),
                (f"{ask} {joined}.",))  # fmt: skip


def _arguments(draw: Draw, tool: Tool) -> dict[str, Any]:
    return {
        p.name: draw.number(1, 99) if p.kind == "number" else draw.value(p.kind, tool.name) for p in tool.parameters
    }


def _said(draw: Draw, tool: Tool, arguments: dict[str, Any], level: Level) -> str:
    """The user's words: things have an article where one is usual."""
    if level.wide:
        ask = draw.one(tool.asks + WIDE_ASKS.get(tool.name, ()) * (tool in COMMON)).format(**arguments)
        return polite(draw, ask[0].upper() + ask[1:]) if draw.chance(0.5) else ask
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
        tool = draw.one(COMMON) if draw.chance(0.5) else (invented_wide if level.wide else invented)(draw)
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
        messages += [user(_said(draw, tool, arguments, level)), call(tool.name, arguments)]
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
    if level.wide and draw.chance(0.75):
        maker = draw.one((talk.unknown, talk.make, questions.make, copying.copy, copying.count))
        return replace(maker(draw, level), kind="no-tool", tools=[t.definition() for t in _toolbox(draw, level)])
    asked, answer = draw.one(SMALL_TALK)
    return Example("no-tool", [user(asked), assistant(answer)], [t.definition() for t in _toolbox(draw, level)])
