"""Whatever stands in a data file: a sample, or an error that names the place; never anything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.chat.template import FALLBACK, ChatTemplate
from llamakit.errors import DataError
from llamakit.train.data.check import runs
from llamakit.train.data.files import Place
from llamakit.train.data.records import read_records, record
from llamakit.train.mask import Encoder
from tests.unit.train.families import ALPACA, GEMMA, LLAMA2, LLAMA3, QWEN2

HERE = Place("any.jsonl", 1)
FIELDS = (
    "messages", "conversations", "prompt", "completion", "instruction", "question", "input", "output", "answer",
    "context", "text", "system", "tools",
)  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["</s>", "<|eot_id|>", "a b"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6,
)  # fmt: skip
CALLS = st.lists(
    st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": TEXTS, "arguments": JSON})}), max_size=2
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"]) | JSON, "content": TEXTS | JSON},
        optional={"tool_calls": CALLS | JSON, "weight": JSON, "reasoning_content": TEXTS | JSON, "name": JSON},
    ),
    max_size=5,
)
TOOLS = st.lists(
    st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": TEXTS}, optional={"parameters": JSON})})
)
TALKS = st.lists(st.tuples(TEXTS, TEXTS, st.none() | CALLS), min_size=1, max_size=3).map(
    lambda turns: [
        message
        for asked, said, calls in turns
        for message in (
            {"role": "user", "content": asked},
            {"role": "assistant", "content": said} | ({"tool_calls": calls} if calls else {}),
        )
    ]
)
RECORDS = (
    st.fixed_dictionaries({"messages": TALKS}, optional={"tools": TOOLS, "system": TEXTS})
    | st.fixed_dictionaries({"messages": MESSAGES}, optional={"tools": TOOLS | JSON, "system": TEXTS})
    | st.dictionaries(st.sampled_from(FIELDS), TEXTS | JSON, max_size=5)
)


def samples_of(encoder, fields):
    """The samples of a record; None where it is an error that names the place."""
    try:
        return encoder.encode(record(fields, HERE))
    except DataError as error:
        message = str(error)
    assert "any.jsonl, line 1" in message
    assert len(message) < 2000
    return None


@settings(deadline=None, max_examples=60)
@given(RECORDS, st.sampled_from(["answers", "all"]), st.sampled_from(["auto", "plain"]))
@pytest.mark.parametrize("source", [FALLBACK, LLAMA2, LLAMA3, QWEN2, GEMMA, ALPACA])
def test_records(of_bytes, source, fields, train_on, how):
    tokenizer = of_bytes(("<|eot_id|>", "<|start_header_id|>", "<|im_end|>", "<end_of_turn>"))
    encoder = Encoder(tokenizer, ChatTemplate(source, bos="<s>", eos="</s>", ours=True), how=how, train_on=train_on)
    for sample in samples_of(encoder, fields) or ():
        assert len(sample.tokens) == len(sample.weights)
        assert sample.weights.min() >= 0
        assert 0 <= sample.tokens.min() <= sample.tokens.max() < tokenizer.n_vocab
        runs(sample, tokenizer)


@settings(deadline=None, max_examples=150)
@given(
    st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["jsonl", "json", "txt", "x"]),
)
def test_files(tmp_path_factory, data, suffix):
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    path.write_bytes(data)
    bad = []
    try:
        found = list(read_records([str(path)], bad=bad))
    except DataError as error:
        found, bad = [], [error]
    assert all(f"any.{suffix}" in str(error) for error in bad)
    assert all(each.place.file == str(path) for each in found)
