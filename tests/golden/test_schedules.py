"""Cached, chunked, batched, guessed, preempted and plain evaluation give the same bits (of GPUs, up to 16 rows)."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llamakit import Session
from llamakit.backend import Adapter
from llamakit.engine import draft_model
from llamakit.engine.job import Finished, Job
from llamakit.engine.request import Guidance
from llamakit.gpu.steps.linear import FEW
from llamakit.models.lora import make_adapter

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    "Once upon a time, there was a little boy. He had a dog, and the dog had a ball. The ball was red.",
    "The sun",
]


def adapter(session, name, seed):
    """A random adapter of two linear layers."""
    draw = np.random.default_rng(seed)

    def pair(tensor):
        n_out, n_in = session.model.tensor(tensor).shape
        a, b = (draw.normal(0, 0.1, shape).astype(np.float32) for shape in ((4, n_in), (n_out, 4)))
        return Adapter(A=a, B=b, scale=1.0)

    tensors = {tensor: pair(tensor) for tensor in ("blk.0.attn_q.weight", "blk.2.ffn_down.weight")}
    return make_adapter(name, Path(name), 4.0, tensors)


def open_session(path, **settings):
    session = Session(path, **settings)
    for seed, name in enumerate(("first", "second")):
        session.adapters.add(adapter(session, name, seed), 0.0)
    return session


def random_request(session, chance):
    text = chance.choice(TEXTS)
    fields = {
        "max_tokens": chance.randint(1, 90), "seed": chance.randint(0, 3), "temperature": chance.choice([0, 0.7, 1.2]),
        "adapters": chance.choice([None, None, (("first", 1.0),), (("first", 0.5), ("second", -1.0))]),
        "cache": chance.random() < 0.8, "ignore_eos": True, "priority": chance.randint(0, 1),
    }  # fmt: skip
    kind = chance.choice(["plain", "plain", "n", "beams", "guided"])
    if kind == "n":
        fields |= {"n": 2, "best_of": chance.choice([2, 3])}
    elif kind == "beams":
        fields |= {"beams": 2}
    elif kind == "guided":
        fields["guidance"] = Guidance(session.tokenize("The sad", add_bos=True), 1.5)
    return session.request(text, **fields)


def answers(job):
    return {e.choice: (e.result.tokens, e.result.score) for e in job.drain() if isinstance(e, Finished)}


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_random_schedules(stories260k, backend_name, kv_type):
    chance = random.Random(11)
    settings = {"backend": backend_name, "n_seq": 6, "kv_type": kv_type, "ctx_size": 160}
    n_row = 24 if backend_name == "cpu" else FEW  # GPUs add up more rows in another order
    settings |= {} if backend_name == "cpu" else {"batch_size": n_row}
    roomy = open_session(stories260k, adapter_slots=4, draft=0, threads=1, **settings)
    requests = [random_request(roomy, chance) for _ in range(40)]
    alone = []
    for request in requests:
        job = Job(request)
        roomy.engine.submit(job)
        while not job.finished:
            roomy.engine.step()
        roomy.engine.space.tree.clear()
        alone.append(answers(job))
    roomy.close()
    settings |= {"adapter_slots": 2, "draft": 4, "batch_size": n_row, "threads": 2}
    tight = open_session(stories260k, kv_memory=190_000 if kv_type == "f16" else 102_000, **settings)
    with tight:
        engine = tight.engine
        engine.cost.rows_within = lambda seconds, rows: n_row
        jobs, left = [], list(requests)
        while left or engine.running or engine.waiting:
            if left and chance.random() < 0.3:
                jobs.append(Job(left.pop(0)))
                engine.submit(jobs[-1])
            engine.step()
        assert engine.counters.n_cached > 0
        assert engine.counters.n_preempted > 0
        assert [answers(job) for job in jobs] == alone


def test_a_draft_model_changes_nothing_and_guesses_well(stories260k, backend_name, monkeypatch):
    monkeypatch.setattr(draft_model, "time", SimpleNamespace(perf_counter=lambda: 0.0))  # guesses take no time

    def run(**settings):
        with Session(stories260k, backend=backend_name, n_seq=4, ctx_size=200, **settings) as session:
            engine = session.engine
            engine.cost.observe(1, 0.1)
            engine.cost.observe(5, 0.101)
            engine.cost.observe = lambda rows, seconds: None
            made = [session.request(t, max_tokens=60, seed=i, temperature=0.3 * i) for i, t in enumerate(TEXTS)]
            jobs = [Job(request) for request in made]
            for job in jobs:
                engine.submit(job)
            while engine.step():
                pass
            return [answers(job) for job in jobs], engine.counters

    plain, _ = run(draft=0)
    drafted, counters = run(draft_model=str(stories260k), draft=6)
    assert drafted == plain
    assert counters.n_accepted > 0.6 * counters.n_drafted > 30


def test_a_prefix_is_saved_and_found_again(stories260k, backend_name, tmp_path):
    with Session(stories260k, backend=backend_name) as session:
        tokens = session.tokenize(TEXTS[1], add_bos=True)
        plain = session.generate(tokens, max_tokens=10, temperature=0)
        assert session.save_prefix(tmp_path / "prefix.gguf", [*tokens, *plain.tokens]) >= len(tokens)
    with Session(stories260k, backend=backend_name) as session:
        loaded = session.load_prefix(tmp_path / "prefix.gguf")
        again = session.generate(tokens, max_tokens=10, temperature=0)
        assert loaded[: len(tokens)] == tokens
        assert again.timings.n_cached == len(tokens) - 1
        assert again.tokens == plain.tokens
