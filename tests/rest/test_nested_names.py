"""The names within a body's fields that mean nothing: which ones are found, how many, and at what cost."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import pytest
from llamakit.plugins.frontends.rest.apis.anthropic.fields import MessagesBody
from llamakit.plugins.frontends.rest.apis.ollama.fields import ChatBody as OllamaBody
from llamakit.plugins.frontends.rest.apis.openai.chat import ChatBody
from llamakit.plugins.frontends.rest.apis.responses.fields import ResponsesBody
from llamakit.plugins.frontends.rest.nested import Names, known, unknown_names
from msgspec import Meta


class Part(msgspec.Struct):
    """An object of a known class."""

    name: str = ""
    inner: Annotated[dict[str, Any], Meta(extra=known("a", b=Names({"c": None})))] = {}


class Whole(msgspec.Struct):
    """A body."""

    part: Part | None = None
    parts: Annotated[list[Part], Meta(max_length=9)] | str = []
    kinds: Annotated[list[dict[str, Any]], Meta(extra=known("type", types=("a", None)))] = []
    any: dict[str, Any] = {}


KINDS = ["kinds[].y", "kinds[].z"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"part": {"name": ""}, "parts": "text", "any": {"x": 1}}, []),
        ({"part": {"x": 1, "y": None, "inner": {"a": {"x": 1}, "z": 1}}}, ["part.x", "part.inner.z"]),
        ({"part": {"inner": {"b": [{"c": 1, "d": 1}, {"d": 1, "e": 1}]}}}, ["part.inner.b[].d", "part.inner.b[].e"]),
        ({"parts": [{"x": None}, {"x": 0}, 3, {"x": 1, "name": 1}]}, ["parts[].x"]),
        ({"kinds": [{"type": "b", "x": 1}, {"type": [], "x": 1}, {"type": "a", "y": 1}, {"z": 1}]}, KINDS),
        ({"part": [], "parts": {"x": 1}}, ["parts.x"]),
    ],
)
def test_places(values, expected):
    assert list(unknown_names(values, Whole, 9)) == expected


def test_there_are_only_so_many():
    values = {"parts": [{f"k{i}": 1} for i in range(100_000)]}
    found = unknown_names(values, Whole, 5)
    assert list(found) == [f"parts[].k{i}" for i in range(5)]


@pytest.mark.parametrize(
    ("cls", "values", "expected"),
    [
        (ChatBody, {"messages": [{"role": "", "content": [{"x": 1}], "x": 1}]}, ["messages[].x"]),
        (OllamaBody, {"messages": [{"role": "", "name": ""}], "tools": [{"x": 1}]}, ["messages[].name", "tools[].x"]),
        (ResponsesBody, {"text": {"format": {"x": 1}, "y": 1}}, ["text.y", "text.format.x"]),
        (MessagesBody, {"tools": [{"name": "", "x": 1}, {"type": "web_search", "y": 1}]}, ["tools[].x"]),
        (MessagesBody, {"thinking": {"x": 1}, "messages": [{"x": 1}]}, ["messages[].x", "thinking.x"]),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else "",
)
def test_apis(cls, values, expected):
    assert list(unknown_names(values, cls, 9)) == expected


def test_a_long_conversation_costs_little():
    """10,000 messages, the most there may be: some milliseconds of a request that takes seconds."""
    values = {"messages": [{"role": "user", "content": "text"} for _ in range(10_000)]}
    unknown_names(values, ChatBody, 9)
    began = time.thread_time()
    assert not unknown_names(values, ChatBody, 9)
    assert time.thread_time() - began < 0.05
