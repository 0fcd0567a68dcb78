"""Questions that no text of the small world answers: by the kind of value of a fact, and of people."""

from __future__ import annotations


def _forms(text: str) -> tuple[str, ...]:
    return tuple(text.split(" | "))


_THING = (
    "How much did the {v} cost? | Where did {p} buy the {v}? | How big is the {v}? | Who made the {v}? | "
    "How old is the {v}? | Who broke the {v}? | Who stole the {v}? | How heavy is the {v}? | Who sold the {v}? | "
    "What is the {v} made of?"
)
_FOOD = (
    "Who cooked the {v}? | Who paid for the {v}? | Where did {p} buy {v}? | How much {v} did {p} buy? | "
    "Who sells {v}? | How much does the {v} cost?"
)

# {p}, {v} and {a} as in `Relation`.
UNTOLD: dict[str, tuple[str, ...]] = {
    "object": _forms(_THING),
    "food": _forms(_FOOD),
    "animal": _forms(
        "What is the name of the {v}? | How old is the {v}? | What did the {v} eat? | Where did the {v} sleep? | "
        "What is the {v} called? | How big is the {v}? | Why did the {v} run away?"
    ),
    "place": _forms(
        "Why is {p} there? | How big is the {v}? | How far is the {v}? | Who built the {v}? | How old is the {v}? | "
        "How long was {p} in the {v}? | Who cleaned the {v}?"
    ),
    "city": _forms(
        "In which street does {p} live? | Why does {p} live in {v}? | With whom does {p} live? | How big is {v}? | "
        "How long has {p} lived in {v}?"
    ),
    "game": _forms(
        "With whom does {p} play? | With whom does {p} play {v}? | Where does {p} play {v}? | "
        "When does {p} play {v}? | Who won the game? | How long does {p} play {v}?"
    ),
    "language": _forms(
        "When did {p} learn {v}? | Why does {p} speak {v}? | With whom does {p} speak {v}? | Who taught {p} {v}?"
    ),
    "day": _forms(
        "At what time does {p} come? | Why does {p} come on {v}? | With whom does {p} come? | When does {p} leave?"
    ),
    "job": _forms(
        "Where does {p} work? | With whom does {p} work? | Since when is {p} {a}? | Why is {p} {a}? | "
        "Does {p} like the work? | How much money does {p} make?"
    ),
    "feeling": _forms("Why was {p} {v}? | Why is {p} {v}? | How long was {p} {v}? | What made {p} {v}?"),
    "person": _forms("Why is that so? | Since when is it so? | Who told {v}? | What did {v} say? | How tall is {v}?"),
    "spot": _forms(
        "Why is {p} there? | Who put {p} there? | How old is {p}? | How big is the {v}? | Whose is the {v}?"
    ),
    "age": _forms("Why is that so? | Who asked for it? | Who told you so?"),
    "colour": _forms("Who painted {p}? | How big is {p}? | How old is {p}? | Who made {p}? | What is {p} made of?"),
}
UNTOLD_OF_PEOPLE = _forms(
    "Who is the mother of {p}? | Who is the father of {p}? | Who is {p}'s sister? | Who is {p}'s brother? | "
    "What is the name of {p}'s wife? | What is the name of the teacher of {p}? | Who is the neighbour of {p}? | "
    "What is the last name of {p}? | How tall is {p}? | How many children does {p} have? | When was {p} born? | "
    "What colour are the eyes of {p}? | What colour is {p}'s hair? | What did {p} say? | What did {p} draw? | "
    "What did {p} build? | What did {p} break? | What did {p} write? | What did {p} sing? | What did {p} read? | "
    "What did {p} cook? | What did {p} sell? | What did {p} forget? | What did {p} steal? | What did {p} drop? | "
    "Who helped {p}? | Who called {p}? | Who visited {p}? | Whom did {p} help? | Whom did {p} call? | "
    "When did {p} wake up? | When did {p} go to bed? | What is the favourite colour of {p}? | Who waits for {p}? | "
    "What did {p} dream of? | What is {p} afraid of? | How did {p} get home? | Who is angry with {p}? | "
    "What did {p} learn? | What does {p} know? | Why did {p} laugh? | Why did {p} cry?"
)
