"""Whatever runs beside a request, however it was cut, cached, shared, preempted or guessed: it gets the same answer."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.engine.group import _score
from llamakit.engine.job import Finished, Job, PromptProgress, Queued, Token
from llamakit.engine.request import Embed, FinishReason, Guidance, Request
from llamakit.engine.speculation import NGramDrafter
from llamakit.errors import ContextLengthError, OutOfMemoryError, UsageError

_spec = importlib.util.spec_from_file_location("hash_model", Path(__file__).with_name("hash_model.py"))
hash_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hash_model)
make_engine = hash_model.make_engine

SHARED = [1, *range(5, 30)]  # a prompt that many begin with


def request(prompt, **fields):
    options = fields.pop("options", {"temperature": 1.0, "top_k": 5, "repeat_penalty": 1.1})
    fields.setdefault("max_tokens", 12)
    return Request(prompt=prompt, options=options, **fields)


def answer(asked, **engine):
    """What a request gets alone, in an engine with room for all, without cache and guesses."""
    job = Job(asked)
    list(make_engine(**{"n_block": 500, "n_row": 64, "n_out": 64, "n_seq": 16, **engine}).run(job))
    return outcome(job.events)


def outcome(events):
    return {e.choice: (e.result.tokens, e.result.text, str(e.result.reason)) for e in events if isinstance(e, Finished)}


class Recorded(Job):
    """A job that remembers what it was told."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.events = []

    def emit(self, event):
        if not (isinstance(event, (Token, Finished)) and event.choice not in self._open):
            self.events.append(event)
        super().emit(event)


Job = Recorded


