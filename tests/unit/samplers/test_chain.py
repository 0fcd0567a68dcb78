"""Chains: order, copies, other people's samplers, rows that fail."""

from __future__ import annotations

import numpy as np
import pytest

from llamakit.engine.sampling import SamplerChain, make_chain, probabilities, sample_rows
from llamakit.errors import LlamaKitError, PluginError, UsageError
from llamakit.options import Options
from llamakit.registry import Registry
from llamakit.sampler import Sampler, SequenceContext, Stage

CLASSES = Registry.discover().samplers()
N_VOCAB = 1000


class OnlyEven(Sampler):
    """Masks odd tokens, remembers how many it saw: what a grammar does."""

    name = "only_even"
    Options = Options
    stage = Stage.LOGITS

    def __init__(self, options, context):
        super().__init__(options, context)
        self.seen: list[int] = []

    def apply(self, candidates):
        bits = np.full(-(-candidates.n_vocab // 32), 0x55555555, np.uint32)
        candidates.mask(bits)

    def accept(self, token_id):
        self.seen.append(token_id)

    def clone(self):
        other = OnlyEven(self.options, self.context)
        other.seen = list(self.seen)
        return other


class Broken(OnlyEven):
    name = "broken"

    def apply(self, candidates):
        raise ZeroDivisionError("oops")


def chain(order=None, seed=1, choice=0, **values) -> SamplerChain:
    context = SequenceContext(n_vocab=N_VOCAB, n_ctx=64, seed=seed, choice=choice, newline_id=3, eog_ids=frozenset({2}))
    return make_chain(CLASSES | {"only_even": OnlyEven, "broken": Broken}, values, order, context)


def logits(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=N_VOCAB).astype(np.float32) * 3


def tokens(c: SamplerChain, n: int) -> list[int]:
    found = []
    for i in range(n):
        found.append(c.sample(logits(i)))
        c.accept(found[-1])
    return found


@pytest.mark.parametrize(
    ("order", "values", "names"),
    [
        (None, {}, ["top_k", "top_p", "temperature", "dist"]),
        (
            None,
            {"repeat_penalty": 1.1, "tfs_z": 0.9, "min_p": 0.1},
            ["penalties", "top_k", "tfs_z", "top_p", "min_p", "temperature", "dist"],
        ),
        (None, {"temperature": 0.0, "ignore_eos": True}, ["logit_bias", "greedy"]),
        (None, {"mirostat": 2}, ["temperature", "mirostat"]),
        (["temperature", "top_k"], {}, ["temperature", "top_k", "dist"]),
        (["only_even", "top_k", "greedy"], {}, ["only_even", "top_k", "greedy"]),
    ],
)
def test_order(order, values, names):
    assert chain(order, **values).names == names


@pytest.mark.parametrize(
    ("order", "values", "message"),
    [
        (["top_k", "typcal_p"], {}, r"no sampler named .typcal_p. \(number 2 of samplers\)\n  found   typical_p"),
        (["dist", "top_k"], {}, "must be the only chooser and the last"),
        (["top_k", "top_k"], {}, "named twice"),
        (None, {"temprature": 1.0}, r"no sampler option .temprature.\n  found   temperature is nearest"),
        (None, {"top_p": 1.5}, r"top_p is 1.5; possible: 0(\.0)?..1"),
        (None, {"top_k": "many"}, 'top_k is "many"'),
        (None, {"logit_bias": [(5000, 1.0)]}, "token 5000 is outside the vocabulary"),
    ],
)
def test_what_is_wrong_is_said(order, values, message):
    with pytest.raises(UsageError, match=message):
        chain(order, **values)


def test_seeds_and_choices_differ_and_repeat():
    assert tokens(chain(seed=1), 30) == tokens(chain(seed=1), 30)
    assert tokens(chain(seed=1), 30) != tokens(chain(seed=2), 30)
    assert tokens(chain(seed=1), 30) != tokens(chain(seed=1, choice=1), 30)


@pytest.mark.parametrize(
    "values", [{}, {"mirostat": 1}, {"mirostat": 2}, {"repeat_penalty": 1.3, "frequency_penalty": 0.4}]
)
@pytest.mark.parametrize("order", [None, ["only_even", "top_k", "temperature"]])
def test_a_clone_goes_its_own_way(values, order):
    c = chain(order, **values)
    tokens(c, 5)
    other = c.clone()
    expected = tokens(c, 20)
    assert tokens(other, 20) == expected
    c.reset()
    tokens(c, 5)
    assert tokens(c, 20) == expected


def test_looking_changes_nothing():
    plain, looked = chain(None, mirostat=2), chain(None, mirostat=2)
    found = []
    for i in range(10):
        for _ in range(3):
            looked.sample(logits(i))
        found.append(looked.sample(logits(i)))
        looked.accept(found[-1])
    assert found == tokens(plain, 10)


def test_a_python_sampler_masks_in_the_middle_of_native_ones():
    c = chain(["only_even", "top_k", "temperature"], top_k=20)
    assert c.stages is None
    assert all(token % 2 == 0 for token in tokens(c, 50))
    assert len(c.samplers[0].seen) == 50


def test_a_sampler_that_raises_ends_its_own_row_only():
    good, bad = chain(), chain(["broken", "top_k"])
    x = np.stack([logits(0), logits(1)])
    choices = sample_rows(x, [0, 1], [bad, good])
    assert isinstance(choices[0].error, PluginError)
    assert "sampler 'broken' failed: ZeroDivisionError: oops" in str(choices[0].error)
    assert choices[1].error is None
    assert choices[1].token_id == chain().sample(logits(1))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 0.0},
        {"mirostat": 1},
        {"mirostat": 2},
        {"top_k": 0, "top_p": 1.0, "typical_p": 0.5, "tfs_z": 0.5, "min_p": 0.1},
    ],
)
def test_hard_rows(values):
    one = np.full(N_VOCAB, -np.inf, np.float32)
    one[7] = 0.0
    assert chain(None, **values).sample(one) == 7
    zero_probability = np.full(N_VOCAB, -1e30, np.float32)
    zero_probability[9] = 1e30
    assert chain(None, **values).sample(zero_probability) == 9
    assert 0 <= chain(None, **values).sample(np.zeros(N_VOCAB, np.float32)) < N_VOCAB
    with pytest.raises(LlamaKitError, match=r"no token is left|NaN"):
        chain(None, **values).sample(np.full(N_VOCAB, -np.inf, np.float32))
    bad = logits()
    bad[N_VOCAB - 1] = np.nan
    with pytest.raises(LlamaKitError, match="NaN"):
        chain(None, **values).sample(bad)


def test_ignore_eos_and_bans():
    x = np.zeros(N_VOCAB, np.float32)
    x[2], x[5] = 50, 40
    assert chain(None, temperature=0.0).sample(x) == 2
    assert chain(None, temperature=0.0, ignore_eos=True).sample(x) == 5
    assert chain(None, temperature=0.0, ignore_eos=True, logit_bias=[(5, False)]).sample(x) == 0
    assert chain(None, temperature=0.0, logit_bias=[(11, 100.0)]).sample(x) == 11


def test_log_probabilities_are_of_the_plain_softmax():
    x = logits()
    expected = x - np.log(np.exp(x.astype(np.float64)).sum())
    logprob, top = probabilities(x, 17, 5)
    assert logprob == pytest.approx(expected[17], abs=1e-5)
    assert [token_id for token_id, _ in top] == np.argsort(-x, kind="stable")[:5].tolist()
    assert [logprob for _, logprob in top] == pytest.approx(sorted(expected, reverse=True)[:5], abs=1e-5)
