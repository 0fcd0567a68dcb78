"""The words of the small world, by kind. Every list is of common English words; nothing here comes from a data set."""

from __future__ import annotations


def split_words(*texts: str) -> tuple[str, ...]:
    """The words of some lines."""
    return tuple(word for text in texts for word in text.split())


WOMEN = split_words(
    "Amy Ana Anna Bella Clara Daisy Ella Emma Eva Fay Gina Grace Hanna Ida Iris Ivy Jane Jill Julia Kate Kim Lena",
    "Lily Lisa Lucy Maja Mary Maya Mia Mina Nina Nora Olga Paula Rita Rosa Ruby Ruth Sally Sara Sofia Sue Tina",
    "Vera Zoe",
)
MEN = split_words(
    "Adam Alan Alex Andy Arno Ben Bill Bob Carl Dan David Eric Finn Fred Gus Hans Harry Hugo Ian Jack Jake James",
    "Jan Joe John Karl Ken Leo Liam Luke Max Nick Noah Oleg Omar Oscar Otto Paul Pete Ralf Rob Sam Tim Tom",
    "Viktor",
)
PEOPLE = WOMEN + MEN
MOTHERS = split_words("Grandma Mother Mom")
FATHERS = split_words("Grandpa Father Dad")

ANIMALS = split_words(
    "ant bat bear bee bird cat cow crab crow deer dog donkey duck eagle fish fox frog goat goose hare hen horse",
    "lion lizard mole monkey mouse owl ox parrot pig pony rabbit rat seal sheep snail snake spider swan tiger",
    "toad turtle whale wolf",
)
OBJECTS = split_words(
    "apron axe bag ball basket bell belt blanket boat book boot bottle bowl box broom brush bucket button candle",
    "cap chair clock coat coin comb cup doll door drum fan flag flute fork glass glove guitar hammer hat horn",
    "jacket jar jug key kite knife ladder lamp letter map mask mirror mug nail needle net paper pen pencil phone",
    "piano picture pillow pipe plate pot purse radio ring rope sack scarf shell shirt shoe sock spade spoon stamp",
    "stick stone stool sword table ticket torch towel toy tray vase violin watch wheel whistle",
)
PLACES = split_words(
    "airport attic bakery barn beach bridge camp castle cave cellar church cinema city desert farm field forest",
    "garage garden gate harbour hill hospital hotel house island kitchen lake library market meadow mill mine",
    "mountain museum office palace park pond pool port river road roof school shop stable station street swamp",
    "temple theatre tower tunnel valley village well zoo",
)
FOODS = split_words(
    "apples bananas beans bread butter cake carrots cheese cherries chicken chocolate corn eggs grapes honey jam",
    "lemons melons milk mushrooms noodles nuts onions oranges pasta peaches pears peas pepper pizza plums",
    "potatoes pudding rice salad salt soup sugar tea toast tomatoes",
)
COLOURS = split_words(
    "black blue brown gold green grey orange pink purple red silver white yellow",
)
JOBS = split_words(
    "actor baker barber builder butcher captain carpenter cook dancer dentist doctor driver farmer fisher",
    "gardener guard hunter judge king lawyer miner nurse painter pilot poet potter queen sailor shepherd singer",
    "smith soldier tailor teacher thief waiter weaver writer",
)
CITIES = split_words(
    "Athens Berlin Bern Boston Cairo Chicago Delhi Dublin Geneva Hamburg Helsinki Lima Lisbon London Madrid Milan",
    "Moscow Naples Oslo Paris Prague Rome Seoul Sydney Tokyo Toronto Vienna Warsaw York Zurich",
)
FEELINGS = split_words(
    "angry bored calm cold glad happy hungry lonely proud sad scared sick sleepy sorry thirsty tired",
)
GAMES = split_words(
    "cards chess darts football golf hockey marbles rugby tag tennis",
)
LANGUAGES = split_words(
    "Arabic Chinese Danish Dutch English French German Greek Hindi Irish Italian Japanese Korean Latin Polish",
    "Russian Spanish Swedish Turkish",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = split_words(
    "January February March April May June July August September October November December",
)
NUMBERS = split_words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    "seventeen eighteen nineteen twenty",
)
ROOMS = split_words(
    "bathroom bedroom cellar garage hall kitchen library office",
)

# Words that are only copied, listed and counted.
MORE = split_words(
    "able above across afraid after again age all alone also always among angel animal answer arm army around art",
    "ask baby back bad bank bath beautiful bed before behind below better bit bitter blood blow body bone born",
    "both branch brave breath bring broken brother build burn business busy call care carry catch chance change",
    "cheap child choose circle class clean clever climb close cloth cloud club colour come cool copy corner cost",
    "count country course cover crown cry cut daily dance danger dark daughter dead dear deep dinner dirty dish",
    "double dream dress drink drive drop dry dust earth east easy eat edge end enemy engine enough evening every",
    "eye face fact fair fall family famous far fast fat father fear feather feed fellow few fight fill film find",
    "fine finger finish fire first flat floor flower fly follow food foot foreign free fresh friend front fruit",
    "full fun funny game gentle gift girl give gone good great ground group grow guest hair half hand hang hard",
    "head hear heart heat heavy help hidden high hold hole holy honest hope hot hour huge hunt ice idea iron join",
    "joke journey jump just keep kiss knee know lady land large last late laugh law lazy lead leaf learn leave",
    "left leg lesson lie life lift light line lip listen loose lost loud love low luck lunch machine magic main",
    "man many mark marry master meal mean measure meat medicine meet merry metal middle mind minute moment money",
    "month mother mouth move narrow nature near neat neck never next nice nobody noise north nose number ocean",
    "often oil once only open order other outside owner page pain pair part party past path pay peace people",
    "place plain plan plant play please plenty point polite poor power pretty price prince princess prize promise",
    "pull pure push quarter question quick quite race raise reach read ready real reason rest rich ride right",
    "rise rock room root rough round row rule run safe sail same sand save say scene sea season seat secret see",
    "seed seem shade shadow shape share sharp shine shore shout show shut sight sign silence simple since sister",
    "size skin sleep slow smell smile smoke smooth snow soft soil some son song soon sound south space speak",
    "speed spend spring square stand star start stay steal steam steep step storm story straight strange stranger",
    "stream such sudden summer sure sweet swim tail take tale talk taste teach tear tell test thank then thick",
    "thin thing think thought thread throat throw thunder time tongue tool tooth top touch trade train travel",
    "tree trip trouble true trust try turn under until use usual very view visit voice wait wake walk wall want",
    "war wash waste wave way weak wear weather week weight welcome west what wheat where while whole wide wife",
    "wild win window wine wing winter wise wish woman wonder wood wool work worm worse wound write wrong year",
    "young",
)

FILLERS = (
    "The sun was warm.", "It was a cold day.", "A little bird sang.", "The wind was strong.", "It began to rain.",
    "Nobody was in a hurry.", "The sky was clear.", "It was early in the morning.", "The night was quiet.",
    "Snow lay on the roofs.", "The streets were empty.", "There was music in the air.", "It was a long day.",
    "Far away a bell rang.", "The grass was wet.", "Leaves fell from the trees.", "The moon was bright.",
    "Everybody was at home.", "There were clouds over the hills.", "The water was still.",
)  # fmt: skip

SYLLABLES = split_words(
    "ba bo da de fa fi ga go ka ki la lo ma mi na no pa po ra ri sa so ta tu va vi za zo",
)
ENDS = split_words(
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
