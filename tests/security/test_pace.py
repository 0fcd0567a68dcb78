"""Grammars and rows of many answers together never hold up a step: those beyond its work wait, and lose nothing."""

from __future__ import annotations

import gc
import random
from types import SimpleNamespace

import pytest

from llamakit.engine import beams, engine, pace
from llamakit.engine.job import Finished, Job
from llamakit.engine.request import Guidance, Request
from llamakit.engine.sequence import Sequence
from llamakit.engine.speculation import NGramDrafter
from llamakit.sampler import Sampler
from llamakit.session import Session


def request(kind, seed):
    """A request of a kind; no two are the same."""
    kinds = {"n": {"n": 3, "best_of": 3}, "beams": {"beams": 3, "n": 2}, "guided": {"guidance": Guidance([1, 5], 1.5)}}
    return Request(
        prompt=[1, *range(5, 9 + seed)], options={"temperature": 1.0, "top_k": 5}, seed=seed, max_tokens=12,
        ignore_eos=True, logprobs=3 if seed % 2 else None, **kinds.get(kind, {}),
    )  # fmt: skip


def answers(events):
    return {e.choice: (e.result.tokens, e.result.text) for e in events if isinstance(e, Finished)}


@pytest.mark.parametrize("seed", range(6))
def test_who_waits_gets_the_same_answer(hash_model, monkeypatch, seed):
    """As if every answer had a grammar and a wide row, and steps were over at random."""
    asked = [request(kind, i) for i, kind in enumerate(("plain", "n", "beams", "guided", "plain", "beams", "n"))]
    alone = [answers(hash_model.make_engine(n_block=500).run(Job(each))) for each in asked]
    chance, held, hold = random.Random(seed), [], pace.Pace.hold
    for module in (engine, pace):
        monkeypatch.setattr(module, "has_grammar", lambda chain: True)
    for name in ("rows_are_over", "may_score"):
        monkeypatch.setattr(pace.Pace, name, property(lambda self: chance.random() < 0.5))
    monkeypatch.setattr(pace.Pace, "is_over", property(lambda self: chance.random() < 0.4))
    monkeypatch.setattr(pace.Pace, "may_accept", property(lambda self: chance.random() < 0.6))
    monkeypatch.setattr(pace.Pace, "hold", lambda self, track: (held.append(track), hold(self, track)))
    made = hash_model.make_engine(n_block=60, drafter=NGramDrafter(4))
    jobs = [Job(each) for each in asked]
    for job in jobs:
        made.submit(job)
    while made.step():
        pass
    assert len(held) > 20
    assert [answers(job.drain()) for job in jobs] == alone
    made.space.tree.clear()
    assert made.space.pool.n_free == 60


def costly(number, **fields):
    """A request whose grammar takes all the work that it may have; each has one of its own."""
    ways = " | ".join(f'[a-z ]* "{c}" [a-z ]{{{n}}}' for c in "abcdef" for n in range(50))
    options = {"grammar": f'root ::= {ways} | "{number}"', "temperature": 1.0}
    return Request(prompt=[1, 403], options=options, seed=number, max_tokens=30, **fields)


@pytest.mark.parametrize("fields", [{}, {"beams": 7}], ids=["answers", "beams"])
def test_a_step_does_so_much_for_all_grammars(small_model, fields):
    """60 answers that each met their bounds in one step held up all others for seconds."""
    with Session(small_model, n_seq=64) as session:
        made, jobs = session.engine, [Job(costly(i, **fields)) for i in range(8 if fields else 60)]
        plain = Job(Request(prompt=[1, 403], options={"temperature": 1.0}, max_tokens=40, ignore_eos=True))
        for job in [*jobs, plain]:
            made.submit(job)
        worst = whole = steps = 0
        while True:
            before = pace.work()
            if not made.step():
                break
            spent = pace.work() - before
            worst, whole = max(worst, spent), whole + spent
            steps += not plain.finished
        assert whole > 10_000_000  # there was much to do
        assert worst < 6_000_000  # what is begun is finished; without a bound 16 million
        assert steps <= 45  # nobody else waited
        for job in [*jobs, plain]:
            assert job.finished
            assert all(e.result.error is None or "too ambiguous" in str(e.result.error)
                       for e in job.drain() if isinstance(e, Finished))  # fmt: skip


