"""A model that guesses ahead: how far its own cache goes, and what becomes of its errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from llamakit.engine.draft_model import ModelDrafter
from llamakit.engine.engine import MOST_DRAFTS_FAILED
from llamakit.engine.job import Job
from llamakit.engine.request import Request
from llamakit.engine.runner import Runner

_spec = importlib.util.spec_from_file_location("hash_model", Path(__file__).with_name("hash_model.py"))
hash_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hash_model)

N_CTX = 64


def make_drafter(n_block):
    kv = hash_model.HashCache(n_block)
    program = hash_model.HashProgram(kv, 16, 16, 8, N_CTX // hash_model.BLOCK + 2)
    return ModelDrafter(Runner(program, 16, 16, 8), kv, N_CTX, most=4)


def make_engine(drafter):
    """An engine in whose eyes guesses always pay."""
    engine = hash_model.make_engine(drafter=drafter)
    engine.cost.observe(1, 0.1)
    engine.cost.observe(5, 0.101)
    engine.cost.observe = lambda rows, seconds: None
    return engine


def run(engine, n=3):
    made = [
        Request(prompt=[1, 5 + i, 6], max_tokens=30, seed=i, options={"temperature": 0.0}, draft=4) for i in range(n)
    ]
    jobs = [Job(request) for request in made]
    for job in jobs:
        engine.submit(job)
    while engine.step():
        pass
    return [job.results()[0].tokens for job in jobs]


def test_the_last_block_is_for_one_of_several_guesses():
    drafter = make_drafter(n_block=4)
    propose, guessed = drafter.propose, []

    def watched(wanted):
        propose(wanted)
        guessed.append([sequence.draft for sequence, _ in wanted])

    drafter.propose = watched
    engine = make_engine(drafter)
    assert run(engine) == run(make_engine(None))
    assert engine.drafter is drafter
    assert engine._drafts_failed == 0
    assert any(any(drafts) for drafts in guessed)


def test_an_error_of_guessing_costs_the_guesses_of_its_step():
    drafter = make_drafter(n_block=100)
    engine = make_engine(drafter)
    drafter.runner.program.fail_at = 3
    assert run(engine) == run(make_engine(None))
    assert engine.drafter is drafter
    assert engine.counters.n_drafted > 0
    assert drafter._pool.n_free == 100


def test_a_drafter_that_never_works_is_asked_no_more(caplog):
    drafter = make_drafter(n_block=100)
    asked = []

    def fall_over():
        asked.append(1)
        raise RuntimeError("fell over")

    drafter.runner.program.hook = fall_over
    engine = make_engine(drafter)
    assert run(engine) == run(make_engine(None))
    assert (engine.drafter, len(asked)) == (None, MOST_DRAFTS_FAILED)
    assert "switched off" in caplog.text
