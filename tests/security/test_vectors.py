"""Vectors are shared out among clients as answers are: nobody's many texts keep another waiting."""

from __future__ import annotations

import threading

import msgspec
import pytest

from llamakit.engine.request import Embed, Request
from llamakit.engine.service import Service, ServiceOptions
from llamakit.errors import LlamaKitError, QueueFullError
from tests.waiting import until


def request(**fields):
    return Request(**{"prompt": [1, 5], "max_tokens": 3, "options": {"temperature": 1.0}, **fields})


def test_vectors_of_one_client_are_limited(hash_model):
    limits = ServiceOptions(per_client=2, per_client_tokens=1000, max_queue=4)
    service = Service(hash_model.make_engine(n_ctx=2000, n_block=3000), limits)
    begun, go = threading.Event(), threading.Event()
    texts, found = Embed(prompts=[[1] * 300, [2] * 300]), []

    def make_runner():
        begun.set()
        go.wait(60)
        raise MemoryError

    def ask(owner):
        try:
            service.embed(texts, owner=owner)
        except LlamaKitError as error:
            found.append(error)

    service.engine.embedder._make_runner = make_runner
    threads = [threading.Thread(target=ask, args=(owner,)) for owner in "abcd"]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    until(lambda: len(service.engine.embedder) == 4)
    with pytest.raises(QueueFullError, match="too many requests wait: 4 of at most 4"):
        service.embed(texts, owner="e")
    service.options = msgspec.structs.replace(limits, max_queue=9)
    with pytest.raises(QueueFullError, match="600 of at most 1,000 tokens of prompts, 600 more are asked"):
        service.embed(texts, owner="a")
    with pytest.raises(QueueFullError, match="600 of at most 1,000 tokens"):
        service.submit(request(prompt=[1] * 500), owner="a")
    service.options = msgspec.structs.replace(limits, max_queue=9, per_client=1)
    with pytest.raises(QueueFullError, match="1 of at most 1 sequences"):
        service.submit(request(), owner="a")
    go.set()
    for thread in threads:
        thread.join(60)
    service.close()
    assert len(found) == 4


def test_many_texts_of_one_client_do_not_keep_another_waiting(hash_model):
    """All of a client's 2,048 texts came before another's one."""
    engine = hash_model.make_engine(n_ctx=64, n_block=500)
    embedder, order = engine.embedder, []
    original = embedder._run
    embedder._run = lambda engine, work: (order.append(work.owner), original(engine, work))[1]
    texts = {"many": [[1 + i % 20, 5, 9 + i % 7] * 7 for i in range(60)], "one": [[3, 5] * 6], "heavy": [[4] * 30] * 20}
    works = {owner: embedder.work(engine, Embed(prompts=prompts), None, owner, 4.0 if owner == "heavy" else 1.0)
             for owner, prompts in texts.items()}  # fmt: skip
    for work in works.values():
        embedder.add(work)
    while len(embedder):
        engine.step()
    assert order.index("one") < 8
    assert len(order) - order[::-1].index("one") < 12
    ended = len(order) - order[::-1].index("heavy")
    assert order[:ended].count("heavy") > 2 * order[:ended].count("many")  # four times, but texts are whole
    for owner, prompts in texts.items():
        alone = [engine.embedder.wait(engine, Embed(prompts=[tokens])).values[0] for tokens in prompts]
        found = engine.embedder.vectors(engine, works[owner]).values
        assert all((a == b).all() for a, b in zip(alone, found, strict=True))
    assert engine.space.pool.n_free + len(engine.space.tree) == engine.space.pool.n_block


def test_requests_for_vectors_that_come_while_others_are_asked(hash_model):
    """`gone` is asked on the engine's thread while others add to the queue; that raised, and ended all answers."""
    engine = hash_model.make_engine()
    embedder = engine.embedder
    more = [embedder.work(engine, Embed(prompts=[[3, 4]])) for _ in range(3)]

    def gone():
        while more:
            embedder.add(more.pop())
        return False

    first = embedder.work(engine, Embed(prompts=[[1, 2]]), gone)
    embedder.add(first)
    while len(embedder):
        engine.step()
    assert not more
    assert len(embedder.vectors(engine, first).values) == 1
