"""From files to samples to learn from and to validate on."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.chat.template import FALLBACK, ChatTemplate
from llamakit.errors import DataError
from llamakit.train.data.dataset import load_dataset, window_size
from llamakit.train.data.split import held_back
from llamakit.train.mask import Encoder
from llamakit.train.options import TrainOptions


@pytest.fixture
def encoder(of_bytes):
    return Encoder(of_bytes(), ChatTemplate(FALLBACK))


def lines(path, count, start=0):
    records = [{"prompt": f"{i} and ", "completion": f"{i + 1}"} for i in range(start, start + count)]
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


def contents(samples):
    return [sample.digest() for sample in samples]


def test_a_split_by_content(tmp_path, encoder):
    data = lines(tmp_path / "a.jsonl", 100)
    found = load_dataset(TrainOptions(data=[data]), encoder, 64)
    assert (len(found.train), len(found.validation)) == (95, 5)
    assert found.kinds == {"prompt": 100}
    assert found.digest == hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()
    mixed = (tmp_path / "a.jsonl").read_text().split("\n")
    (tmp_path / "b.jsonl").write_text("\n".join(mixed[::-1]))
    other = load_dataset(TrainOptions(data=[str(tmp_path / "b.jsonl")], seed=7), encoder, 64)
    assert sorted(contents(other.validation)) == sorted(contents(found.validation))
    assert other.digest != found.digest


def test_progress(tmp_path, encoder):
    told = []
    paths = [lines(tmp_path / "a.jsonl", 5), lines(tmp_path / "b.jsonl", 9)]
    load_dataset(TrainOptions(data=paths), encoder, 64, progress=lambda done, total: told.append((done, total)))
    size = sum((tmp_path / name).stat().st_size for name in ("a.jsonl", "b.jsonl"))
    assert len(told) == 14
    assert told == sorted(told)
    assert told[-1] == (size, size)


def test_few_samples_are_all_learned_from(tmp_path, encoder):
    found = load_dataset(TrainOptions(data=[lines(tmp_path / "a.jsonl", 19)]), encoder, 64)
    assert (len(found.train), len(found.validation)) == (19, 0)
    found = load_dataset(TrainOptions(data=[lines(tmp_path / "a.jsonl", 20)]), encoder, 64)
    assert (len(found.train), len(found.validation)) == (19, 1)
    found = load_dataset(TrainOptions(data=[lines(tmp_path / "a.jsonl", 20)], val_split=0.0), encoder, 64)
    assert (len(found.train), len(found.validation)) == (20, 0)


def test_validation_from_a_file(tmp_path, encoder):
    data, val = lines(tmp_path / "a.jsonl", 30), lines(tmp_path / "v.jsonl", 4, 1000)
    found = load_dataset(TrainOptions(data=[data], val_data=[val]), encoder, 64)
    assert (len(found.train), len(found.validation)) == (30, 4)
    both = (tmp_path / "a.jsonl").read_bytes() + (tmp_path / "v.jsonl").read_bytes()
    assert found.digest == hashlib.sha256(both).hexdigest()


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=20, max_size=80), st.floats(0, 0.99))
def test_what_is_validated_on_was_never_learned_from(keys, share):
    digests = [hashlib.sha256(bytes([key])).digest() for key in keys]
    back = held_back(digests, share)
    chosen = {digests[i] for i in back}
    assert back == {i for i, digest in enumerate(digests) if digest in chosen}
    assert len(back) <= max(len(keys) / 2, round(share * len(keys)))
    assert bool(back) == (bool(share) and len(set(digests)) > 1)


def test_texts_are_cut_into_windows(tmp_path, encoder):
    (tmp_path / "a.txt").write_text("".join(f"{i:04}" for i in range(250)))
    found = load_dataset(TrainOptions(data=[str(tmp_path / "a.txt")]), encoder, 20)
    assert len(found.train) + len(found.validation) == 51  # 1,002 tokens, of which one is not a target
    assert len(found.validation) == 3
    assert found.train.loss_tokens + found.validation.loss_tokens == 1001
    windows = found.windows(TrainOptions(), 20)
    assert windows.truncated == windows.lost_tokens == 0


def test_documents_are_kept_whole_for_validation(tmp_path, encoder):
    (tmp_path / "a.txt").write_text("\n\n\n".join(str(i % 10) * 50 for i in range(30)))
    found = load_dataset(TrainOptions(data=[str(tmp_path / "a.txt")], val_split=0.1), encoder, 20)
    digits = [
        {chr(t - 3) for s in part for t in s.tokens.tolist() if t > 2} for part in (found.train, found.validation)
    ]
    assert digits[1]
    assert not digits[0] & digits[1]
    assert found.duplicates == 20


def test_wrapped_texts_stay_whole(tmp_path, encoder):
    (tmp_path / "a.txt").write_text("x" * 1000)
    options = TrainOptions(data=[str(tmp_path / "a.txt")], packing="wrapped", val_split=0.0)
    found = load_dataset(options, encoder, 20)
    assert len(found.train) == 1
    assert len(found.windows(options, 20)) == 51


def test_wrapped_texts_that_are_split_have_each_token_once(tmp_path, encoder):
    (tmp_path / "a.txt").write_text("".join(f"{i:04}" for i in range(250)))
    options = TrainOptions(data=[str(tmp_path / "a.txt")], packing="wrapped")
    found = load_dataset(options, encoder, 20)
    assert len(found.validation) == 3
    assert int(found.train.lengths.sum() + found.validation.lengths.sum()) == 1002


def test_records_without_answers_are_counted(tmp_path, encoder):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "completion": ""}\n{"prompt": "a", "completion": "b"}')
    found = load_dataset(TrainOptions(data=[str(path)]), encoder, 64)
    assert (found.empty, len(found.train)) == (1, 1)


def test_truncate(tmp_path, encoder):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "p" * 100, "completion": "answer"}))
    options = TrainOptions(data=[str(path)])
    with pytest.raises(DataError, match="no sample has an answer within its first 64 tokens") as caught:
        load_dataset(options, encoder, 64).windows(options, 64)
    assert "--ctx 107" in caught.value.hint
    options = TrainOptions(data=[str(path)], truncate="start")
    windows = load_dataset(options, encoder, 64).windows(options, 64)
    assert windows.batch([0]).loss_tokens == len("answer") + 1


@pytest.mark.parametrize(("text", "what"), [
    ("", "the files are empty"),
    ("\n \n", "the files are empty"),
    ('{"prompt": "a", "completion": ""}', "none of them with an answer"),
    ('{"messages": [{"role": "user", "content": "a"}]}', "none of them with an answer"),
])  # fmt: skip
def test_nothing_to_learn_from(tmp_path, encoder, text, what):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match="there is nothing to learn from in") as caught:
        load_dataset(TrainOptions(data=[str(tmp_path / "a.jsonl")]), encoder, 64)
    assert what in str(caught.value)
    with pytest.raises(DataError, match="nothing to validate on"):
        load_dataset(
            TrainOptions(data=[lines(tmp_path / "b.jsonl", 3)], val_data=[str(tmp_path / "a.jsonl")]), encoder, 64
        )


@pytest.mark.parametrize(("asked", "n_ctx_train", "rows"), [(0, 4096, 512), (0, 128, 128), (64, 4096, 64), (0, 0, 512)])
def test_window_size(asked, n_ctx_train, rows):
    assert window_size(asked, n_ctx_train) == rows


def test_fairy_tales(test_data, vocabulary):
    tokenizer = vocabulary("llama-spm")
    made = Encoder(tokenizer, ChatTemplate(FALLBACK))
    data = str(test_data / "corpus" / "fairytale-qa-val.jsonl")
    found = load_dataset(TrainOptions(data=[data]), made, 1024)
    assert found.kinds == {"instruct": 1025}
    assert found.train.loss_tokens + found.validation.loss_tokens > 10_000
    windows = found.windows(TrainOptions(), 1024)
    assert windows.dropped == 0
    assert windows.fill > 0.97
