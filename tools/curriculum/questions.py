"""Questions about a text that is given with them, and answers: full sentences that begin with whom they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from curriculum.example import NOT_SAID, Example, Message, assistant, system, user
from curriculum.untold import UNTOLD, UNTOLD_OF_PEOPLE
from curriculum.words import article
from curriculum.world import Fact, Level, Story, make_story, sentence

if TYPE_CHECKING:
    from curriculum.draw import Draw

LAYOUTS = (
    "{text} {question}", "{text}\n{question}", "{text}\n\n{question}", "Text: {text}\nQuestion: {question}",
    "Read this text: {text}\n{question}", "Answer from this text. {text}\n{question}", "{question}\n{text}",
)  # fmt: skip
COLOUR = ("What colour is the {v} of {p}?", "What colour is the {v}?", "What colour is {p}'s {v}?")
COLOUR_OF_THINGS = ("What colour is {p}?", "Which colour is {p}?", "What is the colour of {p}?")
WHO, WHO_WIDE = 0.2, 0.35  # share of questions for the person
ABOUT = ("{text}", "Answer questions about this text: {text}", "Text: {text}")


@dataclass(frozen=True)
class Question:
    """`wanted` are the words that a right answer has, `unwanted` those that a wrong one may have."""

    kind: str
    text: str
    answer: str
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...] = ()


def about(draw: Draw, story: Story, fact: Fact, level: Level) -> Question:
    """A question that the text answers: mostly for a value, else for the person, the colour, or yes and no."""
    relation = fact.relation
    if relation.colour and draw.chance(0.3):
        if relation.things:
            asked = fact.fill(draw.one(COLOUR_OF_THINGS))
            return Question("colour", asked, fact.fill("{p} is {c}."), (fact.colour,))
        asked = fact.fill(draw.one(COLOUR))
        return Question("colour", asked, fact.fill("The {v} is {c}."), (fact.colour,))
    if draw.chance(WHO_WIDE if level.wide else WHO):
        others = tuple(person.name for person in story.people if person != fact.person)
        return Question(
            "who", fact.fill(draw.one(relation.who)), fact.fill(relation.answer), (fact.person.name,), others
        )
    if draw.chance(0.15):
        return _yes_or_no(draw, fact)
    others = tuple(f.value for f in story.facts if f.value != fact.value and f.relation == relation)
    return Question("value", fact.fill(draw.one(relation.asks)), fact.fill(relation.answer), (fact.value,), others)


def _yes_or_no(draw: Draw, fact: Fact) -> Question:
    if draw.chance(0.5):
        return Question(
            "yes", fact.fill(fact.relation.yes), fact.fill("Yes, " + fact.relation.answer), ("yes", fact.value)
        )
    other = Fact(fact.person, fact.relation, draw.value(fact.relation.kind, fact.person.name, [fact.value]), "")
    return Question("no", other.fill(fact.relation.yes), fact.fill("No, " + fact.relation.answer), ("no", fact.value))


def not_said(draw: Draw, story: Story, level: Level) -> Question:
    """A question that the text does not answer: of somebody else, of something not told, or for nobody."""
    if level.untold and draw.chance(level.untold):
        fact = draw.one(story.facts)
        forms = UNTOLD[fact.relation.kind] + (() if fact.relation.things else UNTOLD_OF_PEOPLE)
        told = {each.fill(ask) for each in story.facts for ask in (*each.relation.asks, *each.relation.who)}
        return _unknown(draw.one([asked for form in forms if (asked := fact.fill(form)) not in told]))
    words = {fact.value for fact in story.facts} | {person.name.removeprefix("the ") for person in story.people}
    relation = draw.one(level.relations)
    if level.wide and draw.chance(0.5):
        relation = draw.one(story.facts).relation  # told of somebody: what is asked for must be looked at
    if draw.chance(0.3):
        value = draw.one([each for each in draw.words[relation.kind] if each not in words])
        return _unknown(sentence(draw.one(relation.who), v=value, a=article(value)))
    if draw.chance(0.5):
        person = draw.one(story.people)
        told = {fact.relation.topic for fact in story.facts if fact.person == person}
        untold = [each for each in level.relations if each.things == person.thing and each.topic not in told]
        others = [each for each in untold if any(fact.relation == each for fact in story.facts)]
        if untold:  # best of all something that is told of somebody else
            return _unknown(sentence(draw.one(draw.one(others or untold).asks), p=person.name))
    if relation.things:
        name = "the " + draw.one([each for each in draw.words["object"] if each not in words])
    else:
        kind = draw.one(("person", "person", "animal", "role")) if level.anybody else "person"
        name = draw.one([each for each in draw.words[kind] if each not in words])
        name = name if kind == "person" else f"the {name}"
    return _unknown(sentence(draw.one(relation.asks), p=name))


def _unknown(asked: str) -> Question:
    return Question("not-in-text", asked, NOT_SAID, ("not say",))


def ask(draw: Draw, story: Story, level: Level) -> list[Question]:
    """Several questions about one story, none twice."""
    asked: dict[str, Question] = {}
    facts = list(story.facts)
    draw.rng.shuffle(facts)
    for number in range(draw.number(*level.questions)):
        fact = facts[number % len(facts)]
        question = not_said(draw, story, level) if draw.chance(level.absent) else about(draw, story, fact, level)
        asked.setdefault(question.text, question)
    return list(asked.values())


def conversation(draw: Draw, text: str, questions: list[Question], level: Level) -> list[Message]:
    """The text with the first question, then the others, each with its answer."""
    layouts = LAYOUTS if level.phrasings > 2 else LAYOUTS[:2]
    if level.phrasings > 2 and draw.chance(0.15):
        messages = [system(draw.one(ABOUT).format(text=text)), user(questions[0].text)]
    else:
        messages = [user(draw.one(layouts).format(text=text, question=questions[0].text))]
    messages.append(assistant(questions[0].answer))
    for question in questions[1:]:
        messages += [user(question.text), assistant(question.answer)]
    return messages


def make(draw: Draw, level: Level) -> Example:
    """A story and questions about it; the last one is the one that is judged."""
    story = make_story(draw, level)
    questions = ask(draw, story, level)
    last = questions[-1]
    kind = "not-in-text" if last.kind == "not-in-text" else "question"
    unwanted = last.unwanted if kind == "not-in-text" else (*last.unwanted, "not say")
    return Example(
        kind, conversation(draw, story.text, questions, level), judge="contains", wanted=last.wanted, unwanted=unwanted
    )  # fmt: skip
