"""What is learned when: stages, each a mix of kinds at a level of difficulty."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from curriculum import calling, copying, forms, questions, talk, telling
from curriculum.brief import BRIEF
from curriculum.draw import HELD_OUT, TRAIN, Draw
from curriculum.example import Example
from curriculum.wide import WIDE
from curriculum.world import EASY, HARD, MIDDLE, Level

Maker = Callable[[Draw, Level], Example]
KINDS: Mapping[str, Maker] = {
    "lookup": copying.lookup,
    "copy": copying.copy,
    "question": questions.make,
    "tool": calling.make,
    "no-tool": calling.no_tool,
    "json": forms.make,
    "count": copying.count,
    "talk": talk.make,
    "story": telling.make,
    "text": telling.plain,
    "unknown": talk.unknown,
}


@dataclass(frozen=True)
class Stage:
    """A part of the training: examples of each kind in a hundred, and after how many there is a piece of a tale.

    `conversations`: the share of examples that are several of different kinds, one after the other; one of them gives a
    text, so that no two texts contradict each other. `before`: the share at the level HARD.
    """

    name: str
    level: Level
    mix: Mapping[str, int]
    tales: int = 0
    conversations: float = 0.0
    before: float = 0.0


STAGES = (
    Stage("easy", EASY, {"lookup": 20, "copy": 25, "question": 35, "tool": 8, "json": 8, "count": 4}),
    Stage("middle", MIDDLE, {
        "lookup": 8, "copy": 12, "question": 40, "tool": 14, "no-tool": 2, "json": 12, "count": 5, "talk": 4,
        "story": 3,
    }),
    Stage("hard", HARD, {
        "lookup": 3, "copy": 8, "question": 38, "tool": 14, "no-tool": 2, "json": 12, "count": 6, "talk": 8, "story": 7,
        "text": 2,
    }, tales=24),
    Stage("long", HARD, {
        "lookup": 3, "copy": 8, "question": 42, "tool": 16, "no-tool": 3, "json": 10, "count": 8, "talk": 5, "story": 5,
    }, conversations=0.12),
    Stage("wide", WIDE, {
        "lookup": 2, "copy": 12, "question": 38, "tool": 15, "no-tool": 4, "json": 8, "count": 10, "talk": 4,
        "story": 4, "unknown": 3,
    }, tales=20, conversations=0.1),
    Stage("both", WIDE, {
        "lookup": 2, "copy": 10, "question": 43, "tool": 18, "no-tool": 4, "json": 7, "count": 8, "talk": 3,
        "story": 3, "unknown": 2,
    }, tales=25, conversations=0.06, before=0.35),
    Stage("brief", BRIEF, {
        "lookup": 2, "copy": 8, "question": 56, "tool": 12, "no-tool": 4, "json": 5, "count": 6, "talk": 3,
        "story": 2, "unknown": 2,
    }, tales=25, conversations=0.05, before=0.25),
)  # fmt: skip
TURNS = (4, 9)
SAID = {"copy": 15, "count": 8, "talk": 35, "story": 42}  # in a conversation, beside the example with a text
TEXTS = {"question": 60, "json": 25, "lookup": 15}


def examples(stage: Stage, seed: int, count: int) -> Iterator[Example]:
    """Examples to train on, in the order in which they are to be read."""
    kinds, weights = list(stage.mix), list(stage.mix.values())
    for number in range(count):
        draw = Draw(f"{seed}/{stage.name}/{number}", TRAIN, stage.level.words)
        level = HARD if stage.before and draw.chance(stage.before) else stage.level
        if stage.conversations and draw.chance(stage.conversations):
            chosen = draw.rng.choices(list(SAID), list(SAID.values()), k=draw.number(*TURNS))
            chosen[draw.number(0, len(chosen) - 1)] = draw.rng.choices(list(TEXTS), list(TEXTS.values()))[0]
            yield conversation([KINDS[kind](draw, level) for kind in chosen])
        else:
            yield KINDS[draw.rng.choices(kinds, weights)[0]](draw, level)


def conversation(parts: list[Example]) -> Example:
    """One after the other; system messages, of which a conversation has one at most, at the beginning."""
    messages = [message for part in parts for message in part.messages]
    return Example("conversation", sorted(messages, key=lambda message: message["role"] != "system"))


def judged(level: Level) -> dict[str, Maker]:
    """The kinds that can be judged at a level."""
    about_texts: dict[str, Maker] = {"question": questions.make, "not-in-text": questions.make}
    if level.untold:
        return about_texts
    return {
        kind: make for kind, make in KINDS.items() if kind != "text" and (level.wide or kind != "unknown")
    } | about_texts


def held_out(seed: int, each: int, level: Level = HARD) -> Iterator[Example]:
    """Tasks to judge by: `each` of every kind that can be judged, of other seeds and other combinations of words."""
    for kind, make in judged(level).items():
        seeds = f"{seed}/{'not' if kind == 'not-in-text' else kind}"
        found = 0
        for number in range(each * 20):
            example = make(Draw(f"{seeds}/{number}", HELD_OUT, level.words), level)
            if example.kind == kind and found < each:
                found += 1
                yield example
