"""Repeating, looking up, counting: what everything else is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from curriculum.example import NOT_SAID, Example, assistant, user
from curriculum.words import BY_KIND, DAYS, MONTHS, MORE, NUMBERS, PEOPLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from curriculum.draw import Draw
    from curriculum.example import Message
    from curriculum.world import Level

EVERYTHING = tuple(sorted({word for words in BY_KIND.values() for word in words} | set(MORE)))
Turn = tuple[str, str]  # what is asked, what is answered


def words(draw: Draw, low: int, high: int) -> list[str]:
    """Different words; of one kind or of any. For held-out tasks the first two were never neighbours in training."""
    pool = BY_KIND[draw.one(tuple(BY_KIND))] if draw.chance(0.5) else EVERYTHING
    found = draw.some(pool, draw.number(low, high))
    if len(found) > 1:
        found[1] = draw.partner(pool, found[0], (found[0], *found[2:]))
    return found


def _repeat(draw: Draw, level: Level) -> Turn:
    text = " ".join(words(draw, 2, 4 + 2 * level.phrasings))
    return draw.one(("Repeat: {}", "Say: {}", "Repeat this: {}", "Copy this: {}", "Say this again: {}")).format(
        text
    ), text


def _list(draw: Draw, level: Level) -> Turn:
    found = words(draw, 2, 3 + level.phrasings)
    form = draw.one(("Write as a JSON list: {}", "Make a JSON list: {}", "As a JSON list: {}"))
    return form.format(", ".join(found)), json.dumps(found)


def _twice(draw: Draw, level: Level) -> Turn:
    word = draw.one(EVERYTHING)
    count = draw.number(2, 4)
    times = {2: "twice", 3: "three times", 4: "four times"}[count]
    return draw.one(("Say {} {}.", "Write {} {}.")).format(word, times), " ".join([word] * count)


def _end(draw: Draw, level: Level) -> Turn:
    found = words(draw, 2, 3 + level.phrasings)
    which = draw.number(0, 1)
    asked = draw.one(("What is the {} word: {}", "The {} word of this list: {}", "Which word comes {}: {}"))
    return asked.format(("first", "last")[which], ", ".join(found)), found[-which]


def _after(draw: Draw, level: Level) -> Turn:
    found = words(draw, 3, 4 + level.phrasings)
    at = draw.number(0, len(found) - 2)
    return f"What comes after {found[at]}: {', '.join(found)}", found[at + 1]


def _backwards(draw: Draw, level: Level) -> Turn:
    found = words(draw, 2, 2 + level.phrasings)
    return f"Say this backwards: {', '.join(found)}", ", ".join(reversed(found))


def _count_to(draw: Draw, level: Level) -> Turn:
    low = draw.number(0, 12)
    high = low + draw.number(2, 8)
    if draw.chance(0.3) and high < len(NUMBERS):
        return f"Count from {NUMBERS[low]} to {NUMBERS[high]}.", ", ".join(NUMBERS[low : high + 1])
    row = [str(number) for number in range(low, high + 1)]
    if draw.chance(0.25):
        return f"Count down from {high} to {low}.", ", ".join(reversed(row))
    return draw.one(("Count from {} to {}.", "Count from {} to {}", "Count {} to {}.")).format(low, high), ", ".join(
        row
    )


def _how_many(draw: Draw, level: Level) -> Turn:
    found = words(draw, 1, 4 + level.phrasings)
    form = draw.one(("How many words are there: {}", "Count the words: {}", "How many words are in this list: {}"))
    return form.format(", ".join(found)), f"{len(found)}"


def _row(draw: Draw, level: Level) -> Turn:
    row = draw.one((DAYS, MONTHS, NUMBERS[1:]))
    at = draw.number(1, len(row) - 2)
    before = draw.chance(0.4)
    return f"What comes {'before' if before else 'after'} {row[at]}?", f"{row[at - 1 if before else at + 1]}"


def _add(draw: Draw, level: Level) -> Turn:
    a, b = draw.number(0, 10), draw.number(0, 10)
    if draw.chance(0.3):
        a, b = max(a, b), min(a, b)
        return draw.one(("What is {} - {}?", "{} minus {}?", "What is {} minus {}?")).format(a, b), f"{a - b}"
    return draw.one(("What is {} + {}?", "{} plus {}?", "What is {} plus {}?")).format(a, b), f"{a + b}"


COPIES: tuple[Callable[[Draw, Level], Turn], ...] = (_repeat, _repeat, _list, _list, _twice, _end, _after, _backwards)
COUNTS: tuple[Callable[[Draw, Level], Turn], ...] = (_count_to, _count_to, _how_many, _row, _add)


def _turns(draw: Draw, level: Level, kind: str, makers: tuple[Callable[[Draw, Level], Turn], ...]) -> Example:
    messages: list[Message] = []
    for _ in range(draw.number(1, 4)):
        asked, answer = draw.one(makers)(draw, level)
        messages += [user(asked), assistant(answer)]
    return Example(kind, messages)


def copy(draw: Draw, level: Level) -> Example:
    """Words to repeat, list, double, pick, turn round."""
    return _turns(draw, level, "copy", COPIES)


def count(draw: Draw, level: Level) -> Example:
    """Counting, rows that everybody knows, small sums."""
    return _turns(draw, level, "count", COUNTS)


def lookup(draw: Draw, level: Level) -> Example:
    """A table of names and words, and what stands beside some of the names; the plainest question of all."""
    kind = draw.one(("object", "place", "food", "animal", "city", "colour", "job"))
    names = draw.some(PEOPLE, draw.number(2, 3 + 2 * level.phrasings))
    values: dict[str, str] = {}
    for name in names:
        values[name] = draw.value(kind, name, tuple(values.values()))
    table = draw.one((", ", "; ", "\n")).join(f"{name}: {value}" for name, value in values.items())
    absent = draw.one([name for name in PEOPLE if name not in values])
    asked = draw.some(names, 5) + [absent] * draw.chance(level.absent * 2)
    draw.rng.shuffle(asked)
    answers = [f"{name}: {values[name]}" if name in values else NOT_SAID for name in asked]
    messages = [user(f"{table}\n{asked[0]}?"), assistant(answers[0])]
    for name, answer in zip(asked[1:], answers[1:], strict=True):
        messages += [user(f"{name}?"), assistant(answer)]
    return Example("lookup", messages)
