"""The engine's thread: many callers, full queues, clients that leave, backends that fail or hang."""

from __future__ import annotations

import importlib.util
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamakit.engine import service as service_module
from llamakit.engine.job import Token
from llamakit.engine.request import Embed, FinishReason, Request
from llamakit.engine.service import Service, ServiceOptions
from llamakit.errors import BackendError, QueueFullError, UnavailableError, UsageError
from tests.waiting import PATIENCE, until

_spec = importlib.util.spec_from_file_location("hash_model", Path(__file__).with_name("hash_model.py"))
hash_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hash_model)


ENDLESS = {"max_tokens": 100_000, "shift": True}  # a quarter of an hour with steps that are slow


def request(seed=0, **fields):
    fields = {"max_tokens": 20, "ignore_eos": True, "prompt": [1, 5, 6], **fields}
    return Request(seed=seed, options={"temperature": 1.0}, **fields)


@pytest.fixture
def service():
    made = Service(hash_model.make_engine(max_predict=100_000), ServiceOptions(max_queue=1000))
    yield made
    made.close()


def slow(service, seconds=0.01):
    service.engine.runner.program.hook = lambda: time.sleep(seconds)


def test_many_threads_get_their_own_answers(service):
    alone = {seed: service.submit(request(seed)).results()[0].tokens for seed in range(8)}
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda i: (i % 8, service.submit(request(i % 8)).results()[0].tokens), range(200)))
    assert all(alone[seed] == tokens for seed, tokens in answers)
    assert not service.busy


def test_what_is_wrong_is_raised_where_it_was_asked(service):
    with pytest.raises(UsageError, match="outside the vocabulary"):
        service.submit(request(prompt=[1000]))
    assert not service.busy


def test_a_full_queue_says_when_to_come_back():
    service = Service(hash_model.make_engine(n_seq=1, max_predict=100_000), ServiceOptions(max_queue=2))
    slow(service)
    jobs = [service.submit(request(**ENDLESS))]
    while not service.n_running:
        time.sleep(0.001)
    jobs += [service.submit(request()) for _ in range(2)]
    with pytest.raises(QueueFullError) as caught:
        service.submit(request())
    assert caught.value.retry_after >= 1
    jobs[0].cancel()
    assert all(len(job.results()[0].tokens) == 20 for job in jobs[1:])
    service.close()


@pytest.mark.parametrize("how", ["cancel", "by id", "gone"])
def test_a_request_that_nobody_wants_ends_at_once(service, how):
    slow(service)
    left = threading.Event()
    job = service.submit(request(**ENDLESS), id="mine", gone=left.is_set)
    assert isinstance(job.read()[0], Token)
    if how == "by id":
        assert service.cancel("mine")
    else:
        job.cancel() if how == "cancel" else left.set()
    assert job.results()[0].reason is FinishReason.CANCELLED
    assert not service.cancel("nobody")


def test_a_queued_request_whose_client_left_never_runs():
    service = Service(hash_model.make_engine(n_seq=1, max_predict=100_000))
    slow(service)
    first, second = service.submit(request(**ENDLESS)), service.submit(request(), gone=lambda: True)
    assert second.results()[0].reason is FinishReason.CANCELLED
    assert second.results() == []
    assert not first.finished
    service.close()


def test_a_backend_that_fails_ends_its_requests_and_the_next_one_works(service):
    program = service.engine.runner.program
    expected = service.submit(request(7)).results()[0].tokens
    program.fail_at = program.steps + 5
    jobs = [service.submit(request(seed)) for seed in range(3)]
    for job in jobs:
        with pytest.raises(BackendError, match="the device fell over"):
            job.results()
    assert service.submit(request(7)).results()[0].tokens == expected
    assert service.engine.space.pool.n_free + len(service.engine.space.tree) == 200


def test_a_backend_that_hangs_becomes_an_error_not_a_hang():
    service = Service(hash_model.make_engine(), ServiceOptions(stall_seconds=0.2))
    release = threading.Event()
    service.engine.runner.program.hook = lambda: release.wait(PATIENCE)
    job = service.submit(request())
    with pytest.raises(BackendError, match=r"does not answer for 0\.2 seconds"):
        job.results()
    assert service.stuck
    with pytest.raises(UnavailableError, match="does not answer"):
        service.submit(request())
    service.options = ServiceOptions()  # from here on nothing takes so long that it is given up
    release.set()
    until(lambda: not service.stuck)
    assert len(service.submit(request()).results()[0].tokens) == 20
    service.close()


def test_closing_finishes_what_runs_within_the_grace_time_and_cuts_the_rest(monkeypatch):
    service = Service(hash_model.make_engine(max_predict=100_000, n_ctx=100_000, n_block=26_000))
    slow(service, 0.005)
    short, long = service.submit(request()), service.submit(request(max_tokens=100_000))
    ticks = count()  # the time of grace begins to pass when the short one has ended
    clock = SimpleNamespace(monotonic=lambda: float(short.finished and next(ticks)), sleep=time.sleep)
    monkeypatch.setattr(service_module, "time", clock)
    service.close(grace=2.0)
    assert len(short.results()[0].tokens) == 20
    with pytest.raises(UnavailableError, match="shuts down"):
        long.results()
    with pytest.raises(UnavailableError, match="shuts down"):
        service.submit(request())


def test_functions_run_on_the_engines_thread(service):
    assert service.call(threading.current_thread).name == "llamakit-engine"
    with pytest.raises(ZeroDivisionError):
        service.call(lambda: 1 // 0)


def test_embeddings_from_many_threads(service):
    texts = [[1, *range(5, 6 + i)] for i in range(12)]
    alone = [service.embed(Embed(prompts=[text])).values[0] for text in texts]
    job = service.submit(request(max_tokens=200))
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda text: service.embed(Embed(prompts=[text])).values[0], texts))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))
    job.cancel()


def test_who_asks_again_at_once_is_not_given_the_old_error(service):
    text = Embed(prompts=[[1, 5, 6]])
    expected = service.embed(text).values[0]
    program = service.engine.embedder._runner.program
    for _ in range(30):
        program.fail_at = program.steps + 1
        with pytest.raises(BackendError, match="the device fell over"):
            service.embed(text)
        assert (service.embed(text).values[0] == expected).all()
