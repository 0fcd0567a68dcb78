"""Chat templates by name: the forms that llama.cpp's server knows by the same names."""

from __future__ import annotations

import pytest

from llamakit.chat.builtin import BUILTIN
from llamakit.chat.fit import fitted
from llamakit.chat.profile import profile
from llamakit.chat.template import ChatTemplate
from llamakit.chat.tools import FORMATS

TALK = [
    {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye."},
]  # fmt: skip


@pytest.mark.parametrize("name", BUILTIN)
def test_all_words_are_there_once_in_order(name):
    template = ChatTemplate(BUILTIN[name], bos="<s>", eos="</s>", ours=True)
    messages, _ = fitted(TALK, [], profile(template, FORMATS))
    text = template.render(messages)
    places = [text.index(message["content"]) for message in TALK]
    assert places == sorted(places)
    assert all(text.count(message["content"]) == 1 for message in TALK)
    asked = template.render(messages, add_generation_prompt=False)
    assert text.startswith(asked)
    assert not asked.rstrip().endswith("Bye.") or text != asked  # something tells whose turn it is


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llama4", "<|header_start|>user<|header_end|>\n\nHi.<|eot|><|header_start|>assistant<|header_end|>\n\n"),
        ("phi4", "<|im_start|>user<|im_sep|>Hi.<|im_end|><|im_start|>assistant<|im_sep|>"),
        ("command-r",
         "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi.<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
        ("granite",
         "<|start_of_role|>user<|end_of_role|>Hi.<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"),
        ("mistral-v3", "[INST] Hi.[/INST]"), ("mistral-v7-tekken", "[INST]Hi.[/INST]"),
        ("gpt-oss", "<|start|>user<|message|>Hi.<|end|><|start|>assistant"),
    ],
)  # fmt: skip
def test_forms(name, text):
    template = ChatTemplate(BUILTIN[name], bos="<s>", eos="</s>", ours=True)
    assert template.render([{"role": "user", "content": "Hi."}]).removeprefix("<s>") == text
