"""The fields that several APIs have in common, and what they say to the engine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from llamakit.plugins.frontends.rest.body import wrong
from llamakit.plugins.frontends.rest.prompts import checked_id
from msgspec import Meta

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.request import Request
    from llamakit.session import Session
    from llamakit.tokenizer import Tokenizer


LARGEST = (1 << 31) - 1


RANDOM_SEED = (1 << 32) - 1  # -1 as 2023 kept it, in 32 bits: also asks for a random seed


SPELLINGS = {
    "typ-p": "typical_p",
    "typical": "typical_p",
    "min-p": "min_p",
    "typ_p": "typical_p",
    "temp": "temperature",
    "tfs": "tfs_z",
    "top-k": "top_k",
    "top-p": "top_p",
}


MOST_STOPS = 128  # each is looked for after every token


LONGEST_STOP = 1024


Count = Annotated[int, Meta(ge=0, le=LARGEST)]


Name = Annotated[str, Meta(max_length=256)]


MOST_BIASES = 1 << 16
Bias = (
    Annotated[list[tuple[int | str, float | bool]], Meta(max_length=MOST_BIASES)]
    | Annotated[dict[str, float | bool], Meta(max_length=MOST_BIASES)]
)


SLOT = "The slot whose text it is, for /slots/{id}?action=save; -1 = any. Only with --slot-save-path."
SlotId = Annotated[int, Meta(ge=-1, le=LARGEST, description=SLOT)]


class LoraChoice(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter for this request, by `id` or by `name`, and its scale."""

    id: Count | None = None
    name: Name | None = None
    scale: Annotated[float, Meta(ge=-100, le=100)] = 1.0


# The letters of llama.cpp's `samplers`, and the names of samplers that only it has.
LONGEST_SAMPLER = 64  # characters of a name that may be one
LONGEST_CHAIN = 256  # names, or characters of a text of them
LETTERS = {
    "e": "penalties", "d": "dry", "k": "top_k", "y": "typical_p", "p": "top_p", "s": "top_n_sigma", "m": "min_p",
    "x": "xtc", "t": "temperature", "i": "infill", "a": "adaptive_p",
}  # fmt: skip


def _spelled_once(names: list[Any]) -> list[Any]:
    """The names without those that are there by another spelling already (`typ_p` beside `typical_p`)."""
    first: dict[Any, Any] = {}
    for name in names:
        first.setdefault(SPELLINGS.get(name, name) if isinstance(name, str) else str(name), name)
    return [n for n in names if not isinstance(n, str) or first[SPELLINGS.get(n, n)] == n]


NUMBER = re.compile(r"-?\d{1,11}")


def skip_samplers(state: ServerState, values: dict[str, Any]) -> list[str]:
    """Leave out of `samplers` those that are not installed, as llama.cpp does; returns them, for the header.

    Not with `strict`. A text of letters, such as "edkypmxt", stands for names.
    """
    asked = values.get("samplers")
    known = state.registry.samplers()
    if isinstance(asked, (str, list)) and len(asked) > LONGEST_CHAIN:
        return []  # refused when the fields are checked
    if isinstance(asked, str) and asked and ";" not in asked and SPELLINGS.get(asked, asked) not in known:
        asked = values["samplers"] = [LETTERS[each] for each in asked] if set(asked) <= set(LETTERS) else asked
    names = asked.split(";") if isinstance(asked, str) else asked
    if not isinstance(names, list) or values.get("strict") is True:
        return []
    names = [name for name in names if not isinstance(name, str) or name.strip()]
    skipped = {
        name: None
        for name in names
        if isinstance(name, str)
        and len(name) <= LONGEST_SAMPLER
        and SPELLINGS.get(name.strip(), name.strip()) not in known
    }
    kept = _spelled_once([name for name in names if not isinstance(name, str) or name not in skipped])
    if skipped and not kept:  # nothing that is known: the default chain
        values.pop("samplers")
    elif len(kept) < len(names):
        values["samplers"] = kept
    return [f"samplers.{name}" for name in skipped]


def stop_texts(stop: list[str | None] | str) -> tuple[str, ...]:
    """The stop strings: one text is one of them, empty ones and null are none."""
    texts = [stop] if isinstance(stop, str) else stop
    found = tuple(text for text in texts if text)
    if len(found) > MOST_STOPS:
        raise wrong("stop", found, f"at most {MOST_STOPS} texts")
    return found


