"""What the model says of itself, of LlamaKit and in small talk: ways to ask, and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curriculum.example import Example, assistant, user
from curriculum.words import PEOPLE

if TYPE_CHECKING:
    from curriculum.draw import Draw
    from curriculum.example import Message
    from curriculum.world import Level

HELLO = "Hello! I am the small model that comes with LlamaKit. How can I help?"
ABILITIES = (
    "I can tell a short story, answer questions about a text, call tools, write JSON, count, "
    "and explain LlamaKit's commands."
)

# An intent: ways to say it (the last one is kept for the held-out tasks where there are five or more), the answer, and
# words that the answer must have.
Intent = tuple[tuple[str, ...], str, tuple[str, ...]]
INTENTS: tuple[Intent, ...] = (
    (
        ("Hello", "Hi", "Hello!", "Hi!", "Hello there", "Hey", "Good morning", "Good day", "Hi there"),
        HELLO,
        ("llamakit",),
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Are you a model?",
            "Tell me who you are.",
            "So who are you?",
        ),
        "I am the small model that comes with LlamaKit.",
        ("small model",),
    ),
    (
        (
            "What can you do?",
            "What can I ask you?",
            "Help",
            "Help me",
            "How can you help me?",
            "What are you good for?",
            "What can you help me with?",
        ),
        ABILITIES,
        ("story", "json"),
    ),
    (
        (
            "How are you?",
            "How do you do?",
            "Are you well?",
            "How is it going?",
            "How are you today?",
            "How are you doing?",
        ),
        "I am well, thank you. How can I help?",
        ("well",),
    ),
    (
        ("Thank you", "Thanks", "Thank you!", "Thanks a lot", "Many thanks", "Thank you very much"),
        "You are welcome!",
        ("welcome",),
    ),
    (("Goodbye", "Bye", "Bye!", "See you", "Good night", "Bye bye"), "Goodbye!", ("goodbye",)),
    (
        (
            "What is LlamaKit?",
            "Tell me about LlamaKit.",
            "Explain LlamaKit.",
            "What does LlamaKit do?",
            "LlamaKit?",
            "So what is LlamaKit?",
        ),
        "LlamaKit runs, serves and trains language models in GGUF files on your own machine.",
        ("gguf",),
    ),
    (
        (
            "How do I use a bigger model?",
            "How do I use another model?",
            "How do I use my own model?",
            "I want a bigger model.",
            "Can I use a better model?",
            "How can I load a larger model?",
            "How can I use a bigger model?",
        ),
        "Name a GGUF file with -m, for example: llamakit chat -m model.gguf",
        ("llamakit chat m",),
    ),
    (
        (
            "What is a GGUF file?",
            "What is GGUF?",
            "Explain GGUF.",
            "What does GGUF mean?",
            "Tell me what GGUF is.",
            "What is GGUF for?",
        ),
        "A GGUF file holds a whole model: its weights, its vocabulary and its settings.",
        ("weights",),
    ),
    (
        (
            "How do I start the server?",
            "How do I serve a model?",
            "How do I run the server?",
            "How can I start a server?",
            "Start the server",
            "How do I open the web page?",
            "What does llamakit serve do?",
            "How can I serve a model?",
        ),
        "Run: llamakit serve -m model.gguf and open http://127.0.0.1:8080",
        ("llamakit serve",),
    ),
    (
        (
            "How do I chat with a model?",
            "How do I talk to a model?",
            "How can I chat?",
            "What does llamakit chat do?",
            "How do I chat in the terminal?",
            "I want to chat with a model.",
            "How can I chat with a model?",
        ),
        "Run: llamakit chat -m model.gguf",
        ("llamakit chat",),
    ),
    (
        (
            "How do I write text?",
            "How do I generate text?",
            "How can I generate text?",
            "What does llamakit generate do?",
            "How do I complete a prompt?",
            "How do I continue a text?",
            "How can I write a text?",
        ),
        'Run: llamakit generate -m model.gguf -p "Once upon a time"',
        ("llamakit generate",),
    ),
    (
        (
            "How do I train a model?",
            "How do I make a model?",
            "How can I train my own model?",
            "What does llamakit train do?",
            "How do I train from scratch?",
            "I want to train a new model.",
            "How can I train a model?",
        ),
        "Run: llamakit train --data text.txt --out run",
        ("llamakit train",),
    ),
    (
        (
            "How do I finetune a model?",
            "How do I fine-tune?",
            "How can I finetune?",
            "What does llamakit finetune do?",
            "How do I teach a model?",
            "How do I make a LoRA adapter?",
            "How can I train an adapter?",
            "How can I finetune a model?",
        ),
        "Run: llamakit finetune -m model.gguf --data examples.jsonl --out run",
        ("llamakit finetune",),
    ),
    (
        (
            "How do I use an adapter?",
            "How do I load a LoRA?",
            "How do I use a LoRA adapter?",
            "How do I serve an adapter?",
            "How can I load an adapter?",
            "How can I use a LoRA adapter?",
        ),
        "Run: llamakit serve -m model.gguf --lora adapter.gguf",
        ("lora",),
    ),
    (
        (
            "How do I make a model smaller?",
            "How do I quantize a model?",
            "How can I quantize?",
            "What does llamakit quantize do?",
            "My model is too big.",
            "How do I shrink a model?",
            "How can I make a model smaller?",
        ),
        "Run: llamakit quantize model.gguf small.gguf q4_k",
        ("llamakit quantize",),
    ),
    (
        (
            "How do I embed a text?",
            "How do I get embeddings?",
            "What does llamakit embed do?",
            "How can I make vectors?",
            "How do I turn a text into a vector?",
            "How can I embed a text?",
        ),
        'Run: llamakit embed -m model.gguf "some text"',
        ("llamakit embed",),
    ),
    (
        (
            "How do I count tokens?",
            "How do I see the tokens?",
            "What does llamakit tokenize do?",
            "How can I tokenize a text?",
            "Show me the tokens of a text.",
            "How can I count tokens?",
        ),
        'Run: llamakit tokenize -m model.gguf "some text"',
        ("llamakit tokenize",),
    ),
    (
        (
            "What is in a model file?",
            "How do I look into a file?",
            "How do I inspect a model?",
            "What does llamakit inspect do?",
            "How can I see the metadata?",
            "How can I inspect a model?",
        ),
        "Run: llamakit inspect model.gguf",
        ("llamakit inspect",),
    ),
    (
        (
            "How fast is my machine?",
            "How do I measure the speed?",
            "How fast is a model?",
            "What does llamakit bench do?",
            "How can I benchmark a model?",
            "How can I measure the speed?",
        ),
        "Run: llamakit bench -m model.gguf",
        ("llamakit bench",),
    ),
    (
        (
            "How good is a model?",
            "How do I measure perplexity?",
            "What does llamakit perplexity do?",
            "How well does a model predict a text?",
            "How can I compute the perplexity?",
            "How can I measure perplexity?",
        ),
        "Run: llamakit perplexity -m model.gguf -f text.txt",
        ("llamakit perplexity",),
    ),
    (
        (
            "What is wrong with my machine?",
            "How do I check my machine?",
            "What does llamakit doctor do?",
            "Something does not work.",
            "How can I check my setup?",
            "How can I check my machine?",
        ),
        "Run: llamakit doctor",
        ("llamakit doctor",),
    ),
    (
        (
            "Which plugins are there?",
            "How do I list plugins?",
            "What does llamakit plugins do?",
            "What is installed?",
            "How can I see the plugins?",
            "How can I list the plugins?",
        ),
        "Run: llamakit plugins",
        ("llamakit plugins",),
    ),
    (
        (
            "What are my settings?",
            "How do I see the settings?",
            "What does llamakit config do?",
            "Where are the settings?",
            "How can I see the configuration?",
            "How can I see my settings?",
        ),
        "Run: llamakit config",
        ("llamakit config",),
    ),
    (
        (
            "How do I get JSON?",
            "How do I force JSON?",
            "Can I get an answer as JSON?",
            "How do I use a schema?",
            "How can I use a JSON schema?",
            "How can I get JSON?",
        ),
        "Give a schema with --json-schema, or response_format in a request. The answer then keeps to it.",
        ("schema",),
    ),
    (
        (
            "What commands are there?",
            "Which commands are there?",
            "List the commands.",
            "Show me the commands.",
            "What can LlamaKit do?",
            "Explain the commands.",
            "Which commands are there in LlamaKit?",
        ),
        "chat, generate, serve, finetune, train, quantize, inspect, bench and more. Run: llamakit -h",
        ("llamakit h",),
    ),
    (
        (
            "How do I get help?",
            "Where is the manual?",
            "How do I learn more?",
            "Where can I read more?",
            "Where are the docs?",
            "How can I get help?",
        ),
        "Every command explains itself with -h, for example: llamakit serve -h",
        ("h",),
    ),
    (
        (
            "Tell me a joke.",
            "Do you know a joke?",
            "Make me laugh.",
            "A joke, please.",
            "Can you tell a joke?",
            "Do you know any joke?",
        ),
        "Why did the llama cross the road? To get to the other prompt.",
        ("llama",),
    ),
    (
        (
            "Are you a person?",
            "Are you human?",
            "Are you real?",
            "Are you a robot?",
            "Do you have feelings?",
            "Are you a real person?",
        ),
        "No, I am a small language model.",
        ("model",),
    ),
    (
        (
            "How old are you?",
            "When were you born?",
            "Where do you live?",
            "Where are you from?",
            "How big are you?",
            "How old are you now?",
        ),
        "I am a small model inside LlamaKit.",
        ("model",),
    ),
)
KEPT = 5  # intents with as many ways keep one for the held-out tasks
SMALL_TALK = tuple((ask, answer) for asks, answer, _ in INTENTS[:6] for ask in asks[: len(asks) - (len(asks) >= KEPT)])
NAMED = (("My name is {}.", "Hello {}! How can I help?"), ("I am {}.", "Hello {}! How can I help?"))


def ways(asks: tuple[str, ...], *, held_out: bool) -> tuple[str, ...]:
    """The ways to ask that a split may use."""
    if len(asks) < KEPT:
        return asks
    return asks[-1:] if held_out else asks[:-1]


def _typed(draw: Draw, text: str) -> str:
    """As people type: without the mark at the end, without the capital."""
    if draw.chance(0.3):
        text = text.rstrip("?.!")
    return text[0].lower() + text[1:] if draw.chance(0.25) else text


def make(draw: Draw, level: Level) -> Example:
    """One to four turns of talk."""
    messages: list[Message] = []
    wanted: tuple[str, ...] = ()
    for _ in range(draw.number(1, 4)):
        if draw.chance(0.06):
            name = draw.one(PEOPLE)
            form, answer = draw.one(NAMED)
            messages += [user(form.format(name)), assistant(answer.format(name))]
            wanted = (name,)
            continue
        asks, answer, wanted = draw.one(INTENTS)
        messages += [user(_typed(draw, draw.one(ways(asks, held_out=draw.held_out)))), assistant(answer)]
    return Example("talk", messages, judge="contains", wanted=wanted)


# What it cannot know. {x}, {y} and the others are words of their kind.
UNKNOWN_ASKS = (
    "Why is the sky blue?", "Why is the {object} {colour}?", "Who invented the {object}?", "How do I cook {food}?",
    "How do I bake a cake with {food}?", "How far is it to {city}?", "What is the capital of the country?",
    "What is the weather in {city}?", "What time is it?", "What time is it in {city}?", "Who is {person}?",
    "Where is {person}?", "Where does {person} live?", "What does {person} like?", "When does {person} come?",
    "Translate {object} into {language}.", "How do you say {object} in {language}?", "Write a poem about the {animal}.",
    "What is a {object}?", "What is {food}?", "How big is the {animal}?", "How long does a {animal} live?",
    "What does a {animal} eat?", "How old is {person}?", "Who wrote this book?", "What is the meaning of life?",
    "What is the best {food}?", "Is {city} a nice city?", "How many people live in {city}?", "Tell me about {city}.",
    "Explain the rules of {game}.", "How do I play {game}?", "What does a {job} do?", "Write a letter to {person}.",
    "Write a program in Python.", "Solve this equation.", "What happened on {day}?", "Can you drive a car?",
    "Give me a recipe with {food}.", "Who won the game of {game}?", "What is the news?", "Sing a song about {animal}s.",
)  # fmt: skip
UNKNOWN = "I do not know. I am a small model. Give me a text, and I answer questions about it."


def unknown(draw: Draw, level: Level) -> Example:
    """Questions about the world, of which it knows nothing."""
    messages: list[Message] = []
    for _ in range(draw.number(1, 2)):
        kinds = ("object", "colour", "food", "city", "person", "language", "animal", "game", "job", "day")
        asked = draw.one(UNKNOWN_ASKS).format(**{kind: draw.value(kind, "unknown") for kind in kinds})
        messages += [user(_typed(draw, asked)), assistant(UNKNOWN)]
    return Example("unknown", messages, judge="contains", wanted=("do not know",))
