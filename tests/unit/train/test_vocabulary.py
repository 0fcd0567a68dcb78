"""Trained vocabularies: read by our tokenizer, with the same tokens as sentencepiece's own."""

from __future__ import annotations

import io
import random
import sys

import pytest
import sentencepiece

from llamakit.chat.prompt import chat_prompt
from llamakit.chat.template import ChatTemplate
from llamakit.errors import DataError, LlamaKitError, UsageError
from llamakit.gguf import open_gguf
from llamakit.gguf.writer import GGUFWriter
from llamakit.tokenizer import load_tokenizer
from llamakit.tokenizer.tokenizer import TokenType
from llamakit.train import vocabulary
from llamakit.train.vocabulary import LONGEST_LINE, _Lines, add_vocabulary, train_vocabulary

TEXT = [
    f"The {a} {b} saw {n} ships\non the far sea, été {n}."
    for n in range(60)
    for a in ("old", "young")
    for b in ("man", "cat")
]
CONTROL = ("<|user|>", "<|assistant|>", "<|end|>")
MARKERS = ("<tool_call>",)
PARTS = [
    "The",
    " old",
    "man",
    "  ",
    "\n",
    "é",
    "中",
    "😀",
    "1234",
    "<tool_call>",
    "<|user|>",
    " ships",
    "'",
    "\t",
    "x",
    "▁",
]


@pytest.fixture(scope="module")
def trained():
    return train_vocabulary(TEXT, 350, control=CONTROL, user_defined=MARKERS)


def loaded(tmp_path, vocabulary, template=""):
    with GGUFWriter(tmp_path / "v.gguf") as writer:
        writer.add("general.architecture", "llama")
        add_vocabulary(writer, vocabulary, template)
    metadata = open_gguf(tmp_path / "v.gguf").metadata
    return load_tokenizer(metadata), metadata


def test_texts_come_back_and_are_encoded_as_sentencepiece_does(tmp_path, trained):
    tokenizer, _ = loaded(tmp_path, trained)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(vocabulary._Lines(TEXT)), model_writer=model, vocab_size=350,
        control_symbols=list(CONTROL),
        user_defined_symbols=list(MARKERS), num_threads=1, **vocabulary._fixed(),
    )  # fmt: skip
    judge = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    rng = random.Random(1)
    for _ in range(500):
        text = "".join(rng.choices(PARTS, k=rng.randrange(1, 12)))
        if "▁" in text:  # stands for a space in sentencepiece
            text = text.replace("▁", " ")
        assert tokenizer.encode(text) == judge.encode(text), text
        assert tokenizer.decode(tokenizer.encode(text), special=True) == text


def test_special_tokens_have_their_roles(tmp_path, trained):
    tokenizer, _ = loaded(tmp_path, trained)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)
    end = tokenizer.id_of("<|end|>")
    assert tokenizer.eot_id == end
    assert {2, end} <= tokenizer.eog_ids
    assert tokenizer.is_control_text("<|user|>")
    assert tokenizer.token_type(tokenizer.id_of("<tool_call>")) is TokenType.USER_DEFINED
    assert tokenizer.encode("<|user|>", parse_special=True) == [tokenizer.id_of("<|user|>")]
    assert len(tokenizer.encode("<|user|>")) > 1
    assert tokenizer.n_vocab == 350
    assert not tokenizer.add_space_prefix
    assert tokenizer.add_bos


def test_frequent_words_and_single_digits_are_pieces(tmp_path, trained):
    tokenizer, _ = loaded(tmp_path, trained)
    assert len(tokenizer.encode(" young")) == 1
    assert len(tokenizer.encode("12")) == 2


def test_the_template_goes_with_it(tmp_path, trained):
    source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
    tokenizer, metadata = loaded(tmp_path, trained, source)
    prompt = chat_prompt(
        ChatTemplate.from_metadata(metadata, tokenizer), tokenizer, [{"role": "user", "content": "a <|end|>"}]
    )
    assert prompt.tokens.count(tokenizer.id_of("<|end|>")) == 1
    assert prompt.tokens[:2] == [1, tokenizer.id_of("<|user|>")]


def test_a_space_prefix_is_remembered(tmp_path):
    made = train_vocabulary(TEXT, 340, space_prefix=True)
    tokenizer, _ = loaded(tmp_path, made)
    assert tokenizer.add_space_prefix
    assert tokenizer.decode(tokenizer.encode("The man")) == "The man"


@pytest.mark.parametrize("size", [0, 200, 263])
def test_a_size_without_room_is_refused(size):
    with pytest.raises(UsageError, match="no room for pieces"):
        train_vocabulary(TEXT, size, control=CONTROL, user_defined=MARKERS)


def test_a_size_that_the_texts_do_not_fill_is_refused():
    with pytest.raises(UsageError, match="no vocabulary of 9000 tokens"):
        train_vocabulary(["a few words"], 9000)


def test_what_is_wrong_with_a_text_is_told_as_it_is():
    def texts():
        yield "a text"
        raise DataError("d.jsonl, line 7: this is not JSON")

    with pytest.raises(DataError, match="^d.jsonl, line 7: this is not JSON$"):
        train_vocabulary(texts(), 300)


def test_lines_that_are_too_long_are_cut_between_words():
    """They were left out, and if all were long the texts were said to be empty."""
    lines = list(_Lines(["once upon a time " * 9000 + "\n" + "x" * 20_000]))
    assert all(len(line.encode()) <= LONGEST_LINE for line in lines)
    assert "".join(lines) == "once upon a time " * 9000 + "x" * 20_000
    assert all(line.startswith((" ", "once", "x")) for line in lines)
    long = " ".join(TEXT).replace("\n", " ") * (1 + LONGEST_LINE // len(" ".join(TEXT)))
    assert len(train_vocabulary([long], 300).pieces) == 300


def test_no_texts_are_refused():
    with pytest.raises(UsageError, match="no vocabulary of 400 tokens"):
        train_vocabulary([], 400)


def test_without_sentencepiece_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(LlamaKitError, match=r"llamakit\[train\]"):
        train_vocabulary(TEXT, 400)
