"""Who makes room for others, or waits for it, loses nothing but time: no token, no place in the queue, no room."""

from __future__ import annotations

import pytest

from llamakit.engine import admission, kv_space
from llamakit.engine.draft_model import ModelDrafter
from llamakit.engine.job import Finished, Job, Token
from llamakit.engine.kv_space import ASIDE_SHARE
from llamakit.engine.request import Embed, FinishReason, Request
from llamakit.engine.runner import Runner
from llamakit.errors import OutOfMemoryError
from llamakit.session import Session

PROMPT = [1, *range(5, 35)]


def request(prompt, **fields):
    fields = {"max_tokens": 30, "ignore_eos": True, "options": {"temperature": 1.0, "top_k": 5}} | fields
    return Request(prompt=prompt, **fields)


def answers(job):
    return {e.choice: e.result for e in job.drain() if isinstance(e, Finished)}


def alone(hash_model, asked, **engine):
    job = Job(asked)
    made = hash_model.make_engine(n_block=500, n_row=64, n_out=64, n_seq=16, **engine)
    made.submit(job)
    finish(made)
    return answers(job)


def finish(made):
    while made.step():
        pass


def submit(made, *asked):
    jobs = [Job(each) for each in asked]
    for job in jobs:
        made.submit(job)
    return jobs


def as_if_guessing_paid(made):
    made.cost.observe(1, 0.1)
    made.cost.observe(5, 0.101)  # rows cost next to nothing
    made.cost.observe = lambda rows, seconds: None


def test_probabilities_of_a_prompt_are_told_once(hash_model):
    """Who had to leave in the middle of a prompt was told of its beginning again."""
    made = hash_model.make_engine(n_row=8, n_seq=2)
    asked = request(PROMPT, prompt_logprobs=2, max_tokens=3)
    (job,) = submit(made, asked)
    made.step()
    submit(made, request([1, 9], priority=1, n=2, best_of=2))
    made.step()
    assert made.waiting
    finish(made)
    found = answers(job)[0]
    assert [each.token_id for each in found.prompt] == PROMPT
    assert found.prompt == alone(hash_model, asked)[0].prompt


def test_guesses_for_one_of_several_answers_that_came_back(hash_model):
    """Of a request's answers one was found whole in the cache, others not: all were evaluated as prompts are.

    Guesses for the first were then looked for in the rows of others, so it went on with a token of somebody else.
    """
    asked = [request([1, 5 + i, 9], seed=i, n=3, best_of=3) for i in range(3)]
    known = [alone(hash_model, each) for each in asked]
    tokens = [{choice: result.tokens for choice, result in each.items()} for each in known]
    for n_block in range(22, 50):
        made = hash_model.make_engine(n_block=n_block, n_ctx=40, drafter=hash_model.Knows(tokens))
        as_if_guessing_paid(made)
        jobs = submit(made, *asked)
        finish(made)
        assert made.counters.n_accepted > 0
        for job, expected in zip(jobs, known, strict=True):
            assert {i: each.tokens for i, each in answers(job).items()} == {i: r.tokens for i, r in expected.items()}


def test_an_answer_that_found_no_room_is_not_changed_once_it_is_told(hash_model):
    """Others of its request that were in the step's batch already chose one token more than was told."""
    for n_block in range(12, 34):
        made = hash_model.make_engine(n_block=n_block, n_seq=4)
        (job,) = submit(made, request([1, 5], n=3, best_of=3, max_tokens=60))
        told = [0, 0, 0]
        while made.step():
            for event in job.drain():
                if isinstance(event, Token):
                    told[event.choice] += 1
                elif isinstance(event, Finished):
                    assert isinstance(event.result.error, OutOfMemoryError)
                    assert len(event.result.tokens) == len(event.result.text) == told[event.choice]


@pytest.mark.parametrize("shift", [False, True])
def test_a_text_for_embeddings_makes_way_for_the_only_answer(hash_model, shift):
    """It held the rest of the cache, so that the answer of somebody else ended with an error, or was cut off."""
    n_ctx, n_block = 64, 18 if shift else 20
    made = hash_model.make_engine(n_block=n_block, n_ctx=n_ctx, n_row=4, n_out=4)
    asked = request([1, 5], max_tokens=100 if shift else 60, shift=shift)
    (job,) = submit(made, asked)
    ways, make_way = [], made.embedder.make_way
    made.embedder.make_way = lambda: ways.append(make_way()) or ways[-1]
    embed, works = Embed(prompts=[[1, *([5, 6, 7] * 21)]], pooling="mean", normalize=False), []
    while not job.finished:
        if len(made.embedder) == 0:
            works.append(made.embedder.work(made, embed))
            made.embedder.add(works[-1])
        made.step()
    finish(made)
    found = answers(job)[0]
    assert (found.error, found.reason) == (None, FinishReason.LENGTH)
    assert found.tokens == alone(hash_model, asked)[0].tokens
    assert True in ways
    assert all(work.done.is_set() and work.error is None for work in works)
    quiet = hash_model.make_engine()
    vectors = quiet.embedder.wait(quiet, embed)
    for work in works:
        assert work.texts[0].value(normalize=False) == pytest.approx(vectors.values[0], abs=1e-5)
    made.space.tree.clear()
    assert made.space.pool.n_free == n_block


