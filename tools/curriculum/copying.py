"""Repeating, looking up, counting: what everything else is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from curriculum.example import NOT_SAID, Example, assistant, user
from curriculum.words import BY_KIND, DAYS, FILLERS, MONTHS, MORE, NUMBERS, PEOPLE
from curriculum.world import make_story

if TYPE_CHECKING:
    from collections.abc import Callable

    from curriculum.draw import Draw
    from curriculum.example import Message
    from curriculum.world import Level

EVERYTHING = tuple(sorted({word for words in BY_KIND.values() for word in words} | set(MORE)))
Turn = tuple[str, str]  # what is asked, what is answered


def words(draw: Draw, low: int, high: int) -> list[str]:
    """Different words; of one kind or of any. For held-out tasks the first two were never neighbours in training."""
    pool = draw.words[draw.one(tuple(BY_KIND))] if draw.chance(0.5) else EVERYTHING
    found = draw.some(pool, draw.number(low, high))
    if len(found) > 1:
        found[1] = draw.partner(pool, found[0], (found[0], *found[2:]))
    return found


def _repeat(draw: Draw, level: Level) -> Turn:
    text = " ".join(words(draw, 2, 4 + 2 * level.phrasings))
    return draw.one(("Repeat: {}", "Say: {}", "Repeat this: {}", "Copy this: {}", "Say this again: {}")).format(
        text
    ), text


WIDE_REPEAT = (
    "Say this: {}", "Say: {}", "Say {}", "Say exactly: {}", "Say exactly this: {}", "Say this again: {}",
    "Say after me: {}",
    "Repeat: {}", "Repeat this: {}", "Repeat after me: {}", "Repeat these words: {}", "Repeat the words: {}",
    "Repeat exactly: {}", "Copy: {}", "Copy this: {}", "Copy this text: {}", "Copy this list: {}", "Copy the list: {}",
    "Copy these words: {}", "Write: {}", "Write this: {}", "Write this again: {}", "Write the same: {}", "Echo: {}",
    "Please repeat: {}", "Please copy this: {}", "Please say this: {}", "Can you repeat this: {}",
    "Repeat this text:\n{}",
    "Copy this:\n{}", "Answer with these words: {}", "Answer with exactly this: {}",
)  # fmt: skip


def _anything(draw: Draw, level: Level) -> str:
    """Something to repeat: words, names, numbers, words that are none, or sentences of a story."""
    what = draw.number(0, 9)
    if what < 3:
        return draw.one((" ", ", ")).join(words(draw, 1, 7))
    if what < 5:
        adjective = draw.value("colour", "copied")
        return f"{draw.one(('the', 'a', 'my'))} {adjective} {draw.one(draw.words['object'])}"
    if what < 6:
        return draw.one((" ", ", ")).join(str(draw.number(0, 99)) for _ in range(draw.number(2, 6)))
    if what < 7:
        return draw.one((" ", ", ")).join(draw.invented_name().lower() for _ in range(draw.number(1, 4)))
    if what < 8:
        return draw.one((" ", ", ")).join(draw.one(NUMBERS[:13]) for _ in range(draw.number(2, 5)))
    text = draw.one((draw.one(FILLERS), make_story(draw, level).text))
    return text if draw.chance(0.5) else text[0].lower() + text[1:].rstrip(".")


def _repeat_wide(draw: Draw, level: Level) -> Turn:
    text = _anything(draw, level)
    return draw.one(WIDE_REPEAT).format(text), text


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


WIDE_COUNT = (
    "Count from {} to {}.", "Count from {} to {}", "Count {} to {}.", "Please count from {} to {}.",
    "Count from {} to {}, please.", "Can you count from {} to {}?", "Count up from {} to {}.",
    "Count on from {} to {}.",
    "List the numbers from {} to {}.", "Write the numbers from {} to {}.", "Say the numbers from {} to {}.",
    "What are the numbers from {} to {}?", "Numbers from {} to {}, please.", "I want you to count from {} to {}.",
)  # fmt: skip
WIDE_COUNT_TO = (
    "Count to {}.", "Count to {}", "Please count to {}.", "Count up to {}.", "Can you count to {}?",
    "Count to {}, please.",
    "Count from one to {}.",
)  # fmt: skip
WIDE_DOWN = (
    "Count down from {} to {}.", "Count from {} down to {}.", "Count backwards from {} to {}.",
    "Count back from {} to {}.",
    "Please count down from {} to {}.", "Count from {} to {}.",
)  # fmt: skip


def _count_wide(draw: Draw, level: Level) -> Turn:
    way = draw.number(0, 5)
    if way == 0:
        high = draw.number(3, 15)
        return draw.one(WIDE_COUNT_TO).format(high), ", ".join(str(number) for number in range(1, high + 1))
    low = draw.number(0, 99)
    row = [str(number) for number in range(low, low + draw.number(2, 9) + 1)]
    if way == 1:
        row.reverse()
    return draw.one(WIDE_DOWN if way == 1 else WIDE_COUNT).format(row[0], row[-1]), ", ".join(row)


def _how_many_wide(draw: Draw, level: Level) -> Turn:
    found = words(draw, 1, 8)
    form = draw.one((
        "How many words are there: {}", "Count the words: {}", "How many words are in this list: {}",
        "How many words are these? {}", "How many things are in this list: {}", "How many words do you see? {}",
        "How long is this list: {}", "How many are these: {}",
    ))  # fmt: skip
    return form.format(", ".join(found)), f"{len(found)}"


def _times(draw: Draw, level: Level) -> Turn:
    """How often one of few words is in a list."""
    few = words(draw, 2, 3)
    row = [draw.one(few) for _ in range(draw.number(2, 6))]
    form = draw.one(("How many times is {} in this list: {}", "How often is {} in this list: {}", "Count {} in: {}"))
    return form.format(few[0], ", ".join(row)), f"{row.count(few[0])}"


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


WIDE_COPIES = (_repeat_wide, _repeat_wide, _repeat_wide, *COPIES[2:])
WIDE_COUNTS = (_count_wide, _count_wide, _count_wide, _how_many_wide, _times, _row, _add)


def _turns(draw: Draw, level: Level, kind: str, makers: tuple[Callable[[Draw, Level], Turn], ...]) -> Example:
    messages: list[Message] = []
    for _ in range(draw.number(1, 4)):
        asked, answer = draw.one(makers)(draw, level)
        messages += [user(asked), assistant(answer)]
    return Example(kind, messages)


def copy(draw: Draw, level: Level) -> Example:
    """Words to repeat, list, double, pick, turn round."""
    return _turns(draw, level, "copy", WIDE_COPIES if level.wide else COPIES)


def count(draw: Draw, level: Level) -> Example:
    """Counting, rows that everybody knows, small sums."""
    return _turns(draw, level, "count", WIDE_COUNTS if level.wide else COUNTS)


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
