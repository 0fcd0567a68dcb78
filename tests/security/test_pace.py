"""The grammars of many answers together never hold up a step: those beyond a step's work wait, and lose nothing."""

from __future__ import annotations

import random

import pytest

from llamakit.engine import beams, engine, pace
from llamakit.engine.job import Finished, Job
from llamakit.engine.request import Guidance, Request
from llamakit.engine.sequence import Sequence
from llamakit.engine.speculation import NGramDrafter
from llamakit.session import Session


def request(kind, seed):
    """A request of a kind; no two are the same."""
    kinds = {"n": {"n": 3, "best_of": 3}, "beams": {"beams": 3, "n": 2}, "guided": {"guidance": Guidance([1, 5], 1.5)}}
    return Request(
        prompt=[1, *range(5, 9 + seed)], options={"temperature": 1.0, "top_k": 5}, seed=seed, max_tokens=12,
        ignore_eos=True, **kinds.get(kind, {}),
    )  # fmt: skip


def answers(events):
    return {e.choice: (e.result.tokens, e.result.text) for e in events if isinstance(e, Finished)}


@pytest.mark.parametrize("seed", range(6))
def test_who_waits_gets_the_same_answer(hash_model, monkeypatch, seed):
    """As if every answer had a grammar, and steps were over at random."""
    asked = [request(kind, i) for i, kind in enumerate(("plain", "n", "beams", "guided", "plain", "beams", "n"))]
    alone = [answers(hash_model.make_engine(n_block=500).run(Job(each))) for each in asked]
    chance, held, hold = random.Random(seed), [], pace.Pace.hold
    monkeypatch.setattr(engine, "has_grammar", lambda chain: True)
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
