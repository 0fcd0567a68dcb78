"""Commands about what answers: sampler options, system prompt, model, adapters, constraints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from llamakit.plugins.frontends.cli.talk.command import Command, content_of, needed, path_of
from llamakit.plugins.frontends.cli.talk.settings import shown

from llamakit.errors import UsageError
from llamakit.options import near

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.plugins.frontends.cli.talk.talk import Talk


def set_option(talk: Talk, text: str) -> None:
    """Set an option, or list all."""
    name, _, value = text.replace("=", " ", 1).partition(" ") if text else ("", "", "")
    knobs = talk.knobs()
    if not name:
        for line in talk.settings.lines(knobs):
            talk.terminal.say(talk.terminal.bold(line) if line.startswith("*") else line)
        return
    name = talk.settings.name(knobs, name)
    if not value.strip():
        knob = knobs.get(name)
        if knob is None:
            raise UsageError(f"no option {name!r}", found=near(name, knobs), hint="/set lists them")
        now, field = shown(talk.settings.values.get(name, knob.field.default)), knob.field
        talk.terminal.say(f"{name} {now}  {f'[{field.interval}] ' if field.interval else ''}{field.description}")
        return
    set_to, gone = talk.settings.set(knobs, name, value.strip())
    talk.terminal.say(talk.terminal.dim(f"{name} {shown(set_to)}, from the next answer on{_instead(gone)}"))


def _instead(gone: list[str]) -> str:
    """What was taken back, since only one of them can hold."""
    return f"; {' and '.join(gone)} no longer" if gone else ""


def reset_option(talk: Talk, text: str) -> None:
    """Set an option back."""
    name = needed(text, "/reset NAME|all")
    talk.settings.reset(talk.knobs(), name)
    talk.terminal.say(talk.terminal.dim("all options are as they were" if name == "all" else f"{name} is as it was"))


def system(talk: Talk, text: str) -> None:
    """Set the system prompt."""
    if not text:
        talk.terminal.say(talk.conversation.system or "no system prompt")
        return
    talk.conversation.system = "" if text == "off" else text
    talk.terminal.say(talk.terminal.dim("no system prompt from here on" if text == "off" else "set from here on"))


def model(talk: Talk, text: str) -> None:
    """Switch to another model."""
    source = talk.source
    if not text:
        talk.terminal.say(source.title)
        for name in source.models():
            talk.terminal.say(f"{'*' if name == source.model else ' '} {name}")
        return
    if not source.models():
        talk.terminal.say(talk.terminal.dim(cost(path_of(text))))
    talk.terminal.say(source.switch(text))
    talk.chosen, talk.adapters = [], None


def cost(path: Path) -> str:
    """What loading a file takes, as far as its size tells."""
    from llamakit.system import free_memory
    from llamakit.units import size_text

    try:
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="/model FILE") from None
    return f"loading {path.name}: {size_text(size)} of weights and the context; {size_text(free_memory())} are free"


def lora(talk: Talk, text: str) -> None:
    """Choose adapters."""
    source = talk.source
    if not text:
        found = source.adapters()
        for name, default in found.items():
            scale = f"{default:g} by default" if talk.adapters is None else f"{talk.adapters.get(name, 0):g}"
            talk.terminal.say(f"{name}  {scale}")
        if not found:
            talk.terminal.say("no adapters")
        return
    name, equals, scale_text = text.rpartition("=") if "=" in text else (text, "", "")
    try:
        scale = 0.0 if scale_text == "off" else float(scale_text) if equals else 1.0
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise UsageError(f"{scale_text!r} is not a scale", hint="/lora NAME=0.5")
    if name not in source.adapters():
        if not path_of(name).exists():
            raise UsageError(f"no adapter {name!r}", found=near(name, source.adapters()), hint="/lora FILE loads one")
        name = source.add_adapter(str(path_of(name)))
    now = source.adapters() if talk.adapters is None else talk.adapters
    others = {other: old for other, old in now.items() if other != name and old}
    talk.adapters = {**others, name: scale} if scale else others
    talk.terminal.say(talk.terminal.dim(f"{name} {scale:g}, from the next answer on"))


def grammar(talk: Talk, text: str) -> None:
    """Constrain answers by a grammar."""
    _constrain(talk, "grammar", needed(text, "/grammar FILE|off"), lambda: read(text))


def json_schema(talk: Talk, text: str) -> None:
    """Constrain answers by a JSON Schema."""

    def value() -> str:
        given = text if text.lstrip().startswith(("{", "true")) else read(text)
        try:
            msgspec.json.decode(given)
        except msgspec.DecodeError as error:
            raise UsageError(f"that is not JSON: {error}", hint='/json {"type": "object"}, or /json FILE') from None
        return given

    _constrain(talk, "json_schema", needed(text, "/json SCHEMA|off"), value)


def _constrain(talk: Talk, name: str, text: str, value: Callable[[], str]) -> None:
    knobs = talk.knobs()
    if text == "off":
        talk.settings.values.pop(name, None)
        talk.terminal.say(talk.terminal.dim("off"))
        return
    if name not in knobs:
        raise UsageError(f"no sampler that takes {name!r} is installed", hint="llamakit plugins --kind sampler")
    given = value()
    knob = knobs[name]
    gone = talk.settings.put(name, msgspec.json.decode(given) if knob.field.kind == "json" else given)
    talk.terminal.say(talk.terminal.dim(f"set, from the next answer on{_instead(gone)}"))


def read(name: str) -> str:
    """The text of a file."""
    return content_of(path_of(name)).decode("utf-8", "replace")


def _options(talk: Talk) -> list[str]:
    return list(talk.knobs())


def _models(talk: Talk) -> list[str]:
    return talk.source.models()


def _adapters(talk: Talk) -> list[str]:
    return list(talk.source.adapters())


COMMANDS = (
    Command(name="set", usage="[NAME VALUE]", summary="sampler options, seed, max_tokens, stop", run=set_option,
            words=_options, detail="/set lists them with their bounds, changed ones first; /set temperature 0.5"),
    Command(name="reset", usage="NAME|all", summary="an option as it was at the start", run=reset_option,
            words=lambda talk: ["all", *talk.knobs()]),
    Command(name="system", usage="[TEXT|off]", summary="another system prompt, from here on", run=system),
    Command(name="model", usage="[NAME]", summary="another model: a file, or one of the server's", run=model,
            files=True, words=_models, detail="The conversation goes on with it."),
    Command(name="lora", usage="[NAME[=SCALE]]", summary="LoRA adapters and their scales", run=lora, files=True,
            words=_adapters, detail="/lora tales.gguf   /lora tales=0.5   /lora tales=off"),
    Command(name="grammar", usage="FILE|off", summary="answers follow a grammar", run=grammar, files=True),
    Command(name="json", usage="SCHEMA|off", summary="answers follow a JSON Schema (a file, or the text)",
            run=json_schema, files=True, detail='/json {"type": "object"}   /json schema.json'),
)  # fmt: skip