WIDE = [
    {"top_p": 0.95}, {"top_p": 1.0}, {"top_p": 1.0, "typical_p": 0.9}, {"top_p": 1.0, "tfs_z": 0.95}, {"mirostat": 1},
    {"mirostat": 2}, {"top_p": 1.0, "min_p": 1e-5}, {"top_k": 9000},
]  # fmt: skip


class Clock:
    """Processor time that only a `Slow` sampler takes."""

    now = 0

    def thread_time_ns(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(pace, "time", SimpleNamespace(thread_time_ns=made.thread_time_ns))
    return made


@pytest.fixture
def wide(hash_model, monkeypatch, clock):
    """Engines whose vocabulary makes a row that is looked at whole cost something, with bounds to match."""
    monkeypatch.setattr(hash_model, "N_VOCAB", 10_000)
    monkeypatch.setattr(hash_model.Letters, "n_vocab", 10_000)
    monkeypatch.setattr(pace, "MOST_ROW_WORK", 100_000)

    def make():
        return hash_model.make_engine(n_block=1000, n_row=80, n_out=80, n_seq=80)

    return make


def over_rows(number, **fields):
    options = {"temperature": 1.0, "top_k": 0, **WIDE[number % len(WIDE)], **fields.pop("options", {})}
    fields = {"max_tokens": 5, "ignore_eos": True, **fields}
    return Request(prompt=[1, 5, 6 + number % 8], options=options, seed=number, **fields)


def run_all(made, requests):
    """The answers; the most work over rows in a step; the most steps for which one waited; steps until each ended."""
    jobs = [Job(each) for each in requests]
    groups = [made.submit(job) for job in jobs]
    most = longest = 0
    ended, steps = {}, 0
    while True:
        before = pace.row_work()
        if not made.step():
            break
        steps += 1
        most = max(most, pace.row_work() - before)
        waits = [track.waits for group in groups for track in group.tracks if track.waits]
        longest = max([longest, *(made.pace.step - each for each in waits)])
        for i, job in enumerate(jobs):
            if job.finished:
                ended.setdefault(i, steps)
    events = [job.drain() for job in jobs]
    assert all(e.result.error is None for each in events for e in each if isinstance(e, Finished))
    return [answers(each) for each in events], most, longest, [ended[i] for i in range(len(jobs))]


def test_a_step_does_so_much_over_whole_rows(wide, monkeypatch):
    """64 answers that each sort their row in one step held up all others for seconds."""
    asked = [over_rows(i) for i in range(64)]
    plain = [
        Request(prompt=[1, 7, 8], options=options, seed=i, max_tokens=12, ignore_eos=True)
        for i, options in enumerate(({}, {"temperature": 0.0}, {"top_k": 0, "temperature": 1.0, "top_p": 1e-4}))
    ]
    found, most, longest, ended = run_all(wide(), [*asked, *plain])
    assert most < 250_000  # what is begun is finished, and rows are summed for `top_p` to see that it must wait
    assert 3 <= longest < 20
    monkeypatch.setattr(pace, "MOST_ROW_WORK", 1 << 60)
    alone, most, longest, without = run_all(wide(), [*asked, *plain])
    assert most > 500_000
    assert not longest
    assert ended[len(asked) :] == without[len(asked) :]  # nobody else waited
    assert found == alone


def test_a_step_tells_so_many_probabilities(wide, monkeypatch):
    asked = [over_rows(i, logprobs=1000, probs_after=1000) for i in range(24)]
    asked += [over_rows(i, probs_after=20, best_of=3, n=2) for i in range(24, 32)]
    found, most, longest, _ = run_all(wide(), asked)
    assert most < 300_000
    assert 1 <= longest < 20
    monkeypatch.setattr(pace, "MOST_ROW_WORK", 1 << 60)
    alone, most, _, _ = run_all(wide(), asked)
    assert most > 700_000
    assert found == alone


def test_those_that_choose_together_wait_too(wide, monkeypatch):
    """Beams and guided answers look at whole rows; each kind gets its turn beside the other, and beside wide rows."""
    kinds = ({"beams": 4, "n": 2}, {"guidance": Guidance([1, 5], 1.5), "n": 2}, {}, {})
    asked = [over_rows(i, **kinds[i % 4]) for i in range(24)]
    found, most, longest, _ = run_all(wide(), asked)
    assert 1 <= longest < 30
    monkeypatch.setattr(pace, "MOST_ROW_WORK", 1 << 60)
    alone, unbounded, _, _ = run_all(wide(), asked)
    assert most < unbounded / 2
    assert found == alone


class Slow(Sampler):
    """Someone's sampler in Python that computes for a millisecond."""

    name = "slow"
    clock: Clock

    def apply(self, candidates):
        self.clock.now += 1_000_000

    def clone(self):
        return self


def test_samplers_of_python_count_by_their_time(wide, clock, monkeypatch):
    """They come after native ones in no step for ever: whose turn it is goes first, whatever it is written in."""

    def make():
        made = wide()
        made.samplers = {**made.samplers, "slow": type("SlowByClock", (Slow,), {"clock": clock})}
        return made

    slow = {"samplers": ("slow", "top_k"), "max_tokens": 3}
    asked = [over_rows(i, **(slow if i % 4 == 0 else {"max_tokens": 12})) for i in range(64)]
    found, most, longest, ended = run_all(make(), asked)
    assert 3 <= longest < 30
    assert max(ended[::4]) < 0.7 * max(ended)  # their three tokens came while others were still at it
    monkeypatch.setattr(pace, "MOST_ROW_WORK", 1 << 60)
    alone, unbounded, _, _ = run_all(make(), asked)
    assert most < unbounded / 2
    assert unbounded >= 16 * 50_000
    assert found == alone


def test_the_garbage_collector_is_nobodys_work(clock):
    """One collection of a large heap counted as more than a step may do."""

    class Last:
        def __del__(self):
            clock.now += 60_000_000

    garbage = [Last()]
    garbage.append(garbage)
    gc.collect()
    del garbage
    before = pace.row_work()
    with pace.by_time():
        gc.collect()
        assert clock.now == 60_000_000
        clock.now += 20_000
    assert pace.row_work() - before == 1000


def test_prompts_that_are_scored_leave_answers_their_half(wide, monkeypatch):
    """What scoring a prompt takes counts against the answers of its step, but never all of it."""
    made, seen = wide(), []
    score = pace.Pace.score_prompt
    monkeypatch.setattr(pace.Pace, "score_prompt", lambda self: (seen.append(self), score(self))[1])
    job = Job(Request(prompt=[1, *range(5, 60)], options={}, max_tokens=2, prompt_logprobs=3))
    made.submit(job)
    before = pace.row_work()
    assert made.step()
    assert seen
    assert pace.row_work() - before > pace.MOST_ROW_WORK / 2
    assert made.pace.scoring == pace.MOST_ROW_WORK // 2
    assert made.pace.may_score


def test_long_answers_of_beams_are_told_over_several_steps(hash_model, monkeypatch):
    asked = Request(prompt=[1, 5, 6], options={}, max_tokens=50, ignore_eos=True, beams=4, n=4)
    whole = answers(hash_model.make_engine().run(Job(asked)))
    told, accept = [], Sequence.accept
    monkeypatch.setattr(beams, "TOLD_AT_ONCE", 7)
    monkeypatch.setattr(Sequence, "accept", lambda self, *args: (told.append(self), accept(self, *args)))
    made, job, most = hash_model.make_engine(), Job(asked), 0
    made.submit(job)
    while not job.finished:
        before = len(told)
        assert made.step()
        most = max(most, len(told) - before)
    assert most == 7
    assert len(told) == 4 * 50
    assert answers(job.drain()) == whole


def test_beams_that_are_cancelled_while_they_are_told_end(hash_model, monkeypatch):
    monkeypatch.setattr(beams, "TOLD_AT_ONCE", 7)
    made = hash_model.make_engine()
    job = Job(Request(prompt=[1, 5, 6], options={}, max_tokens=50, ignore_eos=True, beams=4, n=4))
    group = made.submit(job)
    while not (group.sequences and group.sequences[0].generated):
        made.step()
    made.cancel(job)
    assert [str(e.result.reason) for e in job.drain()] == ["cancelled"] * 4
    assert not made.running
