"""The words of the small world, by kind. Every list is of common English words; nothing here comes from a data set."""

from __future__ import annotations


def _words(*texts: str) -> tuple[str, ...]:
    return tuple(word for text in texts for word in text.split())


WOMEN = _words(
    "Amy Ana Anna Bella Clara Daisy Ella Emma Eva Fay Gina Grace Hanna Ida Iris Ivy Jane Jill Julia Kate Kim Lena",
    "Lily Lisa Lucy Maja Mary Maya Mia Mina Nina Nora Olga Paula Rita Rosa Ruby Ruth Sally Sara Sofia Sue Tina",
    "Vera Zoe",
)
MEN = _words(
    "Adam Alan Alex Andy Arno Ben Bill Bob Carl Dan David Eric Finn Fred Gus Hans Harry Hugo Ian Jack Jake James",
    "Jan Joe John Karl Ken Leo Liam Luke Max Nick Noah Oleg Omar Oscar Otto Paul Pete Ralf Rob Sam Tim Tom",
    "Viktor",
)
PEOPLE = WOMEN + MEN

ANIMALS = _words(
    "ant bat bear bee bird cat cow crab crow deer dog donkey duck eagle fish fox frog goat goose hare hen horse",
    "lion lizard mole monkey mouse owl ox parrot pig pony rabbit rat seal sheep snail snake spider swan tiger",
    "toad turtle whale wolf",
)
OBJECTS = _words(
    "apron axe bag ball basket bell belt blanket boat book boot bottle bowl box broom brush bucket button candle",
    "cap chair clock coat coin comb cup doll door drum fan flag flute fork glass glove guitar hammer hat horn",
    "jacket jar jug key kite knife ladder lamp letter map mask mirror mug nail needle net paper pen pencil phone",
    "piano picture pillow pipe plate pot purse radio ring rope sack scarf shell shirt shoe sock spade spoon stamp",
    "stick stone stool sword table ticket torch towel toy tray vase violin watch wheel whistle",
)
PLACES = _words(
    "airport attic bakery barn beach bridge camp castle cave cellar church cinema city desert farm field forest",
    "garage garden gate harbour hill hospital hotel house island kitchen lake library market meadow mill mine",
    "mountain museum office palace park pond pool port river road roof school shop stable station street swamp",
    "temple theatre tower tunnel valley village well zoo",
)
FOODS = _words(
    "apples bananas beans bread butter cake carrots cheese cherries chicken chocolate corn eggs grapes honey jam",
    "lemons melons milk mushrooms noodles nuts onions oranges pasta peaches pears peas pepper pizza plums",
    "potatoes pudding rice salad salt soup sugar tea toast tomatoes",
)
COLOURS = _words(
    "black blue brown gold green grey orange pink purple red silver white yellow",
)
JOBS = _words(
    "actor baker barber builder butcher captain carpenter cook dancer dentist doctor driver farmer fisher",
    "gardener guard hunter judge king lawyer miner nurse painter pilot poet potter queen sailor shepherd singer",
    "smith soldier tailor teacher thief waiter weaver writer",
)
CITIES = _words(
    "Athens Berlin Bern Boston Cairo Chicago Delhi Dublin Geneva Hamburg Helsinki Lima Lisbon London Madrid Milan",
    "Moscow Naples Oslo Paris Prague Rome Seoul Sydney Tokyo Toronto Vienna Warsaw York Zurich",
)
FEELINGS = _words(
    "angry bored calm cold glad happy hungry lonely proud sad scared sick sleepy sorry thirsty tired",
)
GAMES = _words(
    "cards chess darts football golf hockey marbles rugby tag tennis",
)
LANGUAGES = _words(
    "Arabic Chinese Danish Dutch English French German Greek Hindi Irish Italian Japanese Korean Latin Polish",
    "Russian Spanish Swedish Turkish",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December",
)
NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    "seventeen eighteen nineteen twenty",
)
ROOMS = _words(
    "bathroom bedroom cellar garage hall kitchen library office",
)
SIZES = _words(
    "big little long new old short small tall tiny",
)

FILLERS = (
    "The sun was warm.", "It was a cold day.", "A little bird sang.", "The wind was strong.", "It began to rain.",
    "Nobody was in a hurry.", "The sky was clear.", "It was early in the morning.", "The night was quiet.",
    "Snow lay on the roofs.", "The streets were empty.", "There was music in the air.", "It was a long day.",
    "Far away a bell rang.", "The grass was wet.", "Leaves fell from the trees.", "The moon was bright.",
    "Everybody was at home.", "There were clouds over the hills.", "The water was still.",
)  # fmt: skip

SYLLABLES = _words(
    "ba bo da de fa fi ga go ka ki la lo ma mi na no pa po ra ri sa so ta tu va vi za zo",
)
ENDS = _words(
    "n r l s x m th ck",
)

BY_KIND: dict[str, tuple[str, ...]] = {
    "person": PEOPLE, "animal": ANIMALS, "object": OBJECTS, "place": PLACES, "food": FOODS, "colour": COLOURS,
    "job": JOBS, "city": CITIES, "feeling": FEELINGS, "game": GAMES, "language": LANGUAGES, "day": DAYS,
    "month": MONTHS, "room": ROOMS,
}  # fmt: skip


def article(word: str) -> str:
    """The word with a or an."""
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
