"""Samples of 2023: the fixtures' batches to the token, and every option beside a plain second writing of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llamakit import Session
from llamakit.errors import ModelFileError, UsageError
from llamakit.train.tools_2023.checkpoint import read_checkpoint
from llamakit.train.tools_2023.mt19937 import MT19937
from llamakit.train.tools_2023.samples import SampleOptions, SampleStream, cut_samples, string_hash

BOS, EOS = 1, 2


def bytewise(data: bytes) -> list[int]:
    """A token a byte."""
    return [10 + byte for byte in data]


def text_of(tokens) -> bytes:
    """The bytes again."""
    return bytes((np.asarray(tokens) - 10).tolist())


def stream(cut, n_ctx=6, options=None, **more):
    more = {"seed": 7} | more
    return SampleStream(cut, n_ctx, options or SampleOptions(), bos=BOS, eos=EOS, n_vocab=300, **more)


def test_the_generator_is_that_of_the_standard():
    """The C++ standard gives the 10000th number of the default seed."""
    assert MT19937(5489).draw(10_000)[-1] == 4123659995
    first = MT19937(1)
    assert first.text.startswith("1 1812433254 3713160357 ")
    first.draw(1000)
    again = MT19937.from_text(first.text)
    others = MT19937.from_text(" ".join(MT19937(1).text.split()[:624]))  # as libc++ writes it
    assert np.array_equal(again.draw(700), first.draw(700))
    assert np.array_equal(others.draw(700), MT19937(1).draw(700))


@pytest.mark.parametrize(
    "text", ["", "1 2 3", "x " * 624, "1 " * 624 + "625", "4294967296 " * 624, "-1 " * 624, "9" * 10_000]
)
def test_what_is_no_state_is_refused(text):
    with pytest.raises(ModelFileError):
        MT19937.from_text(text)


@pytest.fixture(scope="module")
def fixture_samples(test_data):
    folder = test_data / "fixtures" / "training"
    with Session(folder / "tiny-base-f32.gguf") as session:
        data = (folder / "data.txt").read_bytes()
        return folder, cut_samples(data, lambda text: session.tokenize(text.decode(), add_bos=False), 16)


def test_the_batches_of_the_fixtures(fixture_samples):
    folder, cut = fixture_samples
    made = SampleStream(cut, 16, SampleOptions(), bos=BOS, eos=EOS, n_vocab=32000, seed=1, filename="data.txt")
    for k in range(3):
        rows = np.loadtxt(folder / "parity" / f"batch-{k}.txt", dtype=int)
        before = made.state
        batch = made.batch(2)
        assert np.array_equal(np.stack([batch.tokens, batch.targets], 1), rows)
        assert (batch.n_sequence, batch.positions.max(), batch.loss_tokens) == (2, 15, 32)
        if k:  # the checkpoint after k updates: it was saved before the batch of evaluation k was made
            checkpoint = read_checkpoint(folder / "parity" / f"P-{k}.gguf")
            assert checkpoint.shuffle == before
            resumed = SampleStream(
                cut,
                16,
                SampleOptions(),
                bos=BOS,
                eos=EOS,
                n_vocab=32000,
                filename="data.txt",
                shuffle=checkpoint.shuffle,
            )
            assert resumed.resumed
            assert np.array_equal(resumed.batch(2).targets, batch.targets)


def test_other_data_or_a_wish_starts_the_epoch_again(fixture_samples):
    folder, cut = fixture_samples
    shuffle = read_checkpoint(folder / "parity" / "P-2.gguf").shuffle
    more = {"bos": BOS, "eos": EOS, "n_vocab": 32000, "seed": 9, "shuffle": shuffle}
    renamed = SampleStream(cut, 16, SampleOptions(), filename="other.txt", **more)
    forced = SampleStream(cut, 16, SampleOptions(), filename="data.txt", force_reshuffle=True, **more)
    for made in (renamed, forced):
        assert not made.resumed
        assert (made.next_sample, made.rng_state) == (0, MT19937(9).text)


def test_hashes_of_texts():
    """Of libstdc++ 13, std::hash<std::string>; the one of the fixtures' name is part of their samples_hash."""
    assert string_hash(b"data.txt") == 0x0499F897EAD7087A
    assert len({string_hash(b"x" * n) for n in range(20)}) == 20


def test_no_pattern():
    cut = cut_samples(b"abcdefgh", bytewise, 3)
    assert cut.begins.tolist() == [0, 1, 2, 3, 4]  # not 5, which would be the last window
    assert set(cut.sizes.tolist()) == {3}
    short = cut_samples(b"ab", bytewise, 5)
    assert (short.begins.tolist(), short.sizes.tolist()) == ([0], [2])


