"""Short stories about characters that are asked for, and stories as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curriculum.example import Example, assistant, user
from curriculum.words import ANIMALS, COLOURS, FILLERS, FOODS, OBJECTS, PLACES, article

if TYPE_CHECKING:
    from curriculum.draw import Draw
    from curriculum.world import Level

ASKS = (
    "Tell me a story about {x} and {y}.",
    "Tell a story about {x} and {y}.",
    "Tell me a short story about {x} and {y}.",
    "Write a story about {x} and {y}.",
    "A story about {x} and {y}, please.",
    "Tell me about {x} and {y}.",
)
ALONE = ("Tell me a story about {x}.", "Write a story about {x}.", "Tell me a short story about {x}.")
ANY = ("Tell me a story.", "Write a short story.", "A story, please.", "Tell me a short story.")

# A plot is steps with some ways to tell each. {x} and {y} are the characters, {X} and {Y} the same at a sentence's
# start; {he} is the pronoun of x; {o} a thing with its article, {t} the same thing with "the", {p} places, {f} a food.
PLOTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("Once upon a time {x} had {o}.", "One day {x} got {o}.", "{X} had {o}."),
        ("One day {he} lost it in the {p}.", "But {he} lost it near the {p}.", "Then {t} was gone."),
        ("{X} looked everywhere.", "{X} was very sad.", "{X} sat down and cried."),
        ("Then {y} came along.", "Soon {y} came by.", "There {he} met {y}."),
        ('"Why are you sad?" asked {y}.', '"What is wrong?" said {y}.'),
        ('"I lost {t}," said {x}.', '"I cannot find {t}," said {x}.'),
        ("They went to the {q} together.", "Together they looked in the {q}.", "So they went back to the {q}."),
        ("{Y} found {t} under a tree.", "There lay {t}.", "{Y} saw {t} behind a stone."),
        ("{X} was happy again.", "{X} thanked {y}.", '"Thank you!" said {x}.'),
        ("From that day they were friends.", "They were friends ever after.", "And they went home together."),
    ),
    (
        (
            "Once upon a time {x} lived near the {p}.",
            "{X} lived in a house by the {p}.",
            "Long ago {x} lived by the {p}.",
        ),
        ("One day {y} knocked at the door.", "One evening {y} came to the house."),
        ('"I am hungry," said {y}.', '"I am cold and hungry," said {y}.'),
        ("{X} had only some {f}.", "There was only some {f} in the house."),
        ("But {he} gave half of it to {y}.", "{X} shared it with {y}.", "They ate it together."),
        ("In the morning {y} was gone.", "The next day {y} said goodbye."),
        ("On the table lay {o}.", "But {y} had left {o}.", '"Take this," said {y}, and gave {x} {o}.'),
        ("{X} was never poor again.", "{X} was very glad.", "And {x} never forgot it."),
    ),
    (
        ("{X} and {y} were friends.", "Once there were two friends, {x} and {y}.", "{X} and {y} lived by the {p}."),
        ("One day they went to the {q}.", "One morning they walked to the {q}."),
        ("It began to rain.", "A big storm came.", "It grew dark."),
        ("{Y} was afraid.", '"I am afraid," said {y}.', "{Y} began to cry."),
        ('"Do not be afraid," said {x}.', '"Come with me," said {x}.', "{X} took {y} by the hand."),
        ("They ran to the {p}.", "They hid in the {p}.", "Soon they found the {p}."),
        ("There they ate {f} and waited.", "They sat there and ate {f}.", "Somebody gave them {f}."),
        ("Then the sun came out.", "At last it was light again.", "In the end the rain stopped."),
        ("They went home and were happy.", "They laughed all the way home.", "And they slept well that night."),
    ),
    (
        ("{X} wanted {o}.", "More than anything {x} wished for {o}.", "Once {x} saw {o} at the {p}."),
        ("But {he} had no money.", "But it cost too much.", "But {he} was poor."),
        (
            "So {x} went to {y} and asked for work.",
            '"I can help you," said {y}.',
            "{Y} said that {he} could work at the {q}.",
        ),
        ("{X} worked all day.", "For a week {x} worked hard.", "Every day {x} carried {f} to the {q}."),
        ("In the end {y} gave {x} a coin.", "{Y} was pleased and paid well.", "Then {y} gave {x} the money."),
        ("{X} bought {t}.", "Now {x} could buy {t}.", "{X} ran to the {p} and bought {t}."),
        ("{He} showed it to everybody.", "{He} was proud and happy.", "{X} and {y} were glad."),
    ),
)


def _character(draw: Draw, level: Level) -> tuple[str, str]:
    """What a character is called, and its pronoun."""
    if draw.chance(0.6):
        person = draw.people(1, level.invented)[0]
        return person.name, person.pronoun
    animal = draw.one(ANIMALS)
    return draw.one((f"the {animal}", article(animal))), "It"


def tell(draw: Draw, x: tuple[str, str], y: str) -> str:
    """A story with these two in it."""
    p, q = draw.some(PLACES, 2)
    thing = draw.one(OBJECTS)
    coloured = f"{draw.partner(COLOURS, thing)} {thing}" if draw.chance(0.5) else thing
    known = {"x": _the(x[0]), "y": _the(y)}
    known |= {key.upper(): text[0].upper() + text[1:] for key, text in known.items()}
    known |= {"he": x[1].lower(), "He": x[1], "p": p, "q": q, "f": draw.one(FOODS)}
    known |= {"o": article(coloured), "t": f"the {coloured}"}
    sentences = [draw.one(step).format(**known) for step in draw.one(PLOTS)]
    if draw.chance(0.3):
        sentences.insert(1, draw.one(FILLERS))
    return " ".join(sentences)


def _the(character: str) -> str:
    """A character that is known by now."""
    head, _, rest = character.partition(" ")
    return f"the {rest}" if head in ("a", "an") else character


def make(draw: Draw, level: Level) -> Example:
    """A story that is asked for; it is right if the characters are in it."""
    x, (y, _) = _character(draw, level), _character(draw, level)
    if x[0].split()[-1] == y.split()[-1]:
        y = "the king"
    story = tell(draw, x, y)
    share = draw.rng.random() * (0.9 if draw.held_out else 1.0)  # a story about nobody cannot be judged
    form, wanted = (ASKS, (x[0], y)) if share < 0.7 else (ALONE, (x[0],)) if share < 0.9 else (ANY, ())
    named = tuple(each.split()[-1] for each in wanted)
    return Example(
        "story", [user(draw.one(form).format(x=x[0], y=y)), assistant(story)], judge="contains", wanted=named
    )


def plain(draw: Draw, level: Level) -> Example:
    """A story as plain text."""
    return Example("text", text=tell(draw, _character(draw, level), _character(draw, level)[0]))
