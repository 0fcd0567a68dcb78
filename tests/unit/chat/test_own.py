"""Our own chat template: what it writes, and that it needs no other process."""

from __future__ import annotations

import pytest

from llamakit.chat import worker_pool
from llamakit.chat.own import CONTROL, MARKERS, own_template
from llamakit.chat.template import ChatTemplate
from llamakit.chat.tools import find_format
from llamakit.errors import ModelFileError

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
CALL = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


@pytest.fixture
def template(monkeypatch):
    def refuse(*_):
        raise AssertionError("another process was asked")

    monkeypatch.setattr(worker_pool.pool, "ask", refuse)
    return ChatTemplate(own_template(), bos="<s>", eos="</s>")


def test_turns_stand_between_their_role_and_the_end(template):
    assert template.render(TALK) == ("<s><|user|>Hi<|end|><|assistant|>Hello<|end|><|user|>Bye<|end|><|assistant|>")
    assert template.render(TALK[:2], add_generation_prompt=False).endswith("<|assistant|>Hello<|end|>")
    assert template.render([{"role": "system", "content": "Be kind."}, *TALK[:1]]).startswith(
        "<s><|system|>Be kind.<|end|><|user|>"
    )


def test_a_prompt_begins_with_the_prompt_before_it(template):
    """So that what is known of a conversation is used again, and training finds where answers begin."""
    whole = template.render(TALK)
    assert whole.startswith(template.render(TALK[:1]))


@pytest.mark.parametrize("tools", [None, [], [{"type": "function", "function": {"name": "f"}}]])
@pytest.mark.parametrize("content", [None, "", "Let me see."])
def test_calls_stand_behind_the_text(template, tools, content):
    text = template.render(
        [*TALK[:1], {"role": "assistant", "content": content, "tool_calls": [CALL, CALL]}], tools=tools
    )
    one = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    between = "\n" if content else ""
    assert f"<|assistant|>{content or ''}{between}{one}\n{one}<|end|>" in text
    assert ("Tools:\nf()" in text) == bool(tools)


def test_its_tokens_are_the_ones_it_writes():
    source = own_template()
    assert all(marker in source for marker in MARKERS)
    assert {"<|end|>", "<|system|>"} <= set(CONTROL)
    assert find_format(source).name == "hermes"


def test_a_template_that_differs_is_a_strangers():
    with pytest.raises(ModelFileError):
        ChatTemplate(own_template() + "{% if %}")