PATTERNS = {
    "behind": (SampleOptions(start=b"<s>"), [b"one", b"", b"two two"]),
    "at": (SampleOptions(start=b"<s>", include_start=True), [b"<s>one", b"<s>", b"<s>two two"]),
    "overlapping": (SampleOptions(start=b"<s>", overlapping=True), [b"one<s><s", b"<s>two t", b"two two"]),
}  # fmt: skip


@pytest.mark.parametrize("case", PATTERNS)
def test_patterns(case):
    options, wanted = PATTERNS[case]
    cut = cut_samples(b"before<s>one<s><s>two two", bytewise, 4, options, longest_token=2)
    parts = [text_of(cut.tokens[b : b + n]) for b, n in zip(cut.begins, cut.sizes, strict=True)]
    assert parts == wanted


def test_a_pattern_that_does_not_occur_and_what_is_said_about_sizes():
    cut = cut_samples(b"some text", bytewise, 4, SampleOptions(start=b"<s>"))
    assert (cut.begins.tolist(), cut.sizes.tolist()) == ([0], [9])
    assert "does not occur" in cut.warnings[0]
    said = cut_samples(b"-ab--cdefgh", bytewise, 4, SampleOptions(start=b"-")).warnings
    assert said == [
        "1 samples (up to 6 tokens) are longer than 4 and are cut off",
        "1 samples (down to 2 tokens) are shorter than 4",
        "1 samples are empty",
    ]  # fmt: skip
    for empty in (b"", b"-"):
        with pytest.raises(UsageError, match="training data"):
            cut_samples(empty, bytewise, 4, SampleOptions(start=b"-"))


def test_an_end_inside_a_character_moves_behind_it():
    options = SampleOptions(start=b"<s>", overlapping=True)
    for text in ("ab\u00e9x", "ab\u20acx", "ab\U0001f600x"):
        cut = cut_samples(b"<s>" + text.encode(), bytewise, 3, options)
        assert text_of(cut.tokens).decode() == text[:3]


def plain_window(order, offsets, sizes, cut, number, n_ctx, o) -> tuple[list[int], int]:
    """One window, as the description says it: the samples' tokens one after another, with what separates them."""

    def tokens(place):
        index = order[place % len(order)]
        return cut.tokens[cut.begins[index] : cut.begins[index] + sizes[index]].tolist()

    used = 1
    out = tokens(number)[offsets[number % len(order)] if o.random_offsets else 0 :]
    while o.fill_with_next and len(out) < n_ctx:
        out += [EOS] * o.separate_with_eos + [BOS] * o.separate_with_bos
        if len(out) >= n_ctx:
            break
        out += tokens(number + used) or [EOS]  # an empty sample takes one place
        used += 1
    return (out + [EOS] * n_ctx)[:n_ctx], used


FLAGS = ("fill_with_next", "separate_with_eos", "separate_with_bos", "random_offsets")


@pytest.mark.parametrize("values", list(itertools.product([False, True], repeat=4)))
def test_windows_beside_a_plain_writing(values):
    options = SampleOptions(start=b"|", **dict(zip(FLAGS, values, strict=True)))
    cut = cut_samples(b"|abc|defghijk|l||mnopq|rs|tu", bytewise, 6, options)
    made = stream(cut, 6, options)
    random = MT19937(7)
    for epochs in range(1, 4):
        order = np.argsort(random.draw(len(cut.begins)), kind="stable")
        draws = random.draw(len(order)).tolist()
        offsets = [int((max(int(cut.sizes[i]), 1) - 1) * (d / 4294967294.0)) for i, d in zip(order, draws, strict=True)]
        at = 0
        while at < len(order):
            inputs, targets = made.take(2)
            for row, (given, wanted) in enumerate(zip(inputs, targets, strict=True)):
                window, used = plain_window(order, offsets, cut.sizes, cut, at, 6, options)
                at += used
                assert wanted.tolist() == window, row
                assert given.tolist() == [BOS, *window[:-1]]
        assert (made.epochs, made.next_sample) == (epochs, 0)


def test_a_stream_goes_on_where_its_state_was():
    cut = cut_samples(b"|abc|defghijk|l|mnopq|rs|tu", bytewise, 6, SampleOptions(start=b"|"))
    options = SampleOptions(start=b"|", fill_with_next=True, random_offsets=True)
    whole, states, batches = stream(cut, 6, options), [], []
    for _ in range(9):
        states.append(whole.state)
        batches.append(whole.take(2)[1])
    for i in range(9):
        part = stream(cut, 6, options, seed=99, shuffle=states[i])
        for k in range(i, 9):
            assert np.array_equal(part.take(2)[1], batches[k])


def test_tokens_beyond_the_vocabulary_are_its_last():
    made = SampleStream(cut_samples(b"az", bytewise, 2), 2, SampleOptions(), bos=BOS, eos=EOS, n_vocab=110)
    assert made.take(1)[1].tolist() == [[107, 109]]
