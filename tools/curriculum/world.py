"""Facts about people, and the sentences that tell them and ask for them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from curriculum.words import BY_KIND, FILLERS, article

if TYPE_CHECKING:
    from collections.abc import Mapping

    from curriculum.draw import Draw, Person


@dataclass(frozen=True)
class Relation:
    """One kind of fact. In its sentences {p} is the person, {v} the value, {a} the value with its article, {n} a thing
    without "the", {s} his, her or its.

    `says`: ways to tell it, the plainest first; `asks`: for the value; `who`: for the person; `yes`: whether it is so.
    `colour`: the value has a colour, {c}, that can be asked for. `things`: it is said of things, not of people.
    `like`: the relation whose questions this one answers too.
    """

    name: str
    kind: str
    says: tuple[str, ...]
    asks: tuple[str, ...]
    answer: str
    who: tuple[str, ...]
    yes: str
    colour: bool = False
    things: bool = False
    like: str = ""

    @property
    def topic(self) -> str:
        """What relations have in common of which one person has one only: a question could mean either."""
        return self.like or self.name

    def with_more(self, says: tuple[str, ...], asks: tuple[str, ...], who: tuple[str, ...]) -> Relation:
        """The same fact with more ways to tell it and to ask for it."""
        return replace(self, says=self.says + says, asks=self.asks + asks, who=self.who + who)


RELATIONS = (
    Relation(
        "went",
        "place",
        ("{p} went to the {v}.", "{p} walked to the {v}.", "{p} ran to the {v}.", "{p} came to the {v}."),
        ("Where did {p} go?", "What place did {p} go to?", "Where is {p}?"),
        "{p} went to the {v}.",
        ("Who went to the {v}?",),
        "Did {p} go to the {v}?",
    ),
    Relation(
        "has",
        "object",
        ("{p} has a {c} {v}.", "{p} owns a {c} {v}.", "{p} got a {c} {v}."),
        ("What does {p} have?", "What thing does {p} have?"),
        "{p} has a {c} {v}.",
        ("Who has the {v}?", "Who has a {v}?"),
        "Does {p} have a {v}?",
        colour=True,
    ),
    Relation(
        "lost",
        "object",
        ("{p} lost {a}.", "{p} lost {a} today."),
        ("What did {p} lose?", "What is it that {p} lost?"),
        "{p} lost {a}.",
        ("Who lost {a}?", "Who lost the {v}?"),
        "Did {p} lose {a}?",
    ),
    Relation(
        "likes",
        "food",
        ("{p} likes {v}.", "{p} is fond of {v}.", "{p} loves {v}."),
        ("What does {p} like?", "What does {p} like to eat?"),
        "{p} likes {v}.",
        ("Who likes {v}?",),
        "Does {p} like {v}?",
    ),
    Relation(
        "ate",
        "food",
        ("{p} ate {v}.", "{p} had {v} for lunch.", "{p} ate some {v}."),
        ("What did {p} eat?", "What did {p} have for lunch?"),
        "{p} ate {v}.",
        ("Who ate {v}?",),
        "Did {p} eat {v}?",
    ),
    Relation(
        "is",
        "job",
        ("{p} is {a}.", "{p} works as {a}."),
        ("What is the job of {p}?", "What is {p}'s job?", "What does {p} do for a living?", "What is {p}?"),
        "{p} is {a}.",
        ("Who is the {v}?", "Who is {a}?"),
        "Is {p} {a}?",
    ),
    Relation(
        "lives",
        "city",
        ("{p} lives in {v}.", "{p} has a home in {v}.", "The home of {p} is in {v}."),
        ("Where does {p} live?", "In which city does {p} live?"),
        "{p} lives in {v}.",
        ("Who lives in {v}?",),
        "Does {p} live in {v}?",
    ),
    Relation(
        "saw",
        "animal",
        ("{p} saw {a}.", "{p} met {a}.", "{p} looked at {a}."),
        ("What did {p} see?", "Which animal did {p} see?"),
        "{p} saw {a}.",
        ("Who saw {a}?", "Who saw the {v}?"),
        "Did {p} see {a}?",
    ),
    Relation(
        "feels",
        "feeling",
        ("{p} was {v}.", "{p} felt {v}."),
        ("How did {p} feel?", "How was {p}?"),
        "{p} was {v}.",
        ("Who was {v}?", "Who felt {v}?"),
        "Was {p} {v}?",
    ),
    Relation(
        "plays",
        "game",
        ("{p} plays {v}.", "{p} often plays {v}."),
        ("What does {p} play?", "Which game does {p} play?"),
        "{p} plays {v}.",
        ("Who plays {v}?",),
        "Does {p} play {v}?",
    ),
    Relation(
        "speaks",
        "language",
        ("{p} speaks {v}.", "{p} can speak {v}."),
        ("What language does {p} speak?", "What does {p} speak?"),
        "{p} speaks {v}.",
        ("Who speaks {v}?",),
        "Does {p} speak {v}?",
    ),
    Relation(
        "comes",
        "day",
        ("{p} comes on {v}.", "{p} will come on {v}."),
        ("When does {p} come?", "On which day does {p} come?"),
        "{p} comes on {v}.",
        ("Who comes on {v}?",),
        "Does {p} come on {v}?",
    ),
    Relation(
        "lies",
        "place",
        ("{p} is in the {v}.", "{p} lies in the {v}.", "{p} can be found in the {v}."),
        ("Where is {p}?", "Where can I find {p}?"),
        "{p} is in the {v}.",
        ("What is in the {v}?", "What lies in the {v}?"),
        "Is {p} in the {v}?",
        things=True,
    ),
    Relation(
        "belongs",
        "person",
        ("{p} belongs to {v}.", "{v} is the owner of {p}."),
        ("Who owns {p}?", "Whose is {p}?", "To whom does {p} belong?"),
        "{p} belongs to {v}.",
        ("What belongs to {v}?",),
        "Does {p} belong to {v}?",
        things=True,
    ),
    Relation(
        "looks",
        "colour",
        ("{p} is {v}.", "The colour of {p} is {v}."),
        ("What colour is {p}?", "What is the colour of {p}?"),
        "{p} is {v}.",
        ("What is {v}?",),
        "Is {p} {v}?",
        things=True,
    ),
)


OWN = {"He": "his", "She": "her", "It": "its"}


@dataclass(frozen=True)
class Fact:
    """What is so of one person."""

    person: Person
    relation: Relation
    value: str
    colour: str

    def fill(self, form: str) -> str:
        """A sentence about it."""
        name, own = self.person.name, OWN[self.person.pronoun]
        words = {"p": name, "v": self.value, "a": article(self.value), "c": self.colour}
        return sentence(form, **words, n=name.removeprefix("the "), s=own)


def sentence(form: str, **words: str) -> str:
    """A form filled in, with a capital at its start."""
    text = form.format(**words)
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Level:
    """How hard stories are. Pairs are least and most; shares are of 1."""

    people: tuple[int, int] = (2, 4)
    facts: tuple[int, int] = (1, 3)  # of each person
    questions: tuple[int, int] = (3, 6)
    phrasings: int = 4  # ways in which a fact is told
    absent: float = 0.3  # questions that the text does not answer
    fillers: float = 0.3  # sentences that say nothing about anybody
    pronouns: float = 0.3  # he and she for whom the sentence before was about
    invented: float = 0.15  # names that are in no list
    others: float = 0.25  # animals and things in place of people
    mixed: float = 0.3  # stories whose facts are not told person by person
    relations: tuple[Relation, ...] = RELATIONS
    words: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: BY_KIND)
    wide: bool = False  # many ways to ask, as in `curriculum.wide`
    alike: float = 0.0  # stories that tell the same of everybody
    joined: float = 0.0  # sentences joined to the next by "and"
    untold: float = 0.0  # questions without an answer that are of a kind that no text answers
    anybody: bool = False  # such questions may be of an animal or of somebody called by what they do
    shared: float = 0.0  # sentences about the same person as the one before, which go on with "and" and no subject
    titled: float = 0.0  # people who are said to be somebody's friend or sister where they are first named


EASY = Level(
    people=(1, 2),
    facts=(1, 2),
    phrasings=1,
    absent=0.35,
    fillers=0.0,
    pronouns=0.0,
    invented=0.0,
    others=0.0,
    mixed=0.0,
)
MIDDLE = Level(people=(1, 3), facts=(1, 3), phrasings=2, fillers=0.1, pronouns=0.1, invented=0.05, others=0.15)
HARD = Level()


@dataclass(frozen=True)
class Story:
    """A text and all that is so in it."""

    text: str
    facts: tuple[Fact, ...]
    people: tuple[Person, ...]


def make_story(draw: Draw, level: Level) -> Story:
    """People, what is so of them, and a text that tells it. No value is that of two people."""
    people = draw.people(draw.number(*level.people), level.invented, level.others)
    facts: list[Fact] = []
    alike = draw.some([each for each in level.relations if not each.things], 1) if _chance(draw, level.alike) else []
    for person in people:
        possible = [
            each for each in level.relations if each.things == person.thing and _free(draw, each, people, person, facts)
        ]
        shared = [each for each in alike if each in possible]
        chosen = shared or draw.some(possible, draw.number(*level.facts))
        for relation in {each.topic: each for each in chosen}.values():
            free = _free(draw, relation, people, person, facts)
            value = draw.one(free) if free else ""
            colour = draw.value("colour", value) if relation.colour else ""
            facts += [Fact(person, relation, value, colour)] if value else []
    if draw.chance(level.mixed):
        draw.rng.shuffle(facts)
    return Story(tell(draw, facts, level), tuple(facts), tuple(people))


def _free(draw: Draw, relation: Relation, people: list[Person], person: Person, facts: list[Fact]) -> list[str]:
    """The values that somebody can have, beside what is so already."""
    taken = {fact.value for fact in facts} | {each.name.removeprefix("the ") for each in people}
    return [value for value in draw.partners(draw.words[relation.kind], person.name) if value not in taken]


def tell(draw: Draw, facts: list[Fact], level: Level) -> str:
    """The facts as a text."""
    sentences: list[str] = []
    before: Person | None = None
    for fact in facts:
        if draw.chance(level.fillers):
            sentences.append(draw.one(FILLERS))
            before = None
        form = draw.one(fact.relation.says[: level.phrasings])
        goes_on = fact.person == before and form.startswith("{p} ") and " and " not in form
        if goes_on and _chance(draw, level.shared):
            sentences[-1] = f"{sentences[-1].rstrip('.')} and {fact.fill(form).removeprefix(fact.fill('{p} '))}"
            continue
        if fact.person.name[0].isupper() and form.startswith("{p}") and before is None and _chance(draw, level.titled):
            form = draw.one(TITLES[fact.person.pronoun]) + form
        again = form.startswith("{p}") and fact.person == before and draw.chance(level.pronouns)
        sentences.append(fact.fill(form.replace("{p}", fact.person.pronoun, 1) if again else form))
        before = fact.person
    return " ".join(_joined(draw, sentences, level.joined))


TITLES = {
    "He": ("My friend ", "My brother ", "Our neighbour ", "Little ", "Old ", "Her brother ", "A man called ", "Mr ",
           "Uncle "),
    "She": ("My friend ", "My sister ", "Our neighbour ", "Little ", "Old ", "His sister ", "His wife ", "Mrs ",
            "Aunt "),
}  # fmt: skip


def _chance(draw: Draw, share: float) -> bool:
    """Without a choice where there is nothing to choose: what is drawn after it stays the same."""
    return share > 0 and draw.chance(share)


def _joined(draw: Draw, sentences: list[str], share: float) -> list[str]:
    """Some sentences and the next one made one by "and"."""
    made: list[str] = []
    for text in sentences:
        if made and " and " not in made[-1] and _chance(draw, share):
            low = text[0].lower() + text[1:] if text.startswith(("The ", "He ", "She ", "It ")) else text
            made[-1] = f"{made[-1].rstrip('.')} and {low}"
        else:
            made.append(text)
    return made
