"""What one request has the engine's thread do between two steps is bounded: everybody's streams stand still for it.

Counted, not timed: calls, tokens and positions.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

import pytest

from llamakit.engine import admission, beams, engine, speculation
from llamakit.engine.job import Finished, Job
from llamakit.engine.kv_space import KVSpace
from llamakit.engine.prefix_tree import PrefixTree
from llamakit.engine.request import Request
from llamakit.sampler import EndOfAnswer, Sampler, Stage
from llamakit.session import Session
from llamakit.tokenizer.stops import StopMatcher
from llamakit.tokenizer.tokenizer import Tokenizer


@contextmanager
def calls_of_c():
    """A list with the number of calls of functions written in C within the block."""
    n = [0]

    def note(frame, event, what):
        n[0] += event == "c_call"

    sys.setprofile(note)
    try:
        yield n
    finally:
        sys.setprofile(None)


def finished(events):
    return [event.result for event in events if isinstance(event, Finished)]


# -- stop strings -----------------------------------------------------------------------------------------------------


def test_a_text_that_was_nearly_many_stop_strings():
    """128 stop strings of a thousand letters took 40 ms of each answer when the text parted from them: 2.4 s of 63."""
    matcher = StopMatcher(["a" * 1000 + chr(98 + i % 24) + str(i) for i in range(128)])
    assert matcher.push("a" * 900) == ("", None)
    with calls_of_c() as n:
        assert matcher.push("b") == ("a" * 900 + "b", None)
    assert n[0] < 10_000


def test_stop_strings_are_looked_for_in_what_is_new(monkeypatch):
    """Where they are nearly in the text at each of its places, to look through all of it takes 60 us each time."""

    class Text(str):
        seen = 0

        def find(self, stop, start=0):
            Text.seen += len(self) - start - len(stop) + 1 if len(self) - start >= len(stop) else 0
            return str.find(self, stop, start)

        def __add__(self, other):
            return Text(str.__add__(self, other))

    matcher = StopMatcher(["a" * 1000, *("a" * 300 + f"b{i}" for i in range(127))])
    matcher._held = Text("a" * 900)
    assert matcher.push("a") == ("", None)
    assert Text.seen < 1000


def test_beams_look_for_stop_strings_in_what_is_new(hash_model, monkeypatch):
    looked = []

    class Text(str):
        def find(self, stop, start=0):
            looked.append(len(self) - start - len(stop))
            return str.find(self, stop, start)

        def __contains__(self, stop):
            looked.append(len(self) - len(stop))
            return str.__contains__(self, stop)

    engine = hash_model.make_engine()
    decode = engine.tokenizer.decode
    monkeypatch.setattr(engine.tokenizer, "decode", lambda tokens: Text(decode(tokens)), raising=False)
    request = Request(prompt=[1, 5, 6], beams=3, max_tokens=40, ignore_eos=True, stop=("[[[[", "]]]]"))
    assert len(finished(engine.run(Job(request)))[0].tokens) == 40
    assert max(looked) <= 4


# -- beams ------------------------------------------------------------------------------------------------------------


def test_beams_that_all_meet_the_limit_are_not_all_kept(hash_model, monkeypatch):
    """All continuations of all beams end there: 8,192 answers of 64 beams were kept to tell the best."""
    kept, answer = [], beams.BeamGroup._answer
    monkeypatch.setattr(beams.BeamGroup, "_answer", lambda self: (kept.append(len(self.complete)), answer(self)))
    request = Request(prompt=[1, 5, 6], beams=6, n=6, max_tokens=5, ignore_eos=True)
    found = finished(hash_model.make_engine().run(Job(request)))
    assert kept == [6]
    assert [result.score for result in found] == sorted((result.score for result in found), reverse=True)


def test_beams_that_a_grammar_ended_take_the_place_of_none_that_are_likelier(hash_model):
    """They counted as answers that the step had completed, after which it looked no further."""

    class Ender(Sampler):
        """Leaves no token after some."""

        name, stage, last = "ender", Stage.LOGITS, 1

        def apply(self, candidates):
            if self.last % 3 == 0:
                raise EndOfAnswer

        def accept(self, token_id):
            self.last = token_id

        def clone(self):
            other = Ender(self.options, self.context)
            other.last = self.last
            return other

    made = hash_model.make_engine()
    made.samplers = {**made.samplers, "ender": Ender}
    request = Request(prompt=[1, 5], beams=3, n=3, max_tokens=2, ignore_eos=True, samplers=("ender", "greedy"))
    assert [result.tokens for result in finished(made.run(Job(request)))] == [[1, 5], [38, 26], [38, 33]]


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session(small_model):
    with Session(small_model, n_seq=6) as made:
        yield made


def test_a_prompt_without_text_is_looked_through_once(session, monkeypatch):
    """For the space before an answer: 63 answers to 32,000 control tokens took 1.3 s in one step."""
    asked, piece = [], Tokenizer.piece

    def note(self, token, **how):
        asked.append(token)
        return piece(self, token, **how)

    monkeypatch.setattr(Tokenizer, "piece", note)
    request = Request(prompt=[1] * 200, n=6, max_tokens=2, ignore_eos=True)
    prepared = session.engine.prepare(request)
    assert len(asked) == 1
    assert prepared.last_shown == []
    finished(session.engine.run(Job(request)))
    assert len(asked) < 50


@pytest.mark.parametrize("prompt", [[1], [1, 400], [1, 400, 1, 1], [400, 401, 2]])
def test_the_last_token_with_a_text_says_what_follows(session, prompt):
    tokenizer = session.tokenizer
    for special in (False, True):
        last = tokenizer.last_shown(prompt, special=special)
        whole = tokenizer.decode([*prompt, 403, 404], special=special)
        begin = tokenizer.decode(prompt, special=special)
        stream = tokenizer.detokenizer(last, special=special)
        assert begin + "".join(map(stream.push, [403, 404])) == whole


# -- many long prompts that begin alike -------------------------------------------------------------------------------


class Tokens(list):
    """Notes how many tokens were taken out of it at once, but for all before the last one."""

    longest = 0

    def __getitem__(self, place):
        found = list.__getitem__(self, place)
        if isinstance(place, slice) and place.stop != -1:
            Tokens.longest = max(Tokens.longest, len(found))
        return found


def test_prompts_are_not_compared_with_those_of_all_others(hash_model, monkeypatch):
    """60 of 32,000 tokens that part at their ends took 1.4 s of one step."""
    begin = [1, *range(5, 35)]
    made, jobs = hash_model.make_engine(), []
    list(made.run(Job(Request(prompt=begin, max_tokens=1))))
    for i in range(6):
        jobs.append(Job(Request(prompt=[*begin, 30 + i, 5, 6, 7, 8, 9, 10], max_tokens=1)))
        first = made.submit(jobs[-1]).sequences[0]
        first.tokens = Tokens(first.tokens)
    monkeypatch.setattr(Tokens, "longest", 0)
    made.queue.admit(0.0)
    assert len(made.running) == 6
    assert Tokens.longest <= made.space.size


def test_prompts_that_are_alike_wait_for_the_first(hash_model):
    made = hash_model.make_engine(n_row=8)
    prompt = [1, *range(5, 35)]
    list(made.run(Job(Request(prompt=prompt[:12], max_tokens=1))))
    jobs = [Job(Request(prompt=prompt, max_tokens=1)) for _ in range(5)]
    for job in jobs:
        made.submit(job)
    before = made.counters.n_row
    while made.step():
        pass
    assert made.counters.n_row - before < 2 * len(prompt)
    assert [len(finished(job.drain())) for job in jobs] == [1] * 5


def test_not_too_much_is_looked_up_in_one_step(hash_model, monkeypatch):
    n, match = [0], PrefixTree.match

    def count(self, *args):
        path, length = match(self, *args)
        n[0] += length
        return path, length

    monkeypatch.setattr(PrefixTree, "match", count)
    monkeypatch.setattr(admission, "MOST_MATCHED", 40, raising=False)
    made, begin = hash_model.make_engine(), [1, *range(5, 35)]
    list(made.run(Job(Request(prompt=begin, max_tokens=1))))
    jobs = [Job(Request(prompt=[*begin, 30 + i, 5, 6], max_tokens=1)) for i in range(6)]
    for job in jobs:
        made.submit(job)
    n[0] = most = 0
    while made.step():
        most, n[0] = max(most, n[0]), 0
    assert most <= 40 + 2 * len(begin)
    assert [len(finished(job.drain())) for job in jobs] == [1] * 6


def test_prompts_of_those_who_do_not_read_are_not_looked_up(hash_model, monkeypatch):
    """They took what is looked up in a step from those behind them, in each one."""
    monkeypatch.setattr(admission, "MOST_MATCHED", 40)
    made, begin = hash_model.make_engine(n_row=8), [1, *range(5, 35)]
    list(made.run(Job(Request(prompt=begin, max_tokens=1))))
    made.submit(Job(Request(prompt=[7] * 40, max_tokens=1)))
    made.step()
    assert made.running[0].in_prefill
    unread = [Job(Request(prompt=[*begin, 30 + i, 5, 6], max_tokens=1)) for i in range(4)]
    for job in unread:
        job.most_ahead, job._n_told = 1, 100
        made.submit(job)
    last = made.submit(Job(Request(prompt=[1, 9], max_tokens=1)))
    made.queue.admit(0.0)
    assert last in made.running


# -- contexts that are full -------------------------------------------------------------------------------------------


def test_full_contexts_are_shifted_one_after_the_other(hash_model, monkeypatch):
    """63 answers that met the end of 32,000 tokens together took 1.4 s of one step to be moved."""
    asked = [
        Request(prompt=[1, *range(5, 25)], n=5, max_tokens=90, ignore_eos=True, shift=True),
        Request(prompt=[1, 7], max_tokens=90, ignore_eos=True, shift=True),
    ]
    alone = [[r.tokens for r in finished(hash_model.make_engine().run(Job(each)))] for each in asked]
    n, shift = [0], KVSpace.shift

    def count(self, *args):
        n[0] += 1
        return shift(self, *args)

    monkeypatch.setattr(KVSpace, "shift", count)
    monkeypatch.setattr(engine, "SHIFT_SECONDS", 0.0, raising=False)
    made, jobs = hash_model.make_engine(), [Job(each) for each in asked]
    for job in jobs:
        made.submit(job)
    total = most = 0
    while made.step():
        most, total, n[0] = max(most, n[0]), total + n[0], 0
    assert (most, total > 6) == (1, True)
    assert [[r.tokens for r in sorted(finished(job.drain()), key=lambda r: r.choice)] for job in jobs] == alone


# -- guesses ----------------------------------------------------------------------------------------------------------


def test_runs_of_tokens_are_noted_a_part_at_a_time_and_once_for_all_answers(hash_model, monkeypatch):
    """For 63 answers to 32,000 tokens it took 0.6 s of one step."""
    request = Request(prompt=[1, *range(5, 35)], n=5, max_tokens=20, ignore_eos=True)
    alone = [r.tokens for r in finished(hash_model.make_engine(memory=1).run(Job(request)))]
    monkeypatch.setattr(speculation, "MOST_INDEXED", 10, raising=False)
    runs, run = [0], speculation._run

    def count(tokens, end):
        runs[0] += 1
        return run(tokens, end)

    monkeypatch.setattr(speculation, "_run", count)
    made = hash_model.make_engine(memory=1, drafter=speculation.NGramDrafter(4))
    job = Job(request)
    made.submit(job)
    most = total = 0
    while made.step():
        most, total, runs[0] = max(most, runs[0]), total + runs[0], 0
    assert most <= 10 + 5  # and those that are looked up
    assert total < 30 + 5 * 40
    assert [r.tokens for r in sorted(finished(job.drain()), key=lambda r: r.choice)] == alone


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_who_needs_no_adapter_does_not_wait_for_a_place_of_one(hash_model, module_of):
    """As many long answers with scales of their own as there are places, and one more: nobody else was let in."""
    adapters = module_of("unit/engine/test_adapters.py").store(1, "a", "b")
    made = hash_model.make_engine(adapters=adapters)
    asked = [(("a", 1.0),), (("b", 0.5),), (), (("b", 0.5),), ()]
    jobs = [Job(Request(prompt=[1, 5], max_tokens=10, ignore_eos=True, adapters=each)) for each in asked]
    for job in jobs:
        made.submit(job)
    order, left = [], set(range(5))
    while made.step():
        now = [i for i in left if jobs[i].finished]
        order.append(now)
        left -= set(now)
    assert [now for now in order if now] == [[0, 2, 4], [1, 3]]
    made.space.tree.clear()
    assert made.space.pool.n_free == 200


def test_who_waits_for_a_place_of_an_adapter_sends_nobody_away_in_vain(hash_model, module_of):
    """Whoever has none of these places was sent back into the queue in every other step, and let in in the next."""
    adapters = module_of("unit/engine/test_adapters.py").store(1, "a", "b")
    made = hash_model.make_engine(adapters=adapters)
    for name, priority in (("a", 1), ("", 0), ("b", 1)):
        chosen = ((name, 1.0),) if name else ()
        made.submit(Job(Request(prompt=[1, 5], max_tokens=20, ignore_eos=True, adapters=chosen, priority=priority)))
    while made.step():
        pass
    assert made.counters.n_preempted == 0
    for name, priority in (("a", 0), ("b", 1)):
        made.submit(Job(Request(prompt=[1, 5], max_tokens=20, adapters=((name, 1.0),), priority=priority)))
        made.step()
    assert [group.adapters for group in made.running] == [(("b", 1.0),)]