def test_a_text_for_embeddings_is_begun_where_there_is_room_for_all_of_it(hash_model):
    """It was evaluated as far as blocks went, held them, had to give them back, and began anew, again and again."""
    made = hash_model.make_engine(n_block=20, n_ctx=64, n_row=4, n_out=4)
    (job,) = submit(made, request([1, *[5, 6, 7] * 5], max_tokens=40))
    for _ in range(8):
        made.step()
    work = made.embedder.work(made, Embed(prompts=[[1, *[8, 9, 7] * 21]]))
    made.embedder.add(work)
    rows = []
    while made.step():
        if not job.finished:
            rows.append(work.texts[0].table.length)
    assert set(rows) == {0}
    assert work.done.is_set()
    assert work.error is None


def test_a_model_that_guesses_has_all_its_room_again(hash_model):
    """Blocks of those whose clients left while they waited again were gone for ever, and so were guesses in the end."""
    kv = hash_model.HashCache(60)
    drafter = ModelDrafter(Runner(hash_model.HashProgram(kv, 16, 16, 8, 20), 16, 16, 8), kv, 64, most=4)
    made = hash_model.make_engine(n_seq=2, drafter=drafter)
    as_if_guessing_paid(made)
    jobs = submit(made, request([1, 5, 6]), request([1, 7, 8]))
    for _ in range(6):
        made.step()
    assert drafter._pool.n_free < 60
    submit(made, request([1, 9], priority=1, n=2, best_of=2, draft=0))
    made.step()
    assert len(made.waiting) == 2
    assert drafter._pool.n_free == 60
    for job in jobs:
        job.cancel()
    finish(made)
    assert drafter._pool.n_free == 60


def test_who_has_priority_waits_for_no_prompt_that_had_to_leave(hash_model):
    """One that began alike, and made room for a third, was waited for as long as that one ran."""
    made = hash_model.make_engine(n_row=8, n_seq=3)
    submit(made, request(PROMPT))
    made.step()
    (like_it,) = submit(made, request(PROMPT, priority=9))
    made.step()
    (long,) = submit(made, request([1, 9], priority=5, n=3, best_of=3))
    while not like_it.finished:
        assert made.step()
    assert not long.finished
    finish(made)
    assert answers(like_it)[0].tokens == alone(hash_model, request(PROMPT))[0].tokens


def test_who_is_let_in_and_makes_room_at_once_waits_again(hash_model, monkeypatch):
    """It was in the queue no more, and nowhere else: nobody answered it."""
    made = hash_model.make_engine(n_seq=2)
    monkeypatch.setattr(admission, "who_yields", lambda group, running, now, **_: running[0] if running else None)
    jobs = submit(made, *(request([1, 5 + i], n=2, best_of=2) for i in range(2)))
    made.queue.admit(0.0)
    monkeypatch.undo()
    finish(made)
    assert all(job.finished for job in jobs)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("n_before", [30, 45, 62, 63, 64, 65, 100, 150])
def test_a_context_that_was_shifted_is_the_same_afterwards(hash_model, n, n_before):
    """What is left of it was seen together with what is gone: evaluated again it is something else.

    Anybody with more priority, or who had waited for a second, so changed what others were told from there on.
    """
    made = hash_model.make_engine(n_seq=2, deep=True)
    asked = request([1, 5, 9], shift=True, keep=2, max_tokens=200, n=n, best_of=n)
    (job,) = submit(made, asked)
    for _ in range(n_before):
        made.step()
    submit(made, request([1, 9], priority=1, n=2, best_of=2))
    made.step()
    assert made.waiting
    finish(made)
    found, expected = answers(job), alone(hash_model, asked, deep=True)
    assert found[0].timings.n_shifted > 0
    assert [found[i].tokens for i in range(n)] == [expected[i].tokens for i in range(n)]
    made.space.tree.clear()
    assert made.space.pool.n_free == 200


def test_what_is_put_aside_is_bounded(hash_model):
    """An attacker's many answers took as much memory again as the cache for each time that it is full of them."""
    made = hash_model.make_engine(n_block=8 * 16, n_seq=8)
    jobs = submit(made, *(request([1, 5 + i], shift=True, max_tokens=300, seed=i) for i in range(8)))
    for _ in range(120):
        made.step()
    submit(made, request([1, 9], priority=1, n=8, best_of=8))
    made.step()
    assert len(made.waiting) == 8
    aside = [group.n_aside for group in made.waiting]
    assert 0 < sum(aside) <= ASIDE_SHARE * made.space.pool.n_block * made.space.size
    jobs[0].cancel()
    finish(made)
    assert all(len(answers(job)[0].tokens) == 300 for job in jobs[1:])


