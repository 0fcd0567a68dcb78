"""Logits that stay on a device: chains choose the same tokens from the likeliest as from whole rows."""

from __future__ import annotations

import random
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from llamakit import Session, _sampling
from llamakit.backend import Buffer, LogitEdits
from llamakit.engine import device_rows, pace
from llamakit.engine.device_rows import DeviceRows
from llamakit.engine.sampling import make_chain, sample_rows
from llamakit.errors import LlamaKitError
from llamakit.gpu.memory import GPUBuffer
from llamakit.options import Options
from llamakit.registry import Registry
from llamakit.sampler import Sampler, SequenceContext

REGISTRY = Registry.discover()
N_VOCAB, N_STEP = 1000, 8


class Third(Sampler):
    """Someone's sampler in Python: only the third likeliest stays."""

    name = "third"
    Options = Options

    def enough(self):
        return 3

    def apply(self, candidates):
        top = candidates.top(3)
        candidates.replace(top.ids[2:], top.logits[2:])

    def clone(self):
        return self


class Remote(Buffer):
    """Rows that are counted when they are fetched."""

    on_host = False

    def __init__(self, data):
        self.data, self.shape, self.fetched = data, data.shape, 0

    def numpy(self):
        raise AssertionError("the whole output was fetched")

    def rows(self, rows):
        self.fetched += len(rows)
        return self.data[list(rows)]

    def top(self, rows, k, edits=None):
        n, work = self.fetched, _sampling.row_work()
        found = super().top(rows, k, edits)
        self.fetched = n
        _sampling.count_row_work(work - _sampling.row_work())  # a device did it
        return found


def chain(values, order=None):
    context = SequenceContext(n_vocab=N_VOCAB, n_ctx=64, seed=5, newline_id=3, eog_ids=frozenset({2}))
    made = make_chain(REGISTRY.samplers() | {"third": Third}, values, order, context)
    made.accept_many([1, 2, 3, 5, 5])
    made.start()
    return made


def rows(rng, n):
    """Logits with ties, of every sharpness, some with tokens that are impossible."""
    x = rng.normal(size=(n, N_VOCAB)).astype(np.float32) * rng.choice([0.05, 1, 4, 12], size=(n, 1)).astype(np.float32)
    if rng.random() < 0.5:
        x = np.round(x)
    if rng.random() < 0.3:
        x[rng.random(x.shape) < 0.4] = -np.inf
    return x


def both(x, chains):
    """Tokens, or the texts of errors, by whole rows and by a device; and how many rows the device gave."""
    remote = Remote(x)
    numbers = list(range(len(chains)))
    whole, far = (sample_rows(each, numbers, [c.clone() for c in chains]) for each in (x, DeviceRows(remote)))
    found = [[(c.token_id, c.ends, str(c.error)) for c in choices] for choices in (whole, far)]
    assert found[0] == found[1]
    return found[0], remote.fetched


def random_values(r):
    values = {}
    ranges = {
        "top_k": [0, 1, 7, 40, 300, 2000], "top_p": [1.0, 0.95, 0.3, 0.0], "min_p": [0.0, 0.05, 0.5, 1.0],
        "tfs_z": [1.0, 1.0, 1.0, 0.9], "typical_p": [1.0, 1.0, 1.0, 0.7], "temperature": [0.0, 0.8, 1.0, 3.0],
        "repeat_penalty": [1.0, 1.3, 0.7], "frequency_penalty": [0.0, 0.4], "presence_penalty": [0.0, -0.5],
        "logit_bias": [[], [(5, 9.0), (5, -1.5), (17, False)]], "mirostat": [0, 0, 0, 0, 2],
        "regex": [None, None, "[a-z ]*", "(ab)*"], "ignore_eos": [False, True],
    }  # fmt: skip
    for name, choices in ranges.items():
        values[name] = r.choice(choices)
    if values["regex"] is None or "grammar" not in REGISTRY.samplers():
        del values["regex"]
    return values


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_choose_the_same(seed):
    r, rng = random.Random(seed), np.random.default_rng(seed)
    orders = [None, None, None, ["top_p", "top_k"], ["temperature", "top_k"], ["temperature", "min_p"],
              ["third"], ["min_p", "third"], ["typical_p", "top_k"]]  # fmt: skip
    chains = []
    for _ in range(6):
        values = random_values(r)
        values.pop("regex", None)  # tokens without texts; see the test of sessions
        chains.append(chain(values, r.choice(orders)))
    for _ in range(N_STEP):
        found, _ = both(rows(rng, len(chains)), chains)
        for each, (token, *_) in zip(chains, found, strict=True):
            if token >= 0:
                each.accept(token)


