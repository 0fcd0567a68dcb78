"""The structure of answers with tools, as a grammar over texts; tokens are tested where a model is run."""

from __future__ import annotations

import json

import pytest

from llamakit.chat.harmony import HarmonyReader
from llamakit.chat.reasoning import KNOWN
from llamakit.chat.tools import joined
from llamakit.chat.tools.families.cohere import COMMAND_R7B
from llamakit.chat.tools.families.gpt_oss import GPT_OSS
from llamakit.chat.tools.families.hermes import HERMES
from llamakit.chat.tools.families.llama3 import LLAMA3
from llamakit.chat.tools.families.mistral import MISTRAL, MISTRAL_ARGS
from llamakit.chat.tools.generic import GENERIC
from llamakit.chat.tools.structure import Function, Structure
from llamakit.grammar import study

X = {"properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
FUNCTIONS = [Function("f", X), Function('say "g"', None)]
F, G = '{"name": "f", "arguments": {"x": 1}}', '{"name": "say \\"g\\"", "arguments": {"y": [2]}}'
LLAMA_F = F.replace("arguments", "parameters")
HERMES_F, HERMES_G = (f"<tool_call>\n{call}\n</tool_call>" for call in (F, G))
FORM = {"type": "json_schema", "json_schema": {"type": "boolean"}}


def grammar(format, *, required=False, several=True, content=None, thought=None, inside=False):
    structure = Structure(lambda text: False)
    answer = structure.answer(format, FUNCTIONS, required=required, several=several, content=content)
    if thought:
        answer = structure.thought(KNOWN[0], answer, inside=inside)
    return study("structural_tag", {"format": answer})


@pytest.mark.parametrize(
    ("format", "how", "good", "bad"),
    [
        (HERMES, {"required": True}, [HERMES_F, HERMES_G, f"{HERMES_F}\n{HERMES_F}"], ["", f"a{HERMES_F}", F]),
        (HERMES, {"required": True, "several": False}, [HERMES_F], [f"{HERMES_F}\n{HERMES_F}"]),
        (HERMES, {}, ["", "Well.", "a < b", f"So: {HERMES_F}", F], ["<tool_call>", "<tool_call>x", f"{HERMES_F} done"]),
        (HERMES, {"content": FORM}, ["true", HERMES_F], ["", "text", f"true{HERMES_F}"]),
        (MISTRAL, {"required": True}, [f"[TOOL_CALLS][{F}]", f"[TOOL_CALLS][{F}, {G}]"], ["[TOOL_CALLS][]", F]),
        (MISTRAL, {"required": True, "several": False}, [f"[TOOL_CALLS][{F}]"], [f"[TOOL_CALLS][{F}, {G}]"]),
        (MISTRAL, {}, ["Well.", f"Well.[TOOL_CALLS][{F}]"], ["[TOOL_CALLS]"]),
        (MISTRAL_ARGS, {"required": True}, ['[TOOL_CALLS]f[ARGS]{"x": 1}' * 2], ["[TOOL_CALLS]f[ARGS]{}"]),
        (LLAMA3, {"required": True}, [LLAMA_F], [F, f"{LLAMA_F}; {LLAMA_F}", ""]),
        (LLAMA3, {}, [LLAMA_F, "", '{"a": 1}', '{"name": "h"}'], ['{"name": "f"}', ' {"name" : "f"', LLAMA_F + " "]),
        (GENERIC, {"required": True}, [F, G, f"[{F}, {G}]"], ["[]", f"{F}{F}"]),
        (GENERIC, {"required": True, "several": False}, [F], [f"[{F}]"]),
        (GENERIC, {}, [F, f"[{F}]", "text", '[{"name": "h"}]'], ['[{"name": "f"}]', f"{F} and so"]),
        (HERMES, {"required": True, "thought": True}, [f"<think>hm</think>\n\n{HERMES_F}", HERMES_F], ["<think>"]),
        (
            HERMES, {"required": True, "thought": True, "inside": True},
            [f"a <tool_call> b</think>{HERMES_F}"], [HERMES_F],
        ),
        (
            GENERIC, {"content": FORM, "thought": True, "inside": True}, [f"hm</think>\n{F}", "hm</think>\ntrue"],
            ["true", "</think>x"],
        ),
    ],
)  # fmt: skip
def test_what_an_answer_may_be(format, how, good, bad):
    found = grammar(format, **how)
    assert [text for text in good if not found.check(text).accepted] == []
    assert [text for text in bad if found.check(text).accepted] == []


def test_a_call_in_channels_may_name_its_recipient_early_or_late():
    found = grammar(GPT_OSS, required=True)
    for text in (
        '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}',
        ' to=functions.f<|channel|>commentary json<|message|>{"x": 1}',
    ):
        assert found.check(text).accepted
        for size in (1, len(text)):
            reader = HarmonyReader(GPT_OSS, {"f"})
            told = [reader.push(text[at : at + size])[2] for at in range(0, len(text), size)] + [reader.flush()[2]]
            (call,) = joined(delta for deltas in told for delta in deltas)
            assert (call.name, call.arguments, call.cut) == ("f", '{"x": 1}', False)
    assert not found.check(' to=functions.h<|channel|>commentary json<|message|>{"x": 1}').accepted


def test_lists_have_lines_as_templates_break_them():
    call = '{"tool_call_id": "0", "tool_name": "f", "parameters": {"x": 1}}'
    found = grammar(COMMAND_R7B, required=True)
    assert found.check(f"<|START_ACTION|>[\n    {call},\n    {call}\n]<|END_ACTION|>").accepted
    assert found.check(f"<|START_ACTION|>[{call}, {call}]<|END_ACTION|>").accepted


def test_tokens_of_the_vocabulary_are_named_as_such():
    structure = Structure(lambda text: text in {"[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"})

    def made(format):
        return json.dumps(structure.answer(format, FUNCTIONS[:1], required=True, several=False, content=None))

    assert '{"type": "token", "token": "[TOOL_CALLS]"}' in made(MISTRAL)
    assert '"value": "f"}, {"type": "token", "token": "[ARGS]"}' in made(MISTRAL_ARGS)
    assert '{"type": "optional", "content": {"type": "token", "token": "<|python_tag|>"}}' in made(LLAMA3)
    assert '"token"' not in made(HERMES)
