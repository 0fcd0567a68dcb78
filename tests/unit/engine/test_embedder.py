"""Requests for vectors: what they hold, and that they give it back."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from llamakit.adapter import Adapter
from llamakit.backend import AdapterTable
from llamakit.engine.adapters import AdapterStore
from llamakit.engine.request import Embed
from llamakit.models.lora import make_adapter

_spec = importlib.util.spec_from_file_location("hash_model", Path(__file__).with_name("hash_model.py"))
hash_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hash_model)


class Table(AdapterTable):
    """Slots that hold nothing; `broken`: the device is gone."""

    broken = False

    def __init__(self, n_slot):
        self.n_slot = n_slot

    def set(self, slot, adapters):
        pass

    def clear(self, slot):
        if self.broken:
            raise RuntimeError("the device is gone")


def adapter(name, seed):
    rng = np.random.default_rng(seed)
    pair = Adapter(rng.normal(size=(2, 6)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32), 0.5)
    return make_adapter(name, Path(f"/some/folder/{name}.gguf"), 1.0, {"w": pair})


NAMES = ("a", "b", "c")


@pytest.fixture
def engine():
    """An engine with two slots for three adapters."""
    store = AdapterStore(Table(2), 2)
    for seed, name in enumerate(NAMES):
        store.add(adapter(name, seed), 0)
    return hash_model.make_engine(adapters=store)


def begin(engine, name):
    """A request that is in the middle of its text, and holds a slot."""
    work = engine.embedder.work(engine, Embed(prompts=[[1] * 60], adapters=((name, 1.0),)))
    engine.embedder.add(work)
    engine.step()
    assert work.begun
    return work


def test_a_request_that_is_ended_by_another_step_gives_its_adapters_back(engine):
    error = RuntimeError("another step fell over")
    for name in NAMES * 2:
        work = begin(engine, name)
        engine.abandon(error)
        engine.reset()
        assert work.done.is_set()
        assert work.error is error
    assert len(engine.embedder) == 0


def test_all_are_told_although_one_cannot_give_back_what_it_holds(engine):
    works = [begin(engine, "a")]
    works.append(engine.embedder.work(engine, Embed(prompts=[[1, 5, 6]])))
    engine.embedder.add(works[1])
    engine.adapters.remove("a")  # so that its slot is to be cleared with the last use of it
    engine.adapters._table.broken = True
    engine.abandon(RuntimeError("the device is gone"))
    assert all(work.done.is_set() for work in works)


def test_a_slot_is_given_back_once(engine):
    """The step that failed was the request's own: it gave everything back before it was told."""
    work = begin(engine, "a")
    program = engine.embedder._runner.program
    program.fail_at = program.steps + 1
    with pytest.raises(RuntimeError, match="fell over"):
        engine.step()
    engine.abandon(RuntimeError("fell over"))
    engine.reset()
    assert work.done.is_set()
    assert {engine.adapters.acquire(engine.adapters.resolve([(name, 1.0)])) for name in "bc"} == {1, 2}