@pytest.mark.parametrize(
    ("values", "order", "n"),
    [
        ({}, None, 0),
        ({"temperature": 0.0, "repeat_penalty": 1.3, "logit_bias": [(5, 3.0)]}, None, 0),
        ({"top_k": 0, "top_p": 0.9}, None, 0),
        ({"top_k": 0, "top_p": 1.0, "min_p": 0.2}, None, 0),
        ({}, ["temperature", "top_k"], 0),
        ({}, ["third"], 0),
        ({"top_k": 0, "top_p": 1.0}, None, 1),  # nothing cuts: a draw among all
        ({"typical_p": 0.5}, ["typical_p", "top_k"], 1),
    ],
)
def test_rows_are_fetched_only_where_candidates_do_not_do(values, order, n):
    x = np.random.default_rng(1).normal(size=(1, N_VOCAB)).astype(np.float32) * 6
    assert both(x, [chain(values, order)])[1] == n


def test_a_nucleus_that_is_wider_than_what_was_asked_for_needs_the_row():
    flat = np.random.default_rng(1).normal(size=(1, N_VOCAB)).astype(np.float32) * 0.1
    assert both(flat, [chain({"top_k": 0, "top_p": 0.9})])[1] == 1
    assert both(flat, [chain({"top_k": 0, "top_p": 1.0, "min_p": 0.3})])[1] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_no_logits_end_in_the_same_error(bad):
    x = np.zeros((1, N_VOCAB), np.float32)
    x[0, 7] = bad
    found, _ = both(x, [chain({})])
    assert "the model's output is not usable" in found[0][2]


