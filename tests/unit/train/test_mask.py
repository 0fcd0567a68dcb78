"""Loss on answers only: for each family of templates, what is rendered, and which of it counts (between « and »)."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import datetime

import numpy as np
import pytest

from llamakit.chat.prompt import encode_messages
from llamakit.chat.template import FALLBACK, ChatTemplate
from llamakit.errors import DataError
from llamakit.train.data.files import Place
from llamakit.train.data.records import record
from llamakit.train.mask import Encoder
from tests.unit.train import families
from tests.unit.train.families import CHATML, FAMILIES, LLAMA3, TALK

HERE = Place("talks.jsonl", 7)
IM = ("<|im_start|>", "<|im_end|>")


def template(source, tokenizer):
    return ChatTemplate(source, bos=tokenizer.token_text(tokenizer.bos_id), eos=tokenizer.token_text(tokenizer.eos_id))


def encoder(source, tokenizer, **options):
    return Encoder(tokenizer, template(source, tokenizer), **options)


def marked(tokenizer, sample):
    """The text of a sample with « and » around what counts."""
    text, inside = b"", False
    for token, weight in zip(sample.tokens.tolist(), sample.weights.tolist(), strict=True):
        if bool(weight) != inside:
            text += "»".encode() if inside else "«".encode()
            inside = bool(weight)
        text += tokenizer.piece(token)
    return (text + ("»".encode() if inside else b"")).decode().replace("▁", " ")


def encoded(encode, fields):
    return [marked(encode.tokenizer, sample) for sample in encode.encode(record(fields, HERE))]


@pytest.mark.parametrize("name", FAMILIES)
def test_families(of_bytes, name):
    family = FAMILIES[name]
    made = encoder(family.template, of_bytes(family.controls, family.markers))
    fields = {"messages": family.messages or TALK} | ({"tools": family.tools} if family.tools else {})
    assert encoded(made, fields) == [text.replace("▁", " ") for text in family.expected]


# What is told of tools is fitted before; the prompt of deepseek-r1 begins a thought.
@pytest.mark.parametrize("name", [name for name, f in FAMILIES.items() if not f.tools and name != "deepseek-r1"])
def test_prompts_are_those_that_are_served(of_bytes, name):
    """Up to each answer the tokens are those that the server would give the model to answer."""
    family = FAMILIES[name]
    tokenizer = of_bytes(family.controls, family.markers)
    made = encoder(family.template, tokenizer)
    messages = family.messages or TALK
    prompts = [
        encode_messages(made.template, tokenizer, messages[:i])
        for i, message in enumerate(messages) if message["role"] == "assistant"
    ]  # fmt: skip
    starts = []
    for sample in made.encode(record({"messages": messages}, HERE)):
        tokens, weights = sample.tokens.tolist(), sample.weights
        starts += [tokens[:at] for at in np.flatnonzero((weights[1:] > 0) & (weights[:-1] == 0)) + 1]
    assert starts == prompts


@pytest.mark.parametrize("vocabulary_name", ["llama-bpe", "llama-spm", "phi-3"])
@pytest.mark.parametrize("text", ["Hello!", " leading", "two\nlines\n", "É日本 🙂", "</s> <|eot_id|>"])
def test_with_real_vocabularies(vocabulary, vocabulary_name, text):
    """What counts is the answer and the end of the turn, whatever the vocabulary makes of the text."""
    tokenizer = vocabulary(vocabulary_name)
    source = {"llama-bpe": LLAMA3, "llama-spm": families.LLAMA2, "phi-3": families.PHI3}[vocabulary_name]
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]
    (sample,) = encoder(source, tokenizer).encode(record({"messages": talk}, HERE))
    counted = [t for t, w in zip(sample.tokens.tolist(), sample.weights.tolist(), strict=True) if w]
    assert counted[-1] in tokenizer.eog_ids
    assert not any(tokenizer.is_control(token) for token in counted[:-1])
    said = tokenizer.decode(counted, special=False)
    assert said.strip() == (text.strip() if vocabulary_name != "phi-3" else said.strip())
    assert re.sub(r"\s", "", said) == re.sub(r"\s", "", text)


def test_weights_of_messages(of_bytes):
    talk = [dict(message) for message in TALK]
    talk[2]["weight"] = 0
    made = encoder(CHATML, of_bytes(IM))
    (text,) = encoded(made, {"messages": talk})
    assert text.count("«") == 1
    assert "«Fine.<|im_end|>»" in text
    talk[2]["weight"], talk[4]["weight"] = 0.25, 1
    (sample,) = made.encode(record({"messages": talk}, HERE))
    assert set(sample.weights.tolist()) == {0.0, 0.25, 1.0}


def test_on_all(of_bytes):
    talk = [*TALK, {"role": "user", "content": "Bye"}]
    (text,) = encoded(encoder(CHATML, of_bytes(IM), train_on="all"), {"messages": talk})
    assert text.startswith("«<s><|im_start|>system\nBe brief.")
    assert text.endswith("Bye<|im_end|>\n»")
    (text,) = encoded(encoder(FALLBACK, of_bytes(), how="chat", train_on="all"), {"prompt": "Hi", "completion": "Oh"})
    assert text == "«<s>User: Hi\nAssistant: Oh\n</s>»"


def test_nothing_to_learn(of_bytes):
    made = encoder(CHATML, of_bytes(IM))
    assert encoded(made, {"messages": TALK[:2]}) == []
    assert encoded(made, {"messages": [TALK[1], {"role": "assistant", "content": ""}]}) == []
    assert encoded(made, {"text": " \n"}) == []
    plain = encoder(FALLBACK, of_bytes())
    assert encoded(plain, {"prompt": "x", "completion": ""}) == []


def test_an_answer_that_comes_first(of_bytes):
    talk = [{"role": "assistant", "content": "Hello!"}, *TALK[1:2], *TALK[4:]]
    (text,) = encoded(encoder(families.PHI4, of_bytes((*IM, "<|im_sep|>"))), {"messages": talk})
    assert text.endswith("«Fine.<|im_end|>»")
    assert "Hello!<|im_end|>»" in text


@pytest.mark.parametrize("fields", [
    {"prompt": "What is it?", "completion": "A cat."},
    {"question": "What is it?", "answer": "A cat."},
    {"messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat."}]},
])  # fmt: skip
def test_all_kinds_of_questions_go_through_the_template(of_bytes, fields):
    assert encoded(encoder(CHATML, of_bytes(IM)), fields) == [
        "<s><|im_start|>system\nYou are a helper.<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n"
        "<|im_start|>assistant\n«A cat.<|im_end|>»\n"
    ]


@pytest.mark.parametrize(("fields", "wanted"), [
    ({"prompt": "Once ", "completion": "upon"}, ["<s>Once «upon</s>»"]),
    ({"system": "S", "prompt": "Once ", "completion": "upon"}, ["<s>S\n\nOnce «upon</s>»"]),
    ({"context": "A cat.", "question": "What?", "answer": "A cat"}, ["<s>A cat.\n\nWhat?\n\n«A cat</s>»"]),
    ({"text": "Once upon"}, ["«<s>Once upon</s>»"]),
    ({"messages": TALK}, [
        "<s>Be brief.\nUser: Hi\nAssistant:« Hello!</s>»",
        "<s>Be brief.\nUser: Hi\nAssistant: Hello!\nUser: And you?\nAssistant:« Fine.</s>»",
    ]),
])  # fmt: skip
def test_a_model_without_a_template_or_plain(of_bytes, fields, wanted):
    tokenizer = of_bytes(IM)
    assert encoded(encoder(FALLBACK, tokenizer), fields) == wanted
    assert encoded(encoder(CHATML, tokenizer, how="plain"), fields) == wanted


def test_the_plain_template_where_it_is_asked_for(of_bytes):
    made = encoder(FALLBACK, of_bytes(), how="chat")
    assert encoded(made, {"prompt": "Hi", "completion": "Hello"}) == ["<s>User: Hi\nAssistant:« Hello</s>»"]


def test_control_tokens_in_messages_are_text(of_bytes):
    tokenizer = of_bytes(IM)
    talk = [{"role": "user", "content": "x<|im_end|>"}, {"role": "assistant", "content": "a<|im_end|>b"}]
    (sample,) = encoder(CHATML, tokenizer).encode(record({"messages": talk}, HERE))
    assert marked(tokenizer, sample).endswith("«a<|im_end|>b<|im_end|>»\n")
    controls = [t for t in sample.tokens.tolist() if tokenizer.is_control(t)]
    assert len(controls) == 7  # <s>, and two around each of three messages


def test_the_day_is_always_the_same(of_bytes):
    tokenizer = of_bytes(families.LLAMA3_TOKENS)
    made = encoder(LLAMA3, tokenizer)
    (text,) = encoded(made, {"messages": TALK[1:3], "tools": families.TOOLS})
    assert "Today Date: 26 Jul 2024" in text
    assert datetime.now().strftime("%d %b %Y") not in text


def test_a_template_that_refuses_names_the_record(of_bytes):
    talk = [*TALK[:2], {"role": "critic", "content": "x"}, TALK[2]]
    with pytest.raises(DataError, match=r"talks.jsonl, line 7: .*only user and assistant"):
        encoder(families.MISTRAL, of_bytes()).encode(record({"messages": talk}, HERE))


def test_a_template_that_rewrites_the_question_is_refused(of_bytes):
    source = (
        "{% for m in messages %}{{ (loop.length if m.role == 'user' else '') ~ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}Answer: {% endif %}"
    )
    with pytest.raises(DataError, match=r"line 7: .*in another way once it is there"):
        encoder(source, of_bytes()).encode(record({"messages": TALK[1:3]}, HERE))
    assert encoded(encoder(source, of_bytes(), train_on="all"), {"messages": TALK[1:3]})


@pytest.mark.parametrize("depth", [400, 900])
@pytest.mark.parametrize("where", ["tools", "arguments"])
def test_what_is_nested_too_deeply_is_an_error_of_the_record(of_bytes, where, depth):
    """Whatever a template or an encoder makes of it: samples, or the record's error."""
    deep = json.loads('{"a":' * depth + "1" + "}" * depth)
    call = {"name": "f", "arguments": deep if where == "arguments" else {}}
    fields = {
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"function": call}]}],
        "tools": [{"name": "f", "parameters": deep if where == "tools" else {}}],
    }
    for family in FAMILIES.values():
        made = encoder(family.template, of_bytes(family.controls, family.markers))
        with contextlib.suppress(DataError):
            assert made.encode(record(fields, HERE))
