"""What the wide stage adds to the others: more words, more facts, more ways to ask and to say what is wanted.

The stages before it are made without these, so that their data, and the vocabulary made from it, stay what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curriculum.words import BY_KIND, split_words
from curriculum.world import RELATIONS, Level, Relation

if TYPE_CHECKING:
    from curriculum.draw import Draw

MORE_WORDS: dict[str, tuple[str, ...]] = {
    "person": split_words(
        "Alice Anton Boris Carla Chris Cora Dora Edgar Elena Elsa Erik Felix Frank Freya George Greta Hilda Igor Ines",
        "Jonas Josef Judy Laura Lars Linda Marco Maria Mark Martha Martin Nadia Nils Nelly Oliver Pablo Peter Petra",
        "Philip Rachel Robert Roger Sandra Simon Sven Tessa Theo Thomas Ulla Victor Wanda Walter Yara Yuri",
    ),
    "object": split_words(
        "umbrella bicycle camera necklace sandwich suitcase lantern cushion teapot notebook wallet helmet bracelet",
        "trumpet pot pan saw rug bench sofa shelf anchor statue letterbox guitar harp laptop cable calendar crown",
        "diamond envelope feather hook jigsaw magnet newspaper oven puppet puzzle raft robot saddle scissors",
        "skateboard sponge sweater tent thread toothbrush tractor truck wand whip yoyo",
    ),
    "animal": split_words(
        "badger beaver camel chicken cricket dolphin elephant falcon ferret giraffe hedgehog hippo kitten lamb lobster",
        "moose otter panda peacock penguin pigeon puppy raven squirrel stork wasp worm zebra",
    ),
    "place": split_words(
        "bank balcony barracks cabin cafe canyon chapel classroom corridor dungeon factory fountain glade gym harbor",
        "hut jungle kiosk laundry lighthouse nursery orchard playground prison quarry restaurant shed stadium studio",
        "supermarket terrace tavern university vineyard warehouse workshop yard",
    ),
    "food": split_words(
        "almonds bacon biscuits broccoli cabbage cereal coconut coffee cookies cucumbers dates fish garlic ham juice",
        "ketchup lettuce meat muffins olives pancakes pie pineapple popcorn porridge raisins sausages spinach yogurt",
    ),
    "job": split_words(
        "architect astronaut clown coach cleaner detective editor engineer firefighter florist gardener inventor",
        "jeweller librarian manager mayor mechanic monk musician plumber priest prince princess professor scientist",
        "secretary spy student surgeon tourist witch wizard",
    ),
    "city": split_words(
        "Amsterdam Bangkok Barcelona Beijing Bombay Boston Brussels Budapest Denver Dallas Dresden Edinburgh Florence",
        "Havana Istanbul Jakarta Kyoto Leeds Lyon Manila Miami Mumbai Munich Nairobi Nice Ottawa Porto Riga Seattle",
        "Sofia Stockholm Tallinn Turin Venice Zagreb",
    ),
    "game": split_words("basketball bowling checkers dominoes hide-and-seek poker soccer squash volleyball baseball"),
    "feeling": split_words("afraid brave curious excited lucky nervous proud shy surprised worried"),
    "colour": split_words("beige violet turquoise golden pale"),
    "age": tuple(str(number) for number in range(2, 100)),
}
WIDE_WORDS = {kind: BY_KIND.get(kind, ()) + MORE_WORDS.get(kind, ()) for kind in BY_KIND | MORE_WORDS}
WIDE_WORDS["role"] = WIDE_WORDS["job"]  # people who are called by what they do


def _relation(name: str, kind: str, says: str, asks: str, answer: str, who: str, yes: str, **more: Any) -> Relation:
    told, asked, who_asked = (tuple(each.split(" | ")) for each in (says, asks, who))
    return Relation(name, kind, told, asked, answer, who_asked, yes, **more)


NEW = (
    _relation("stays", "place", "{p} is in the {v}. | {p} sits in the {v}. | {p} waits in the {v}.",
              "Where is {p}? | Where can I find {p}? | In which place is {p}?", "{p} is in the {v}.",
              "Who is in the {v}?", "Is {p} in the {v}?", like="went"),
    _relation("dwells", "place", "{p} lives in the {v}. | {p} lives near the {v}.", "Where does {p} live?",
              "{p} lives in the {v}.", "Who lives in the {v}?", "Does {p} live in the {v}?", like="lives"),
    _relation("bought", "object", "{p} bought {a}. | {p} bought a new {v}.", "What did {p} buy?", "{p} bought {a}.",
              "Who bought {a}? | Who bought the {v}?", "Did {p} buy {a}?", like="has"),
    _relation("found", "object", "{p} found {a}. | {p} found {a} in the grass.", "What did {p} find?",
              "{p} found {a}.", "Who found {a}? | Who found the {v}?", "Did {p} find {a}?", like="has"),
    _relation("wants", "object", "{p} wants {a}. | {p} would like to have {a}.", "What does {p} want?",
              "{p} wants {a}.", "Who wants {a}?", "Does {p} want {a}?", like="has"),
    _relation("carries", "object", "{p} carries a {c} {v}. | {p} wears a {c} {v}.", "What does {p} carry?",
              "{p} carries a {c} {v}.", "Who carries the {v}?", "Does {p} carry a {v}?", colour=True, like="has"),
    _relation("gave", "person", "{p} gave a present to {v}. | {p} gave {v} a present.",
              "To whom did {p} give a present? | Who got a present from {p}?", "{p} gave a present to {v}.",
              "Who gave a present to {v}? | Who gave {v} a present?", "Did {p} give a present to {v}?"),
    _relation("friend", "person", "{p} is a friend of {v}. | {p} and {v} are friends.", "Who is a friend of {p}?",
              "{p} is a friend of {v}.", "Who is a friend of {v}?", "Is {p} a friend of {v}?"),
    _relation("age", "age", "{p} is {v} years old. | {p} is {v}.", "How old is {p}? | What is the age of {p}?",
              "{p} is {v} years old.", "Who is {v} years old?", "Is {p} {v} years old?"),
    _relation("keeps", "animal", "{p} has {a}. | {p} keeps {a}. | {p} has a pet {v}.",
              "What animal does {p} have? | What pet does {p} have?", "{p} has {a}.", "Who has {a}? | Who keeps {a}?",
              "Does {p} have {a}?", like="has"),
    _relation("drinks", "food", "{p} drinks {v}.", "What does {p} drink?", "{p} drinks {v}.", "Who drinks {v}?",
              "Does {p} drink {v}?"),
    _relation("costs", "age", "{p} costs {v} coins.", "What does {p} cost? | How much is {p}?",
              "{p} costs {v} coins.", "What costs {v} coins?", "Does {p} cost {v} coins?", things=True),
)  # fmt: skip

# Relation: more ways to tell it, to ask for the value, and to ask for the person.
MORE_FORMS: dict[str, tuple[str, str, str]] = {
    "went": ("{p} visited the {v}. | {p} went into the {v}. | Then {p} went to the {v}.",
             "Where did {p} walk to? | Which place did {p} visit? | Where did {p} go to?",
             "Who visited the {v}? | Who walked to the {v}? | Who was at the {v}?"),
    "has": ("There is a {c} {v} in the bag of {p}.",
            "What does {p} own? | What has {p} got? | Which thing does {p} have?",
            "Who owns the {v}? | Who got a {v}?"),
    "lost": ("{p} could not find {a}. | Yesterday {p} lost {a}.", "Which thing did {p} lose?",
             "Who could not find {a}?"),
    "likes": ("{p} really likes {v}. | The favourite food of {p} is {v}.",
              "Which food does {p} like? | What does {p} love? | What is {p} fond of?",
              "Who loves {v}? | Who is fond of {v}?"),
    "ate": ("{p} had {v} for dinner. | For lunch {p} ate {v}.",
            "Which food did {p} eat? | What did {p} have for dinner?",
            "Who had {v} for lunch? | Who ate the {v}?"),
    "is": ("{p} is {a} by trade. | {p} has a job as {a}.", "What work does {p} do? | What job does {p} have?",
           "Who works as {a}? | Which person is {a}?"),
    "lives": ("{p} has a house in {v}. | {p} lives in the city of {v}.",
              "What city does {p} live in? | Where is the home of {p}? | Where is {p} at home?",
              "Which person lives in {v}?"),
    "saw": ("{p} saw {a} today. | Then {p} met {a}.",
            "What animal did {p} see? | What did {p} meet? | Whom did {p} meet?",
            "Who met {a}? | Who looked at {a}?"),
    "feels": ("{p} felt very {v}. | {p} was very {v}.", "How does {p} feel?", "Who felt very {v}?"),
    "plays": ("{p} likes to play {v}. | The favourite game of {p} is {v}.",
              "What game does {p} play? | Which game is played by {p}?",
              "Who likes to play {v}? | Which person plays {v}?"),
    "speaks": ("{p} knows {v}. | {p} learned {v} at school.",
               "Which language does {p} speak? | Which language does {p} know?",
               "Who can speak {v}? | Who knows {v}?"),
    "comes": ("{p} arrives on {v}. | On {v} {p} comes.", "What day does {p} come? | Which day does {p} come?",
              "Who will come on {v}? | Who arrives on {v}?"),
    "lies": ("{p} lies under the {v}. | There in the {v} is {p}. | {p} was put in the {v}.",
             "In which place is {p}? | Where does {p} lie?",
             "Which thing is in the {v}? | What can be found in the {v}?"),
    "belongs": ("{v} owns {p}. | {p} is the property of {v}.", "Who has {p}? | Who is the owner of {p}?",
                "Which thing belongs to {v}?"),
    "looks": ("{p} has the colour {v}.", "Which colour is {p}? | Which colour does {p} have?", "Which thing is {v}?"),
}  # fmt: skip


def _wider(relation: Relation) -> Relation:
    says, asks, who = (tuple(each.split(" | ")) for each in MORE_FORMS[relation.name])
    return relation.with_more(says, asks, who)


WIDE_RELATIONS = tuple(_wider(each) for each in RELATIONS) + NEW

WIDE = Level(
    people=(1, 4), questions=(2, 5), invented=0.1, others=0.35, relations=WIDE_RELATIONS, words=WIDE_WORDS, wide=True,
    alike=0.4, joined=0.12, phrasings=6,
)  # fmt: skip

POLITE = (
    "Please {low}", "{ask} Please.", "{bare}, please{mark}", "Hello. {ask}", "Hi! {ask}", "Can you help me? {ask}",
    "I have a question. {ask}", "{ask} Thank you.", "OK. {ask}", "Now: {ask}", "{low}", "{bare}", "Good morning. {ask}",
    "Do this for me: {low}", "I want this: {low}",
)  # fmt: skip


def polite(draw: Draw, ask: str) -> str:
    """A wish as different people say it."""
    bare = ask.rstrip(".?!")
    low = ask if ask.startswith("I ") else ask[0].lower() + ask[1:]
    return draw.one(POLITE).format(ask=ask, low=low, bare=bare, mark=ask[-1] if ask[-1] in "?!" else ".")
