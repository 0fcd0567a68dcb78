"""Greedy text of a published model: the same on every backend, at any thread count, however it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from llamakit import Session
from llamakit.engine.job import Job

BACKENDS = [("reference", None), ("cpu", 1), ("cpu", 2)]


@pytest.fixture(scope="module")
def expected(test_data) -> str:
    return (test_data / "models" / "stories260K.expected.txt").read_text()


@pytest.mark.parametrize(("backend", "threads"), BACKENDS)
def test_the_published_text(stories260k, expected, backend, threads):
    with Session(stories260k, backend=backend, threads=threads) as session:
        result = session.generate("", max_tokens=200, temperature=0)
    assert result.text.strip() == expected.strip()


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_prompts_may_be_cut_anywhere(stories260k, expected, backend_name, batch_size):
    prompt = expected[:200]
    with Session(stories260k, backend=backend_name, batch_size=batch_size) as session:
        whole = session.logits(session.tokenize(prompt, add_bos=True))
    with Session(stories260k, backend=backend_name, batch_size=3) as session:
        parts = session.logits(session.tokenize(prompt, add_bos=True))
    if backend_name == "cpu":  # where the order of sums does not depend on how many rows there are
        assert (whole == parts).all()
    else:
        np.testing.assert_allclose(whole, parts, atol=1e-3)


@pytest.mark.parametrize("oracle", [True, False], ids=["reference", "tested"])
def test_first_sentence_survives_q8_0(stories260k, expected, oracle, backend_name, tmp_path):
    from llamakit.gguf.quantize import quantize_file

    small = tmp_path / "q8_0.gguf"
    quantize_file(stories260k, small, "Q8_0")
    with Session(small, backend="reference" if oracle else backend_name) as session:
        text = session.generate("", max_tokens=60, temperature=0).text
    first = expected.strip().split(".")[0]
    assert text.strip().split(".")[0] == first


@pytest.mark.parametrize("oracle", [True, False], ids=["reference", "tested"])
def test_context_shift_goes_on_and_a_full_context_stops(stories260k, oracle, backend_name):
    with Session(stories260k, backend="reference" if oracle else backend_name, ctx_size=64) as session:
        shifted = session.generate("Once upon a time", max_tokens=150, temperature=0, shift=True, ignore_eos=True)
        stopped = session.generate("Once upon a time", max_tokens=150, temperature=0, ignore_eos=True)
    assert len(shifted.tokens) == 150
    assert shifted.timings.n_shifted > 0
    assert stopped.reason == "context full"
    assert shifted.text.startswith(stopped.text)


def test_many_at_once_give_what_each_gives_alone(stories260k, backend_name):
    prompts = ["Once upon a time", "Lily", "One day, Tom and his dog", "The sun"]
    with Session(stories260k, backend=backend_name, n_seq=4) as session:
        alone = [session.generate(p, max_tokens=40, seed=i, temperature=0.9).tokens for i, p in enumerate(prompts)]
        engine = session.engine
        jobs = [Job(session.request(p, max_tokens=40, seed=i, temperature=0.9)) for i, p in enumerate(prompts)]
        for job in jobs:
            engine.submit(job)
        while engine.step():
            pass
        together = [job.results()[0].tokens for job in jobs]
        assert engine.space.pool.n_free + len(engine.space.tree) == engine.space.pool.n_block
    assert together == alone


def test_a_past_is_not_run_again_and_changes_nothing(stories260k, backend_name):
    with Session(stories260k, backend=backend_name) as session:
        text = "Once upon a time, there was a little"
        plain = session.generate(text, max_tokens=20, temperature=0, cache=False)
        session.generate("Once upon a time, there was", max_tokens=5, temperature=0)
        reused = session.generate(text, max_tokens=20, temperature=0)
    assert reused.timings.n_cached > 3
    assert reused.tokens == plain.tokens
