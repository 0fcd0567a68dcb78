"""Seeded choices, and which combinations of words are kept for the held-out tasks."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from curriculum.words import BY_KIND, ENDS, FATHERS, MEN, MOTHERS, SYLLABLES, WOMEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")
TRAIN, HELD_OUT = "train", "held-out"
SHARE_HELD_OUT = 8  # one combination in so many is never trained on


def reserved(*parts: str) -> bool:
    """Whether a combination of words is one of the held-out ones."""
    return zlib.crc32("|".join(parts).encode()) % SHARE_HELD_OUT == 0


@dataclass(frozen=True)
class Person:
    """Whom or what a sentence is about: a name, or such as "the fox", and the pronoun. `thing`: nobody, but a thing."""

    name: str
    pronoun: str
    thing: bool = False


class Draw:
    """Choices for one example: the same seed makes the same example, whatever else is made before it.

    `words`: those that there are, by kind.
    """

    def __init__(self, seed: str, split: str = TRAIN, words: Mapping[str, tuple[str, ...]] = BY_KIND) -> None:
        self.words = words
        self.rng = random.Random(f"{split}/{seed}")
        self.held_out = split == HELD_OUT

    def chance(self, share: float) -> bool:
        """True in this share of all cases."""
        return self.rng.random() < share

    def one(self, things: Sequence[T]) -> T:
        """One of them."""
        return things[self.rng.randrange(len(things))]

    def some(self, things: Sequence[T], count: int) -> list[T]:
        """Different ones, at most as many as there are."""
        return self.rng.sample(list(things), min(count, len(things)))

    def number(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return self.rng.randint(low, high)

    def allowed(self, *parts: str) -> bool:
        """Whether this split may use a combination."""
        return reserved(*parts) == self.held_out

    def partner(self, things: Sequence[str], beside: str, taken: Sequence[str] = ()) -> str:
        """One of the things that this split may use beside another word, else any; none that is taken."""
        free = [thing for thing in things if thing not in taken]
        return self.one(self.partners(free, beside) or free)

    def partners(self, things: Sequence[str], beside: str) -> list[str]:
        """The things that this split may use beside another word."""
        return [thing for thing in things if self.allowed(beside, thing)]

    def value(self, kind: str, beside: str, taken: Sequence[str] = ()) -> str:
        """A word of a kind for `beside`."""
        return self.partner(self.words[kind], beside, taken)

    def people(self, count: int, invented: float = 0.0, others: float = 0.0) -> list[Person]:
        """Different people; a share of them has names that are in no list, a share are animals or things."""
        names, animals, things = (self.some(self.words[kind], count) for kind in ("person", "animal", "object"))
        found = []
        for name, animal, thing in zip(names, animals, things, strict=True):
            if self.chance(others):
                if "role" in self.words and self.chance(0.3):
                    found.append(Person(f"the {self.one(self.words['role'])}", self.one(("He", "She"))))
                    continue
                found.append(Person(f"the {animal}", "It") if self.chance(0.5) else Person(f"the {thing}", "It", True))
            else:
                found.append(self._person(self.invented_name() if self.chance(invented) else name))
        return found

    def _person(self, name: str) -> Person:
        man = name in MEN + FATHERS or (name not in WOMEN + MOTHERS and self.chance(0.5))
        return Person(name, "He" if man else "She")

    def invented_name(self) -> str:
        """A name of two or three syllables."""
        name = "".join(self.rng.choices(SYLLABLES, k=self.number(2, 3)))
        return (name + (self.one(ENDS) if self.chance(0.4) else "")).capitalize()
