"""Every family: what it writes is read, wherever it is cut, and is what its own grammar allows."""

from __future__ import annotations

import itertools
import json

import pytest

from llamakit.chat.harmony import HarmonyReader
from llamakit.chat.tools import GENERIC, joined, reader_of
from llamakit.chat.tools.structure import Function, Structure
from llamakit.grammar import study
from llamakit.registry import Registry

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["c", "f"]},
        "deep": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "boolean"}}}},
    },
    "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip
NAMES = {"get_weather": SCHEMA, "stop": {"type": "object", "properties": {}, "additionalProperties": False}}
CALLS = [
    ("get_weather", {"city": "São \"P\" <Paulo> {'x'}", "days": 2, "unit": "c", "deep": {"a": [True, False]}}),
    ("stop", {}),
]
FORMATS = [*Registry.discover().tool_formats, GENERIC]
by_name = pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)


def read(format, text, cuts=()):
    """(thought, text, calls, whether the answer ended within a call)."""
    if format.channels:
        reader = HarmonyReader(format, NAMES)
        push, flush = reader.push, reader.flush
    else:
        reader = reader_of(format, NAMES)
        push, flush = lambda part: ("", *reader.push(part)), lambda: ("", *reader.flush())
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    told = [push(text[a:b]) for a, b in itertools.pairwise(edges)] + [flush()]
    for *_, deltas in told:
        assert len({delta.index for delta in deltas}) == len(deltas), "one entry for each call"
    calls = joined(delta for *_, deltas in told for delta in deltas)
    return "".join(t for t, *_ in told), "".join(t for _, t, _ in told), calls, reader.cut


def spoken(format, calls):
    return format.text(calls[: len(calls) if format.several else 1])


@by_name
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_calls_are_read(format, size):
    text = spoken(format, CALLS)
    thought, shown, calls, cut = read(format, text, range(0, len(text), size))
    wanted = CALLS if format.several else CALLS[:1]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == wanted
    assert (thought, shown.strip(), cut) == ("", "", False)
    assert not any(call.cut for call in calls)
    assert len({call.id for call in calls}) == len(calls)


@by_name
def test_text_is_text(format):
    for text in ("Plain words.", "a < b [x] {y}", "Two\nlines and `code`.", "1"):
        told = f"<|channel|>final<|message|>{text}" if format.channels else text
        for size in (1, 100):
            assert read(format, told, range(0, len(told), size)) == ("", text, [], False)


@by_name
def test_an_answer_cut_within_a_call_leaks_nothing(format):
    text = spoken(format, CALLS[:1])
    begin = text.index("get_weather") + len("get_weather")
    for length in range(begin + 3, text.index("Paulo")):
        _, shown, calls, cut = read(format, text[:length])
        if calls:
            assert shown.strip() == ""
            assert cut
            assert calls[0].cut
    assert calls


@by_name
def test_the_grammar_allows_what_the_family_writes(format):
    structure = Structure(lambda text: False)
    functions = [Function(name, schema) for name, schema in NAMES.items()]
    simple = [("get_weather", {"city": "Rome", "days": 2}), ("stop", {})]
    text = spoken(format, simple)
    if format.arguments == "python":
        text = text.replace("'", '"')
    if format.bare:
        text = text.removeprefix(format.opening).removesuffix(format.section_end)
    text = text.removesuffix("<|call|>")
    tag = {"format": structure.answer(format, functions, required=True, several=True, content=None)}
    assert study("structural_tag", tag).check(text).accepted, text
    assert not study("structural_tag", tag).check(text.replace("get_weather", "get_water")).accepted
    free = {"format": structure.answer(format, functions, required=False, several=True, content=None)}
    words = "<|channel|>final<|message|>Hello" if format.channels else "Hello"
    words = f"{format.to_user}{format.after_name}Hello" if format.to_user else words
    assert study("structural_tag", free).check(words).accepted
    assert study("structural_tag", free).check(text).accepted


@by_name
def test_the_example_is_in_the_family_s_form(format):
    assert "<name>" in format.example()