@st.composite
def requests(draw):
    prompt = draw(
        st.sampled_from([SHARED[:3], SHARED[:9], SHARED, [*SHARED, 31], [*SHARED[:17], 33, 34], [1, 7, 7, 7, 7]])
    )
    fields = {
        "seed": draw(st.integers(0, 5)),
        "max_tokens": draw(st.integers(1, 24)),
        "ignore_eos": draw(st.booleans()),
        "stop": draw(st.sampled_from([(), ("B",), ("AB", "C")])),
        "priority": draw(st.integers(-1, 1)),
        "cache": draw(st.booleans()),
        "cache_salt": draw(st.sampled_from(["", "", "other"])),
        "draft": draw(st.sampled_from([None, None, 0, 3])),
    }
    kind = draw(st.sampled_from(["plain", "plain", "plain", "n", "best_of", "beams", "guided"]))
    if kind == "n":
        fields["n"] = fields["best_of"] = draw(st.integers(2, 3))
    elif kind == "best_of":
        fields |= {"n": draw(st.integers(1, 2)), "best_of": 3}
    elif kind == "beams":
        fields |= {"beams": 3, "n": draw(st.integers(1, 2))}
    elif kind == "guided":
        fields["guidance"] = Guidance(SHARED[:5], draw(st.sampled_from([0.5, 1.5])))
    return request(prompt, **fields)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(requests(), st.integers(0, 12)), min_size=1, max_size=7),
    st.integers(26, 90),
    st.integers(4, 20),
    st.integers(0, 1 << 30),
)
def test_any_schedule_gives_each_request_the_answer_it_gets_alone(asked, n_block, n_row, seed):
    chance = random.Random(seed)
    engine = make_engine(n_block=n_block, n_row=n_row, n_out=max(6, n_row // 2), n_seq=6, drafter=NGramDrafter(4))
    waiting = sorted(asked, key=lambda each: each[1])
    jobs, cancelled = [], []
    for step in range(10_000):
        while waiting and waiting[0][1] <= step:
            job = Job(waiting.pop(0)[0])
            engine.submit(job)
            jobs.append(job)
        if jobs and chance.random() < 0.02:
            cancelled.append(chance.choice(jobs))
            cancelled[-1].cancel()
        if not engine.step() and not waiting and not engine.waiting:
            break
    assert all(job.finished for job in jobs)
    for job in jobs:
        assert [e.choice for e in job.events if isinstance(e, Finished)].count(0) == 1
        if job not in cancelled:
            assert outcome(job.events) == answer(job.request)
            _check_stream(job)
    assert engine.space.pool.n_free + len(engine.space.tree) == n_block
    engine.space.tree.clear()
    assert engine.space.pool.n_free == n_block


def _check_stream(job):
    """What was streamed and the tail are the whole text."""
    if job.request.best_of > job.request.n or job.request.beams > 1:
        return
    for e in job.events:
        if isinstance(e, Finished):
            streamed = "".join(t.piece.text for t in job.events if isinstance(t, Token) and t.choice == e.choice)
            assert streamed + e.result.tail == e.result.text


def test_certain_answers_are_ranked_first():
    answers = [SimpleNamespace(result=SimpleNamespace(score=score)) for score in (-0.5, None, 0.0, -3.0)]
    ranked = sorted(answers, key=_score, reverse=True)
    assert [each.result.score for each in ranked] == [0.0, -0.5, -3.0, None]


def test_a_shared_beginning_is_evaluated_once():
    engine = make_engine(n_row=8)
    jobs = [Job(request([*SHARED, 30 + i])) for i in range(5)]
    for job in jobs:
        engine.submit(job)
    while engine.step():
        pass
    whole = len(SHARED) // hash_model.BLOCK * hash_model.BLOCK
    assert engine.counters.n_cached >= 4 * whole
    again = Job(request([*SHARED, 30]))
    list(engine.run(again))
    assert again.events[-1].result.timings.n_cached == len(SHARED)  # all but the last token
    assert outcome(again.events) == outcome(jobs[0].events)


def test_the_past_of_a_conversation_is_found_again_to_the_token():
    engine = make_engine()
    first = Job(request(SHARED[:6], max_tokens=7, ignore_eos=True))
    list(engine.run(first))
    said = first.events[-1].result.tokens
    second = Job(request([*SHARED[:6], *said, 9], max_tokens=3))
    list(engine.run(second))
    assert second.events[-1].result.timings.n_cached == 6 + len(said) - 1  # the last token chosen was not evaluated


def test_other_salts_share_nothing():
    engine = make_engine()
    for salt, cached in (("a", 0), ("b", 0), ("a", len(SHARED) - 1)):
        job = Job(request(SHARED, cache_salt=salt, max_tokens=1))
        list(engine.run(job))
        assert job.events[-1].result.timings.n_cached == cached


def test_running_answers_do_not_wait_for_a_long_prompt():
    engine = make_engine(n_row=16, n_ctx=400, n_block=300)
    engine.cost.observe(1, 0.05)
    engine.cost.observe(17, 0.85)  # a row takes so long that a whole batch of prompt would stall the answer
    short = Job(request([1, 5], max_tokens=40, ignore_eos=True))
    engine.submit(short)
    engine.step()
    engine.submit(Job(request([1, *([6] * 300)], max_tokens=1)))
    for _ in range(20):
        before = sum(isinstance(e, Token) for e in short.events)
        engine.step()
        assert sum(isinstance(e, Token) for e in short.events) == before + 1


def test_requests_go_by_priority_then_by_arrival():
    engine = make_engine(n_seq=1)
    jobs = [Job(request([1, 5 + i], priority=p, max_tokens=3)) for i, p in enumerate([0, 0, 5, -1])]
    order = []
    for job in jobs:
        engine.submit(job)
    while engine.step():
        order += [jobs.index(job) for job in jobs if job.finished and jobs.index(job) not in order]
    assert order == [2, 0, 1, 3]


def test_a_full_cache_sends_the_latest_back_into_the_queue():
    engine = make_engine(n_block=14, n_ctx=40)
    jobs = [Job(request([1, 5 + i, 9], max_tokens=30, ignore_eos=True, seed=i)) for i in range(4)]
    for job in jobs:
        engine.submit(job)
    while engine.step():
        pass
    assert engine.counters.n_preempted > 0
    for job in jobs:
        assert outcome(job.events) == answer(job.request, n_ctx=40)


def test_guesses_for_a_step_that_an_answer_had_to_leave_are_not_looked_at_later():
    """They were right, so the next row was taken for the answer's own: another's, or none that there was."""
    requests = [request([1, 5 + i, 9], max_tokens=30, ignore_eos=True, seed=i) for i in range(6)]
    alone = [answer(each, n_ctx=40) for each in requests]
    for n_block in range(11, 30):
        engine = make_engine(n_block=n_block, n_ctx=40, drafter=hash_model.Knows([[each[0][0]] for each in alone]))
        engine.cost.observe(1, 0.1)
        engine.cost.observe(5, 0.101)  # rows cost next to nothing, so guessing pays
        engine.cost.observe = lambda rows, seconds: None
        jobs = [Job(each) for each in requests]
        for job in jobs:
            engine.submit(job)
        while engine.step():
            pass
        assert engine.counters.n_accepted > 0
        assert [outcome(job.events) for job in jobs] == alone


def test_one_request_that_needs_more_than_there_is_ends_with_an_error():
    engine = make_engine(n_block=5, n_ctx=64)
    job = Job(request([1, 5], max_tokens=60, ignore_eos=True))
    list(engine.run(job))
    assert isinstance(job.events[-1].result.error, OutOfMemoryError)
    assert len(job.events[-1].result.tokens) >= 15
    assert engine.space.pool.n_free + len(engine.space.tree) == 5


def test_guesses_are_counted_and_change_nothing():
    engine = make_engine(drafter=NGramDrafter(4), memory=1)  # a model that soon repeats itself
    engine.cost.observe(1, 0.1)
    engine.cost.observe(5, 0.101)  # rows cost next to nothing, so guessing pays
    engine.cost.observe = lambda rows, seconds: None
    prompt = [1, *([7, 8, 9, 10] * 6)]
    asked = request(prompt, options={"temperature": 0}, max_tokens=36, ignore_eos=True)
    job = Job(asked)
    list(engine.run(job))
    result = job.events[-1].result
    assert result.timings.n_drafted >= result.timings.n_accepted > 10
    assert engine.counters.n_step < 26
    assert outcome(job.events) == answer(asked, memory=1)


@pytest.mark.parametrize("n_spare", [0, 2])
def test_many_shift_while_the_prefix_tree_holds_their_blocks(n_spare):
    """The pool is just large enough, or lacks a shift's spare blocks; what the tree shares makes a shift need more."""
    engine = make_engine(n_ctx=16, n_seq=4, n_block=16 + n_spare)
    jobs = [Job(request([1, 5 + i % 3], max_tokens=90, ignore_eos=True, shift=True, seed=i // 3)) for i in range(9)]
    for job in jobs:
        engine.submit(job)
    while engine.step():
        pass
    for job in jobs:
        assert job.events[-1].result.reason is FinishReason.LENGTH
        assert len(job.events[-1].result.tokens) == 90
    assert n_spare == 0 or engine.counters.n_preempted == 0
    engine.space.tree.clear()
    assert engine.space.pool.n_free == engine.space.pool.n_block


def test_a_context_that_is_full_ends_or_shifts():
    engine = make_engine(n_ctx=16)
    ended, shifted = (
        Job(request([1, 5], max_tokens=50, ignore_eos=True)),
        Job(request([1, 5], max_tokens=50, ignore_eos=True, shift=True)),
    )
    for job in (ended, shifted):
        engine.submit(job)
    while engine.step():
        pass
    assert ended.events[-1].result.reason is FinishReason.CONTEXT
    assert len(shifted.events[-1].result.tokens) == 50
    assert shifted.events[-1].result.timings.n_shifted > 0
    again = Job(request([1, 5, *shifted.events[-1].result.tokens[:10]], max_tokens=1))
    list(engine.run(again))
    assert outcome(again.events) == answer(again.request, n_ctx=16)  # what was shifted is not taken for a prefix


def test_a_prompt_that_is_too_long_is_an_error_unless_it_may_be_cut():
    engine = make_engine(n_ctx=16)
    with pytest.raises(ContextLengthError, match="20 tokens, the context holds 16"):
        engine.prepare(request([1] * 20))
    prompt = [1, *range(3, 33)]
    prepared = engine.prepare(request(prompt, truncate=True, keep=2))
    assert prepared.tokens[:2] == prompt[:2]
    assert prepared.tokens[2:] == prompt[-len(prepared.tokens[2:]) :]
    assert len(prepared.tokens) < 16
    assert prepared.n_truncated == len(prompt) - len(prepared.tokens)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": [99]}, "token 99 is outside"),
        ({"prompt": [-1]}, "token -1 is outside"),
        ({"max_tokens": -3}, "max_tokens is -3"),
        ({"n": 0}, "n is 0"),
        ({"n": 3, "best_of": 2}, "best_of is 2"),
        ({"n": 99, "best_of": 99}, "99 sequences at once, 8 are possible"),
        ({"beams": 2, "n": 3}, "at most 2 answers"),
        ({"deadline": float("nan")}, "deadline"),
        ({"guidance": Guidance([], 2.0)}, "empty"),
        ({"adapters": (("x", 1.0),)}, "no adapter named 'x'"),
        ({"options": {"top_kk": 1}}, "top_k"),
        ({"options": {"temperature": "hot"}}, "temperature"),
        ({"samplers": ("nope",)}, "no sampler named"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_before_it_runs(fields, wrong):
    with pytest.raises(UsageError) as caught:
        make_engine().prepare(request(fields.pop("prompt", [1, 5]), **fields))
    assert wrong in str(caught.value)


def test_every_request_has_a_limit():
    engine = make_engine(max_predict=9)
    for asked in (-1, -2, 500):
        job = Job(request([1, 5], max_tokens=asked, ignore_eos=True))
        list(engine.run(job))
        assert len(job.events[-1].result.tokens) == 9
        assert job.events[-1].result.reason is FinishReason.LENGTH


def test_nothing_is_generated_where_only_the_prompt_was_wanted():
    engine = make_engine()
    job = Job(request(SHARED, max_tokens=0, n=2, best_of=2))
    list(engine.run(job))
    assert [e.result.tokens for e in job.events if isinstance(e, Finished)] == [[], []]
    assert engine.space.tree.match(((), ""), SHARED)[1] == len(SHARED)


def test_log_probabilities_before_and_after_the_chain():
    engine = make_engine()
    job = Job(request(SHARED[:9], logprobs=3, probs_after=4, prompt_logprobs=2, max_tokens=4, ignore_eos=True))
    list(engine.run(job))
    result = job.events[-1].result
    plain = answer(request(SHARED[:9], max_tokens=4, ignore_eos=True))
    assert outcome(job.events) == plain  # looking changes nothing
    assert [p.token_id for p in result.prompt] == SHARED[:9]
    assert result.prompt[0].logprob is None
    assert all(p.logprob < 0 and len(p.top) == 2 for p in result.prompt[1:])
    for e in job.events:
        if isinstance(e, Token):
            assert e.piece.logprob <= next(iter(e.piece.top))[1]
            assert sum(p for _, p in e.piece.after) <= 1 + 1e-6
            assert len(e.piece.after) == 4


def test_best_of_gives_the_likeliest_and_scores():
    engine = make_engine()
    job = Job(request(SHARED[:5], n=2, best_of=6, options={"temperature": 2.0}, max_tokens=6, ignore_eos=True))
    list(engine.run(job))
    best = [e.result for e in job.events if isinstance(e, Finished)]
    alone = [
        answer_score(
            request(SHARED[:5], n=6, best_of=6, options={"temperature": 2.0}, max_tokens=6, ignore_eos=True, logprobs=0)
        )
    ][0]
    assert [round(r.score, 4) for r in best] == [round(s, 4) for s in sorted(alone, reverse=True)[:2]]
    assert all(len(r.pieces) == 6 for r in best)


def answer_score(asked):
    job = Job(asked)
    list(make_engine().run(job))
    sums = {}
    for e in job.events:
        if isinstance(e, Token):
            sums.setdefault(e.choice, []).append(e.piece.logprob)
    return [sum(v) / len(v) for v in sums.values()]


def test_beams_find_what_an_exhaustive_search_finds():
    """With as many beams as there are beginnings of two tokens that can matter, nothing can be missed."""
    import numpy as np

    engine = make_engine(n_seq=8, n_out=16)
    prompt = SHARED[:4]
    job = Job(request(prompt, beams=8, max_tokens=2, ignore_eos=True, options={}))
    list(engine.run(job))
    found = job.events[-1].result

    def logprobs(tokens):
        kv = hash_model.HashCache(4)
        kv.cells[: len(tokens)] = tokens
        program = hash_model.HashProgram(kv, 1, 1, 1, 4)
        program.inputs["positions"][0] = len(tokens) - 1
        program.inputs["block_tables"][0] = range(4)
        row = program._row(0).astype(np.float32).astype(np.float64)
        row[hash_model.END] = -np.inf  # ignore_eos
        return row - np.log(np.exp(row - row.max()).sum()) - row.max()

    first = logprobs(prompt)
    best = max(
        (
            (first[a] + logprobs([*prompt, a])[b], [a, b])
            for a in np.argsort(-first)[:8]
            for b in range(hash_model.N_VOCAB)
        ),
        key=lambda pair: pair[0],
    )
    assert found.tokens == [int(t) for t in best[1]]
    assert found.score == pytest.approx(best[0] / 2, rel=1e-4)


def test_guidance_of_scale_one_changes_nothing_and_of_scale_zero_follows_the_negative_prompt():
    prompt, negative = SHARED[:6], [1, 30, 31]
    greedy = {"options": {"temperature": 0}, "max_tokens": 6, "ignore_eos": True}
    plain = answer(request(prompt, **greedy))
    assert answer(request(prompt, guidance=Guidance(negative, 1.0), **greedy)) == plain
    other = answer(request(negative, **greedy))
    assert answer(request(prompt, guidance=Guidance(negative, 0.0), **greedy))[0][0] == other[0][0]


def test_a_deadline_ends_a_request_wherever_it_is():
    engine = make_engine(n_seq=1)
    running, queued = (Job(request([1, 5], max_tokens=60, ignore_eos=True, deadline=d)) for d in (60, 1e-9))
    engine.submit(running)
    engine.submit(queued)
    engine.step()
    assert queued.events[-1].result.reason is FinishReason.DEADLINE
    assert not running.finished


def test_progress_is_told_only_to_those_who_ask():
    engine = make_engine(n_seq=1, n_row=8)
    jobs = [Job(request([*SHARED, 30 + i], progress=i > 0, max_tokens=2)) for i in range(3)]
    for job in jobs:
        engine.submit(job)
    while engine.step():
        pass
    assert not any(isinstance(e, (Queued, PromptProgress)) for e in jobs[0].events)
    assert [e.ahead for e in jobs[2].events if isinstance(e, Queued)] == [2, 1, 0]
    done = [e for e in jobs[2].events if isinstance(e, PromptProgress)]
    assert done[-1].processed == done[-1].total == len(SHARED) + 1
    assert done[-1].cached > 0


def test_embeddings_run_beside_generation():
    engine = make_engine()
    job = Job(request([1, 5], max_tokens=30, ignore_eos=True))
    engine.submit(job)
    texts = [[1, *range(5, 5 + n)] for n in (1, 20, 33)]
    both = engine.embedder.wait(engine, Embed(prompts=texts, pooling="mean", normalize=False))
    one = [engine.embedder.wait(engine, Embed(prompts=[t], pooling="none", normalize=False)).values[0] for t in texts]
    assert both.n_tokens == sum(map(len, texts))
    for mean, rows in zip(both.values, one, strict=True):
        assert mean == pytest.approx(rows.mean(axis=0), abs=1e-5)
    last = engine.embedder.wait(engine, Embed(prompts=texts[:1], pooling="last")).values[0]
    assert float((last**2).sum()) == pytest.approx(1.0, abs=1e-5)
    while engine.step():
        pass
    assert outcome(job.events) == answer(job.request)
    with pytest.raises(UsageError, match="pooling 'max'"):
        engine.embedder.wait(engine, Embed(prompts=texts, pooling="max"))
    with pytest.raises(UsageError, match="text 2 of 2"):
        engine.embedder.wait(engine, Embed(prompts=[[1], []]))
