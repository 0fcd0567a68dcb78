"""The files of a training run: the forms that training reads, and a vocabulary that fits the world."""

from __future__ import annotations

import json

import pytest
from curriculum import write
from curriculum.mix import STAGES, examples
from curriculum.words import BY_KIND, MORE

from llamakit.chat.prompt import chat_prompt
from llamakit.chat.template import ChatTemplate
from llamakit.chat.tools import find_format
from llamakit.gguf import open_gguf
from llamakit.tokenizer import load_tokenizer
from llamakit.train.data.records import read_records
from llamakit.train.mask import Encoder


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.gguf"
    write.write_vocabulary(path, write.make_vocabulary(4096, 1, shown=500))
    metadata = open_gguf(path).metadata
    tokenizer = load_tokenizer(metadata)
    return ChatTemplate.from_metadata(metadata, tokenizer), tokenizer


def test_each_word_of_the_world_is_one_piece(vocabulary):
    _, tokenizer = vocabulary
    for words in (*BY_KIND.values(), MORE):
        assert [word for word in words if len(tokenizer.encode(word)) > 1] == []
        assert [word for word in words if len(tokenizer.encode(f" {word}")) > 1] == []


def test_examples_are_rendered_and_come_back(vocabulary):
    template, tokenizer = vocabulary
    for example in examples(STAGES[2], 2, 100):
        if example.text:
            continue
        prompt = chat_prompt(template, tokenizer, example.messages, tools=example.tools or None)
        assert tokenizer.decode(prompt.tokens, special=True) == prompt.text
        assert prompt.tokens[-1] == tokenizer.id_of("<|assistant|>")
        assert tokenizer.unk_id not in prompt.tokens
        assert len(prompt.tokens) < 512


def test_tools_are_shown_short_and_calls_are_of_the_hermes_family(vocabulary):
    template, _ = vocabulary
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {}}}
    tools = [
        {"type": "function", "function": {"name": "f", "description": "Do f", "parameters": parameters}},
        {"type": "function", "function": {"name": "g"}},
    ]
    arguments = '{"a": 1}'
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": arguments}}] * 2},
        {"role": "tool", "content": "3"},
    ]
    assert template.render(messages, tools=tools) == (
        "<s><|system|>Be kind.\nTools:\nf(a: integer, b, c): Do f\ng()<|end|><|user|>Go.<|end|><|assistant|>"
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|end|><|tool|>3<|end|><|assistant|>'
    )
    assert find_format(template.source).name == "hermes"
    messages[2]["tool_calls"] = [{"function": {"name": "f", "arguments": json.loads(arguments)}}] * 2
    assert arguments in template.render(messages, tools=None)


def test_the_files_are_what_training_reads_and_tests_are_apart(tmp_path):
    tales = tmp_path / "tales.txt"
    tales.write_text("\n".join(["A king had a son."] * 200) + "\n\n\nA second tale.\n", encoding="utf-8")
    counts = {"easy": 30, "middle": 20, "hard": 40, "long": 4, "wide": 4, "both": 4, "brief": 4}
    write.write(tmp_path / "out", seed=1, counts=counts, each=3, size=3000, tales_file=tales, shown=300)
    lines = {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (tmp_path / "out").glob("*.jsonl")
    }
    judged = {f"{use}{level}" for use in ("validation", "tests") for level in ("", "-wide", "-brief")}
    assert set(lines) == {*counts, *judged}
    assert len(lines["easy"]) == 30
    told = [record for record in lines["hard"] if "A king had a son." in record.get("text", "")]
    assert len(lines["hard"]) == 41
    assert len(told) == 1
    assert all(set(record) in ({"messages"}, {"messages", "tools"}, {"text"}) for record in lines["hard"])
    assert all({"kind", "judge", "wanted"} <= set(record) for record in lines["tests"])
    training = {json.dumps(record) for stage in counts for record in lines[stage]}
    assert not training & {json.dumps(record) for record in lines["validation"]}


def test_tales_are_cut_at_paragraphs(tmp_path):
    file = tmp_path / "tales.txt"
    file.write_text("\n".join(f"Paragraph {i} " + "x" * 300 for i in range(9)) + "\n\n\nShort.", encoding="utf-8")
    pieces = write.tales(file)
    assert all(len(piece) <= write.TALE + 320 for piece in pieces)
    assert pieces[-1] == "Short."
    assert "\n".join(pieces[:-1]).count("Paragraph") == 9
    assert all(piece.startswith("Paragraph") for piece in pieces[:-1])


def test_training_counts_the_answers_and_nothing_else(vocabulary, tmp_path):
    template, tokenizer = vocabulary
    made = [example for example in examples(STAGES[2], 3, 80) if not example.text]
    write.write_jsonl(tmp_path / "data.jsonl", (example.record() for example in made))
    encoder = Encoder(tokenizer, template)
    records = list(read_records([str(tmp_path / "data.jsonl")]))
    assert len(records) == len(made)
    for example, record in zip(made, records, strict=True):
        (sample,) = encoder.encode(record)
        counted = tokenizer.decode(sample.tokens[sample.weights > 0].tolist(), special=True)
        assert counted == "".join(answer_of(m) + "<|end|>" for m in example.messages if m["role"] == "assistant")


def answer_of(message):
    """What the model is to say, as text."""
    calls = (call["function"] for call in message.get("tool_calls", []))
    texts = (json.dumps({"name": call["name"], "arguments": call["arguments"]}) for call in calls)
    return message["content"] + "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)