def test_top_is_what_sorting_gives():
    rng = np.random.default_rng(3)
    x = np.round(rng.normal(size=(4, N_VOCAB)).astype(np.float32) * 3)
    mask = rng.integers(0, 1 << 32, -(-N_VOCAB // 32), dtype=np.uint32)
    edits = LogitEdits(
        np.array([4, 4, 9], np.int32), np.array([2, 1, 1], np.float32), np.array([0, 0.5, -np.inf], np.float32),
        np.float32(0.25), mask,
    )  # fmt: skip
    top = Remote(x).top([2, 1], 50, [None, edits])
    changed = x[1].copy()
    changed[4] = (changed[4] / 2 if changed[4] > 0 else changed[4] * 2) + np.float32(0.5)
    changed[9] = -np.inf
    changed *= np.float32(0.25)
    changed[[i for i in range(N_VOCAB) if not mask[i // 32] >> (i % 32) & 1]] = -np.inf
    for ids, values, log_sum, row in zip(*top, (x[2], changed), strict=True):
        order = np.lexsort((np.arange(N_VOCAB), -row))[:50]
        assert ids.tolist() == order.tolist()
        assert np.array_equal(values, row[order])
        assert log_sum == pytest.approx(np.log(np.exp(row, dtype=np.float64).sum()), abs=1e-6)


def test_a_session_says_the_same_when_logits_stay_on_the_device(small_model, backend_name, monkeypatch):
    requests = [
        {"seed": 3}, {"n": 2, "temperature": 1.5, "seed": 1}, {"beams": 2}, {"logprobs": 2, "temperature": 0.0},
        {"regex": "[A-Z][a-z ]+", "seed": 2}, {"regex": "(yes|no) indeed", "seed": 2},
        {"prompt_logprobs": 1, "seed": 4},
    ]  # fmt: skip

    def answers():
        with Session(small_model, backend=backend_name, threads=1, ctx_size=128, n_seq=2) as session:
            found = []
            for each in requests:
                results = session.answers("Once upon a time there was", max_tokens=12, **each)
                found += [(r.text, r.tokens, r.score, r.prompt) for r in results]
            return found

    cpu = import_module(f"{REGISTRY.backend('cpu').__module__}.device")
    buffer = cpu.CPUBuffer if backend_name == "cpu" else GPUBuffer
    monkeypatch.setattr(buffer, "on_host", True)
    expected = answers()
    monkeypatch.setattr(buffer, "on_host", False)
    assert answers() == expected


def test_errors_of_samplers_are_told_as_ever():
    x = np.zeros((1, N_VOCAB), np.float32)
    with pytest.raises(LlamaKitError):
        raise sample_rows(DeviceRows(Remote(x)), [0], [chain({"logit_bias": [(i, False) for i in range(N_VOCAB)]})])[
            0
        ].error


class Hostile(Sampler):
    """Someone's sampler, one of whose methods raises or gives what makes no sense."""

    name = "hostile"
    Options = Options
    method, action = "enough", staticmethod(lambda: 3)

    def enough(self):
        return self.do("enough", 3)

    def native(self):
        return self.do("native", None)

    def masks(self):
        return self.do("masks", self.method == "permits")

    def permits(self, token_id):
        return self.do("permits", True)

    def apply(self, candidates):
        self.do("apply", None)

    def do(self, method, usual):
        return self.action() if method == self.method and self.awake else usual

    awake = False

    def start(self):
        self.awake = True

    def clone(self):
        return self


def leave():
    raise SystemExit(3)


@pytest.mark.parametrize("action", [leave, lambda: 1 / 0, lambda: "many", lambda: 10**12, list, lambda: float("nan")])
@pytest.mark.parametrize("method", ["enough", "native", "masks", "permits", "apply"])
def test_a_hostile_sampler_ends_its_own_answer_alone(method, action):
    """What it raised ended the answers of all that were sampled in the same step."""
    rng = np.random.default_rng(3)
    x, neighbours = (
        rng.normal(size=(3, N_VOCAB)).astype(np.float32),
        [chain({"top_k": 40}), chain({"temperature": 0.0})],
    )
    cls = type("Other", (Hostile,), {"method": method, "action": staticmethod(action)})
    context = SequenceContext(n_vocab=N_VOCAB, n_ctx=64, seed=5, newline_id=3, eog_ids=frozenset({2}))
    hostile = make_chain(REGISTRY.samplers() | {"hostile": cls}, {}, ["hostile", "top_k"], context)
    hostile.start()
    alone = [each.token_id for each in sample_rows(x, [0, 2], neighbours)]
    choices = sample_rows(DeviceRows(Remote(x)), [0, 1, 2], [neighbours[0], hostile, neighbours[1]])
    assert [choices[0].token_id, choices[2].token_id] == alone
    assert choices[1].error is None or isinstance(choices[1].error, LlamaKitError)
    assert choices[1].error is not None or 0 <= choices[1].token_id < N_VOCAB


def test_one_chain_that_wants_very_many_does_not_have_them_of_all_rows(monkeypatch):
    asked, top = [], Remote.top
    monkeypatch.setattr(
        Remote, "top", lambda self, rows, k, edits=None: asked.append((len(rows), k)) or top(self, rows, k, edits)
    )
    monkeypatch.setattr(device_rows, "MOST_TOP", 100)
    x = np.random.default_rng(4).normal(size=(2, N_VOCAB)).astype(np.float32)
    chains = [chain({"top_k": 5}), chain({"top_k": 900})]
    alone = [each.token_id for each in sample_rows(x, [0, 1], [each.clone() for each in chains])]
    assert [each.token_id for each in sample_rows(DeviceRows(Remote(x)), [0, 1], chains)] == alone
    assert all(k <= 100 for _, k in asked)


class Slow(Sampler):
    """Someone's sampler in Python that computes for a millisecond, of a clock that nothing else moves."""

    name = "slow"
    Options = Options
    now, n_top = [0], 5

    def enough(self):
        return self.n_top

    def apply(self, candidates):
        self.now[0] += 1_000_000

    def clone(self):
        return self


class SlowOverRows(Slow):
    name = "slow_over_rows"
    n_top = 0


@pytest.fixture
def paced(monkeypatch):
    """Choices of chains on a device within a part of a step, and how many rows were fetched for them."""
    monkeypatch.setattr(pace, "time", SimpleNamespace(thread_time_ns=lambda: Slow.now[0]))
    monkeypatch.setattr(pace, "MOST_ROW_WORK", 100_000)
    context = SequenceContext(n_vocab=10_000, n_ctx=64, seed=5, newline_id=3, eog_ids=frozenset({2}))
    x = np.random.default_rng(1).normal(size=(40, 10_000)).astype(np.float32)
    classes = REGISTRY.samplers() | {"slow": Slow, "slow_over_rows": SlowOverRows}

    def choose(*orders, values=None):
        chains = [make_chain(classes, {"top_k": 0, **(values or {})}, order, context) for order in orders]
        numbers, remote, now = list(range(len(chains))), Remote(x), pace.Pace()
        now.begin_step()
        choices = sample_rows(DeviceRows(remote), numbers, chains, now)
        whole = sample_rows(x, numbers, chains)
        assert all(a.waits or a == b for a, b in zip(choices, whole, strict=True))
        return [not each.waits for each in choices], remote.fetched

    return choose


@pytest.mark.parametrize(("name", "n_fetched"), [("slow", 0), ("slow_over_rows", 2)])
def test_samplers_of_python_wait_on_a_device_too(paced, name, n_fetched):
    """All of them ran, whatever they took; and the rows of those that wait were fetched in each step."""
    chose, fetched = paced(*[[name, "top_k"]] * 20, values={"top_k": 5})
    assert chose == [True] * 2 + [False] * 18  # a millisecond is half of what may be done
    assert fetched == n_fetched


def test_rows_that_wait_are_not_fetched(paced):
    chose, fetched = paced(*[["typical_p"]] * 40, values={"typical_p": 0.9})
    assert 0 < sum(chose) < 24
    assert chose == sorted(chose, reverse=True)
    assert sum(chose) <= fetched <= 24  # as many at once as are fetched in vain at most


def test_who_waits_for_a_row_comes_before_later_samplers_of_python(paced):
    orders = [["typical_p"], ["slow_over_rows"], *[["slow"]] * 5, ["typical_p"], ["top_k"]]
    chose, _ = paced(*orders, values={"typical_p": 0.9, "top_k": 3})
    assert chose[:2] == [True, True]
    assert chose[2:-1].count(True) <= 1
    assert chose[-1]  # a few tokens do