def test_nothing_is_put_aside_where_memory_is_short(hash_model, monkeypatch):
    """Contexts may be larger than what the machine has left, and a process that takes it all is ended."""
    monkeypatch.setattr(kv_space, "free_memory", lambda: 0)
    made = hash_model.make_engine(n_seq=1, deep=True)
    (job,) = submit(made, request([1, 5], shift=True, max_tokens=200))
    for _ in range(100):
        made.step()
    submit(made, request([1, 9], priority=1))
    made.step()
    assert [group.n_aside for group in made.waiting] == [0]
    finish(made)
    assert len(answers(job)[0].tokens) == 200


@pytest.mark.parametrize("error", [OutOfMemoryError("no"), MemoryError()])
@pytest.mark.parametrize("part", ["export", "restore"])
def test_a_device_without_memory_for_a_copy_ends_nothing(hash_model, monkeypatch, part, error):
    """A cache may be all that a device has room for: to put a context aside failed, and all requests with it."""

    def refuse(cells, *data):
        if len(cells) > 1:
            raise error
        return copy(cells, *data)

    made = hash_model.make_engine(n_seq=1, deep=True)
    copy = getattr(made.space.kv, part)
    monkeypatch.setattr(made.space.kv, part, refuse)
    (job,) = submit(made, request([1, 5], shift=True, max_tokens=200))
    for _ in range(100):
        made.step()
    (first,) = submit(made, request([1, 9], priority=1))
    finish(made)
    assert made.counters.n_preempted == 1
    assert answers(first)[0].error is None
    found = answers(job)[0]
    assert (found.error, len(found.tokens)) == (None, 200)
    made.space.tree.clear()
    assert made.space.pool.n_free == 200


def test_so_much_is_put_aside_and_brought_back_in_one_step(hash_model, monkeypatch):
    """One request with priority for as many places as there are sent all away, and had all contexts copied, at once."""
    made, copied = hash_model.make_engine(n_block=500, n_seq=6, deep=True), [0]
    kv = made.space.kv
    export, restore = kv.export, kv.restore
    monkeypatch.setattr(kv, "export", lambda cells: copied.append(copied.pop() + (len(cells) > 1)) or export(cells))
    monkeypatch.setattr(kv, "restore", lambda *args: copied.append(copied.pop() + 1) or restore(*args))
    monkeypatch.setattr(kv_space, "MOST_COPIED", 1)
    asked = [request([1, 5 + i], shift=True, max_tokens=200, seed=i) for i in range(6)]
    jobs, most = submit(made, *asked), 0
    for _ in range(100):
        made.step()
    (first,) = submit(made, request([1, 9], priority=1, n=6, best_of=6))
    while made.step():
        most, copied[0] = max(most, copied[0]), 0
    assert len(answers(first)) == 6
    assert made.counters.n_preempted == 6
    assert most == 1
    assert [answers(job)[0].tokens for job in jobs] == [alone(hash_model, each, deep=True)[0].tokens for each in asked]


def test_one_is_put_aside_however_small_the_cache_is(hash_model):
    made = hash_model.make_engine(n_block=20, n_seq=2, deep=True)
    asked = request([1, 5], shift=True, max_tokens=200)
    (job,) = submit(made, asked)
    for _ in range(100):
        made.step()
    submit(made, request([1, 9], priority=1, n=2, best_of=2))
    finish(made)
    assert made.counters.n_preempted > 0
    assert answers(job)[0].tokens == alone(hash_model, asked, deep=True)[0].tokens


def test_a_context_that_was_shifted_comes_back_before_a_text_for_embeddings(hash_model):
    """One that was begun as soon as nothing ran held its blocks: it was evaluated again, and went on differently."""
    made = hash_model.make_engine(n_block=20, n_seq=1, n_row=4, n_out=4, deep=True)
    asked = request([1, 5], shift=True, max_tokens=200)
    (job,) = submit(made, asked)
    for _ in range(100):
        made.step()
    submit(made, request([1, 9], priority=1, max_tokens=12))
    work = made.embedder.work(made, Embed(prompts=[[1, *[8, 9, 7] * 20]]))
    made.embedder.add(work)
    finish(made)
    assert made.counters.n_preempted == 1
    assert answers(job)[0].tokens == alone(hash_model, asked, deep=True)[0].tokens
    assert work.done.is_set()
    assert work.error is None


def test_a_model_goes_on_after_a_shift_as_if_it_had_been_alone(stories260k):
    def run(*others):
        with Session(stories260k, n_seq=2, ctx_size=128) as session:
            made = session.engine
            asked = {"max_tokens": 200, "ignore_eos": True, "shift": True, "seed": 1, "temperature": 0.8}
            (job,) = submit(made, session.request("Once upon a time", **asked))
            for _ in range(150):
                made.step()
            submit(made, *(session.request(text, max_tokens=3, priority=1, n=2, best_of=2) for text in others))
            finish(made)
            return answers(job)[0].tokens, made.counters.n_preempted

    assert run("The sun") == (run()[0], 1)
