"""Calls of tools are told from text, wherever it is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit.tokenizer.tool_calls import ToolCall, ToolCallSplitter, forced_beginning

NAMES = {"f", "g"}
F = ToolCall("f", '{"x":1}')
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


def run(text, cuts=()):
    splitter = ToolCallSplitter(NAMES)
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    told = [splitter.push(text[a:b]) for a, b in itertools.pairwise(edges)] + [splitter.flush()]
    return "".join(shown for shown, _ in told), [call for _, calls in told for call in calls]


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        (CALL, "", [F]),
        ("Let me look.\n" + CALL, "Let me look.", [F]),
        (CALL + "\n" + CALL + " done", "done", [F, F]),
        ('{"name": "f", "parameters": {"x": 1}}', "", [F]),
        ('[{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]', "", [F, ToolCall("g", "{}")]),
        ('{"name": "g"}', "", [ToolCall("g", "{}")]),
        ('{"name": "f", "arguments": "{\\"x\\":1}"}', "", [F]),
        ('{"name": "unknown", "arguments": {}}', '{"name": "unknown", "arguments": {}}', []),
        ('{"some": "json"}', '{"some": "json"}', []),
        ("<tool_call>broken</tool_call> x", "<tool_call>broken</tool_call> x", []),
        ('<tool_call>{"name": "f", "arguments": {"x": 1}}', "", [F]),
        ("<tool_call>cut", "<tool_call>cut", []),
        ("a < b <tool", "a < b <tool", []),
        ("plain ", "plain ", []),
        ("", "", []),
        ('{"name": "f", "arguments": [1]}', '{"name": "f", "arguments": [1]}', []),
    ],
)
def test_answers(text, shown, calls):
    assert run(text) == (shown, calls)


PIECES = st.sampled_from([CALL, "<tool_call>", "</tool_call>", '{"name": "f"}', "<", "tool", " ", "\n", "a", "{", "["])


@given(parts=st.lists(PIECES, max_size=8), cuts=st.lists(st.integers(0, 200)))
def test_pieces_together_are_the_whole(parts, cuts):
    text = "".join(parts)
    assert run(text, cuts) == run(text)


@pytest.mark.parametrize("source", ["<tool_call>", '{"name": x, "parameters": y}', ""])
@pytest.mark.parametrize("name", ["f", None])
def test_a_forced_beginning_begins_a_call(source, name):
    text = forced_beginning(source, name)
    rest = '{"x": 1}}' if name else 'f", "arguments": {"x": 1}}'
    assert run(text + rest + ("</tool_call>" if "<tool_call>" in source else "")) == ("", [F])
