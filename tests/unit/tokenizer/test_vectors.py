"""The published vectors, round trips and hostile texts on real vocabularies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamakit.errors import UsageError
from llamakit.tokenizer import TokenType

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llamakit.tokenizer import Tokenizer

    Load = Callable[[str], Tokenizer]

NAMES = ("llama-spm", "phi-3", "gpt-2", "llama-bpe", "falcon")
SEPARATOR = b"\n__ggml_vocab_test__\n"


@pytest.mark.parametrize("name", NAMES)
def test_published_vectors(name: str, vocabulary: Load, test_data: Path) -> None:
    base = test_data / "vocab" / f"ggml-vocab-{name}.gguf"
    texts = base.with_name(base.name + ".inp").read_bytes().split(SEPARATOR)
    expected = [[int(i) for i in line.split()] for line in base.with_name(base.name + ".out").read_text().split("\n")]
    tokenizer = vocabulary(name)
    assert len(texts) >= 46
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode_bytes(ids) == text


@pytest.mark.parametrize("name", [name for name in NAMES if name != "falcon"])
def test_any_bytes_come_back(name: str, vocabulary: Load) -> None:
    """Not so in Falcon's vocabulary, which has no token for some bytes and drops them."""
    tokenizer = vocabulary(name)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=60))
    def check(data: bytes) -> None:
        data = data.replace("\u2581".encode(), b"")  # stands for a space in SPM, so it cannot come back as itself
        ids = tokenizer.encode(data)
        assert tokenizer.decode_bytes(ids) == data
        stream = tokenizer.detokenizer()
        assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)

    check()


@pytest.mark.parametrize("name", ["llama-spm", "gpt-2", "llama-bpe", "falcon"])
@pytest.mark.parametrize("unit", ["a", " ", "7", "\N{GRINNING FACE}", "\n", " a", "'", "\u0301"])
def test_long_runs_take_linear_time(name: str, unit: str, vocabulary: Load) -> None:
    tokenizer = vocabulary(name)

    def seconds(size: int) -> float:
        started = time.process_time()
        assert tokenizer.decode(tokenizer.encode(unit * size)) == unit * size
        return time.process_time() - started

    small, large = seconds(20_000), seconds(200_000)
    assert large < 40 * small + 0.5  # quadratic time would be 100 times as much


def test_special_tokens_only_when_asked_for(vocabulary: Load) -> None:
    tokenizer = vocabulary("llama-bpe")
    text = "a<|eot_id|>b"
    assert tokenizer.eot_id == 128009
    assert tokenizer.eot_id not in tokenizer.encode(text)
    ids = tokenizer.encode(text, add_special=True, parse_special=True)
    assert ids == [128000, 64, 128009, 65]
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, special=True) == "<|begin_of_text|>a<|eot_id|>b"


def test_space_prefix_follows_special_tokens(vocabulary: Load) -> None:
    tokenizer = vocabulary("llama-spm")
    ids = tokenizer.encode("x<s>y", parse_special=True)
    assert [tokenizer.token_text(i) for i in ids] == ["▁x", "<s>", "▁y"]
    assert tokenizer.decode(ids, special=True) == "x<s>y"
    assert tokenizer.decode(ids) == "x y"


def test_phi3_swallows_space_after_special_tokens(vocabulary: Load) -> None:
    tokenizer = vocabulary("phi-3")
    spaced = tokenizer.encode("<|user|>  hi<|end|>\n", parse_special=True)
    assert spaced == tokenizer.encode("<|user|>hi<|end|>", parse_special=True)


def test_detokenizer_continues_a_prompt(vocabulary: Load) -> None:
    tokenizer = vocabulary("llama-spm")
    prompt, rest = tokenizer.encode("Once", add_special=True), tokenizer.encode("upon")
    stream = tokenizer.detokenizer(prompt)
    assert "".join(map(stream.push, rest)) == " upon"
    fresh = tokenizer.detokenizer(prompt[:1])
    assert "".join(map(fresh.push, rest)) == "upon"


def test_unfinished_characters_wait(vocabulary: Load) -> None:
    tokenizer = vocabulary("llama-spm")
    stream = tokenizer.detokenizer()
    ids = [tokenizer.id_of(f"<0x{byte:02X}>") for byte in "😀".encode()]
    shown = [stream.push(i) for i in ids if i is not None]
    assert shown == ["", "", "", "😀"]
    assert not stream.pending
    assert stream.push(ids[0] or 0) == ""
    assert stream.pending
    assert stream.flush() == "\ufffd"


def test_ids_outside_the_vocabulary(vocabulary: Load) -> None:
    tokenizer = vocabulary("gpt-2")
    for bad in (-1, tokenizer.n_vocab, 2**40):
        with pytest.raises(UsageError, match=f"0 to {tokenizer.n_vocab - 1}"):
            tokenizer.decode([bad])
    assert tokenizer.token_type(50256) is TokenType.CONTROL
