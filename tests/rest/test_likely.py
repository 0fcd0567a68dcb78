"""JSON of likeliest tokens is what encoding them one by one gives, whatever is in the texts and numbers."""

from __future__ import annotations

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from llamakit.plugins.frontends.rest.apis.llamacpp.answer import drawn, drawn_2023, scored
from llamakit.plugins.frontends.rest.likely import chosen_json, likely_json

from llamakit import _text
from llamakit.engine.request import NONE_LIKELY, Likely

PIECES = [b"", b" a", b'"', b"\\", b"\0", b"\0\0", b"\x7f", "é".encode(), b"\xc3", b"\xff\xfe", "€".encode()[:2],
          b"\n\t", "\u2028\U0001f600".encode(), b'{"id":1,"logprob":', b"0.5", b"null", b"x" * 5000]  # fmt: skip
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, -1e-320, 5e-324, 1.7976931348623157e308, 1e16, 1e22, 123456789.0, -17.25]


class Texts:
    """A tokenizer with just these texts."""

    n_vocab = len(PIECES)

    def piece(self, token, *, special):
        return PIECES[token]


def pairs(n, numbers=NUMBERS, seed=0):
    rng = random.Random(seed)
    ids = [rng.randrange(len(PIECES)) for _ in range(n)]
    return ids, [rng.choice(numbers) for _ in range(n)]


@pytest.mark.parametrize("entry", [drawn, drawn_2023, scored])
def test_as_one_by_one(entry):
    tokenizer = Texts()
    for seed in range(20):
        ids, numbers = pairs(200, seed=seed)
        written = json.loads(b"[%b]" % likely_json(tokenizer, entry, Likely.of(ids, numbers), order="sorted"))
        expected = [entry(tokenizer, *pair) for pair in zip(ids, numbers, strict=True)]
        assert written == json.loads(msgspec.json.encode(expected))
        assert [list(each) for each in written] == [sorted(each) for each in expected]
    assert likely_json(tokenizer, entry, NONE_LIKELY) == b""


def test_keys_are_in_the_order_that_is_asked_for():
    tokenizer, likely = Texts(), Likely.of([1], [0.5])
    assert list(json.loads(likely_json(tokenizer, scored, likely))) == list(scored(tokenizer, 1, 0.5))
    assert list(json.loads(likely_json(tokenizer, scored, likely, "sorted"))) == sorted(scored(tokenizer, 1, 0.5))


def test_a_chosen_token_with_the_likeliest():
    tokenizer, likely = Texts(), Likely.of([2, 3], [-0.0001, -9.5])
    found = json.loads(chosen_json(tokenizer, scored, 2, -0.0001, "top_logprobs", likely, "sorted"))
    top = [scored(tokenizer, *pair) for pair in likely]
    assert found == json.loads(msgspec.json.encode(top[0] | {"top_logprobs": top}))
    assert list(found) == sorted(found)
    none = json.loads(chosen_json(tokenizer, scored, 2, None, "top_logprobs", NONE_LIKELY))
    assert (none["logprob"], none["top_logprobs"]) == (None, [])


def test_numbers_read_back_to_the_bit():
    rng = random.Random(1)
    numbers = [
        *NUMBERS,
        *(rng.uniform(-50, 0) for _ in range(2000)),
        *(math.exp(rng.uniform(-80, 0)) for _ in range(999)),
    ]
    written = likely_json(Texts(), scored, Likely.of([0] * len(numbers), numbers))
    found = [each["logprob"] for each in json.loads(b"[%b]" % written)]
    assert all(type(number) is float for number in found)
    assert [number.hex() for number in found] == [number.hex() for number in numbers]
    for number in (math.inf, -math.inf, math.nan):  # as msgspec has them
        assert json.loads(likely_json(Texts(), scored, Likely.of([1], [number])))["logprob"] is None


def test_many_threads_at_once():
    """One makes what others are about to write; each gets what it would alone."""
    for seed in range(20):
        tokenizer, likely = Texts(), [Likely.of(*pairs(300, seed=seed + i)) for i in range(16)]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda each: likely_json(tokenizer, drawn, each), likely))  # noqa: B023
        assert found == [likely_json(Texts(), drawn, each) for each in likely]


def test_frames_refuse_what_they_do_not_know():
    frames = _text.Frames(3)
    one = Likely.of([2], [0.5])
    assert frames.missing(Likely.of([2, 0, 2], [0.0] * 3).ids) == [0, 2]
    assert frames.write(one.ids, one.numbers) is None
    frames.set(2, b"<", b">")
    frames.set(2, b"later", b"ones")
    assert frames.write(one.ids, one.numbers) == b"<0.5>"
    with pytest.raises(IndexError, match="outside the vocabulary of 3"):
        frames.missing(Likely.of([3], [0.0]).ids)
    with pytest.raises(IndexError, match="token -1 is outside"):
        frames.set(-1, b"<", b">")
    with pytest.raises(ValueError, match="begins with some text"):
        frames.set(1, b"", b">")
    with pytest.raises(ValueError, match="as many numbers"):
        frames.write(one.ids, b"")
    with pytest.raises(ValueError, match="within a number"):
        frames.write(one.ids[:3], one.numbers)


def test_likely_finds_its_numbers():
    likely = Likely.of([7, 3, 9, 4], [0.5, 0.25, 0.0, 0.0])
    assert likely.number_of(3) == 0.25
    assert likely.number_of(8) is None
    assert list(likely.positive) == [(7, 0.5), (3, 0.25)]
    assert Likely.of([7], [0.5]).positive == Likely.of([7], [0.5])
    assert list(Likely.of([7], [0.0]).positive) == []
    assert NONE_LIKELY.positive is NONE_LIKELY