def sampler_names(names: list[str] | str | None) -> tuple[str, ...] | None:
    """The chain that is asked for, None for the default one."""
    if names is None:
        return None
    parts = names.split(";") if isinstance(names, str) else names
    found = tuple(SPELLINGS.get(name.strip(), name.strip()) for name in parts if name.strip())
    if len(found) > 64:
        raise wrong("samplers", list(found), "at most 64 names")
    return found


def bias_of(tokenizer: Tokenizer, bias: Bias) -> dict[int, float | bool]:
    """Bias by token id, the last one given for each; a text stands for each of its tokens."""
    found: dict[int, float | bool] = {}
    for token, value in bias.items() if isinstance(bias, dict) else bias:
        if value is True:
            raise wrong("logit_bias", [token, value], "a number, or false for a ban")
        if isinstance(token, str) and not (isinstance(bias, dict) and NUMBER.fullmatch(token)):
            found |= dict.fromkeys(tokenizer.encode(token), value)
        else:
            found[checked_id(tokenizer, int(token), "logit_bias", "logit_bias")] = value
    return found


def bias_pairs(tokenizer: Tokenizer, bias: Bias) -> list[tuple[int, float | bool]]:
    """The same as pairs."""
    return list(bias_of(tokenizer, bias).items())


def adapters(session: Session, lora: list[LoraChoice] | None) -> tuple[tuple[str, float], ...] | None:
    """(name, scale) of the adapters that are asked for, None for the default ones."""
    if lora is None:
        return None
    infos = session.adapters.infos() if session.adapters is not None else []
    by_id = {info.id: info.name for info in infos}
    found = []
    for place, choice in enumerate(lora):
        name = choice.name if choice.id is None else by_id.get(choice.id)
        if name is None:
            asked = f"no adapter with id {choice.id}" if choice.id is not None else f"lora[{place}] names no adapter"
            there = ", ".join(f"{info.id} ({info.name})" for info in infos) or "none is loaded"
            raise UsageError(asked, found=there, param="lora")
        found.append((name, choice.scale))
    return tuple(found)


MOST_ANSWERS = 128


Several = Annotated[int, Meta(ge=1, le=MOST_ANSWERS)]


StopText = Annotated[str, Meta(max_length=LONGEST_STOP)]


class Extensions(msgspec.Struct, frozen=True, kw_only=True):
    """What every API that generates takes beyond its own fields."""

    model: Annotated[Name, Meta(description="Which model, where there are several.")] = ""
    ignore_eos: Annotated[bool, Meta(description="Ban the tokens that end a generation.")] = False
    samplers: Annotated[list[Name] | Name, Meta(description='Names of samplers in order, or "a;b".')] | None = None
    lora: (
        Annotated[list[LoraChoice], Meta(max_length=32, description="Adapters for this request; others are off.")]
        | None
    ) = None
    context_shift: Annotated[
        bool, Meta(description="Drop the oldest tokens when the context is full, in place of ending the answer.")
    ] = False
    cache_prompt: Annotated[bool, Meta(description="Use and keep evaluated beginnings of prompts.")] = True
    cache_salt: Annotated[str, Meta(max_length=256, description="Only requests with the same share them.")] = ""
    n_beams: Annotated[Several, Meta(description="Search with so many beams instead of sampling.")] = 1
    priority: Annotated[int, Meta(ge=-1000, le=1000, description="Larger goes first.")] = 0
    deadline: Annotated[float, Meta(gt=0, le=86400, description="Seconds until the answer is cut.")] | None = None
    draft: Annotated[int, Meta(ge=0, le=64, description="Most tokens of speculative decoding in a step.")] | None = None


def extended(session: Session, tokens: list[int], fields: Extensions, *, seed: int, **params: Any) -> Request:
    """The engine's request with the fields of `Extensions`."""
    ignore_eos = params.pop("ignore_eos", False) or fields.ignore_eos  # of the server's settings, or the request's
    return session.request(
        tokens, ignore_eos=ignore_eos, samplers=sampler_names(fields.samplers), shift=fields.context_shift,
        adapters=adapters(session, fields.lora), cache=fields.cache_prompt, cache_salt=fields.cache_salt,
        beams=fields.n_beams, priority=fields.priority, deadline=fields.deadline, draft=fields.draft,
        seed=-1 if seed == RANDOM_SEED else seed, **params,
    )  # fmt: skip


def settings_of(state: ServerState, sampling: Mapping[str, object]) -> dict[str, object]:
    """Sampler options in force: the server's settings, then the request's."""
    settings: Mapping[str, object] = getattr(state, "sampling", {})
    return {**settings, **sampling}
