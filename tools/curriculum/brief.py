"""The brief stage: short texts in more turns of speech, and more questions that they do not answer."""

from __future__ import annotations

from dataclasses import replace

from curriculum.wide import WIDE, WIDE_RELATIONS, WIDE_WORDS
from curriculum.words import FATHERS, MOTHERS, split_words
from curriculum.world import Relation

SPOTS = split_words(
    "bed chair table tree box shelf desk bench sofa roof bridge wall door window rug car stone hill cupboard stove",
    "basket bag drawer fence ladder piano fridge stairs lamp bush tent boat wagon pillow blanket bucket barrel",
)
AGES = split_words("two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty")
FOOD_TO_PUT = split_words("apple banana cake egg lemon melon orange pear pizza potato tomato pumpkin loaf")

# What somebody did with a thing or with food: the past and the plain form of the verb.
DEEDS = "broke break | sold sell | made make | painted paint | hid hide | stole steal | brought bring | drew draw"
MORE_DEEDS = "built build | opened open | washed wash | dropped drop | kept keep | borrowed borrow | cleaned clean"
MEALS = "bought buy | baked bake | cooked cook | tasted taste"
MORE_MEALS = "ordered order | shared share | burned burn | prepared prepare"


def _deed(pair: str, kind: str) -> Relation:
    past, plain = pair.split()
    told = f"{{p}} {past} {{a}}." if kind == "object" else f"{{p}} {past} {{v}}."
    says = (told, f"{{p}} {past} the {{v}}.", f"Yesterday {{p}} {past} the {{v}}.", f"{{p}} {past} {{s}} {{v}}.")
    who = (f"Who {past} the {{v}}?", told.replace("{p}", "Who").replace(".", "?"))
    asks = (f"What did {{p}} {plain}?", f"What was it that {{p}} {past}?")
    return Relation(f"{past} {kind}", kind, says, asks, told, who, f"Did {{p}} {plain} the {{v}}?")


def _spot(where: str, *, things: bool) -> Relation:
    verbs = ("is", "lies", "stands") if things else ("is", "sits", "sleeps", "waits")
    says = tuple(f"{{p}} {verb} {where} the {{v}}." for verb in verbs)
    asks = ("Where is {p}?", "Where can I find {p}?")
    who = (f"{'What' if things else 'Who'} is {where} the {{v}}?",)
    yes, like = f"Is {{p}} {where} the {{v}}?", "lies" if things else "went"
    return Relation(where, "spot", says, asks, f"{{p}} is {where} the {{v}}.", who, yes, things=things, like=like)


def _there_is(where: str) -> Relation:
    says = (f"There is a {{c}} {{n}} {where} the {{v}}.", f"A {{c}} {{n}} is {where} the {{v}}.")
    return Relation(
        f"there is {where}", "spot", says, ("Where is {p}?",), f"{{p}} is {where} the {{v}}.",
        (f"What is {where} the {{v}}?",), f"Is {{p}} {where} the {{v}}?", things=True, colour=True, like="lies",
    )  # fmt: skip


WHERE = ("on", "under", "behind", "beside", "near", "in")
BRIEF_RELATIONS = (
    *WIDE_RELATIONS,
    *(_deed(pair, "object") for deeds in (DEEDS, MORE_DEEDS) for pair in deeds.split(" | ")),
    *(_deed(pair, "food") for meals in (MEALS, MORE_MEALS) for pair in meals.split(" | ")),
    *(_spot(where, things=things) for where in WHERE[:5] for things in (True, False)),
    *(_there_is(where) for where in ("on", "under", "in")),
    Relation(
        "pet", "animal",
        ("{p} has a small {v}.", "{p} has a little {v}.", "{p} has a big {v}.", "{p} has an old {v}.",
         "{p} got a {v}."),
        ("What animal does {p} have?", "What pet does {p} have?", "What does {p} have?"), "{p} has {a}.",
        ("Who has {a}?", "Who has the {v}?"), "Does {p} have {a}?", like="has",
    ),
    Relation(
        "owns", "object",
        ("{p} has {a}.", "{p} has a big {v}.", "{p} has an old {v}.", "{p} has a new {v}.", "{p} owns {a}."),
        ("What does {p} have?",), "{p} has {a}.", ("Who has {a}?", "Who has the {v}?"), "Does {p} have {a}?",
        like="has",
    ),
    Relation(
        "hungry", "feeling", ("{p} is {v}.", "{p} is very {v}.", "{p} looks {v}."),
        ("How is {p}?", "How does {p} feel?"), "{p} is {v}.", ("Who is {v}?",), "Is {p} {v}?", like="feels",
    ),
)  # fmt: skip

BRIEF_WORDS = WIDE_WORDS | {
    "object": WIDE_WORDS["object"] + FOOD_TO_PUT,
    "spot": SPOTS,
    "age": WIDE_WORDS["age"] + AGES,
    "person": WIDE_WORDS["person"] + FATHERS + MOTHERS,
    "feeling": WIDE_WORDS["feeling"] + ("hungry", "sick", "late", "busy"),
}

BRIEF = replace(
    WIDE, people=(1, 3), facts=(1, 2), questions=(1, 3), absent=0.45, fillers=0.08, alike=0.5, untold=0.25,
    anybody=True, shared=0.5, titled=0.12, relations=BRIEF_RELATIONS, words=BRIEF_WORDS,
)  # fmt: skip
