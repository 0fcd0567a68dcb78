"""A device that is lost: requests end with an error, it is opened again, and answers are what they were."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytest

from llamakit.backend import Availability, Backend
from llamakit.engine.job import Token
from llamakit.errors import BackendError, DeviceLostError, UnavailableError
from llamakit.hookspecs import hookimpl
from llamakit.registry import Registry
from llamakit.session import Session
from llamakit.testing.lora import gguf_pair, write_gguf_adapter
from tests.waiting import until

DEVICES: list[Fragile] = []


class Fragile:
    """The cpu's device, of which everything is of no use any more when it is lost, until it is opened again."""

    def __init__(self) -> None:
        self.inner: Any = Registry.discover().backend("cpu")().open()
        self.age, self.lost, self.refuse, self.loaded = 0, False, 0, 0
        self.fail_at = -1  # the run that loses it
        DEVICES.append(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def check(self, *things: Any) -> None:
        if self.lost or any(thing is not None and thing.age != self.age for thing in things):
            raise DeviceLostError("the device is gone")

    def _made(self, thing: Any) -> Any:
        self.check()
        thing.age = self.age
        return thing

    def load(self, source: Any, uses: Any) -> Any:
        self.loaded += 1
        return self._made(self.inner.load(source, uses))

    def kv_cache(self, spec: Any) -> Any:
        return self._made(self.inner.kv_cache(spec))

    def adapter_table(self, targets: Any, n_slot: int) -> Any:
        table = self._made(self.inner.adapter_table(targets, n_slot))
        fill = table.set
        table.set = lambda *args: (self.check(table), fill(*args))[1]
        return table

    def compile(self, graph: Any, weights: Any, *, kv: Any = None, adapters: Any = None, states: Any = None) -> Any:
        self.check(*weights.values(), kv, adapters)
        program = self._made(self.inner.compile(graph, weights, kv=kv, adapters=adapters, states=states))
        run = program.run

        def checked(*args: Any, **more: Any) -> Any:
            self.fail_at -= 1
            self.lost = self.lost or self.fail_at == 0
            self.check(program, kv, adapters)
            return run(*args, **more)

        program.run = checked
        return program

    def reopen(self) -> None:
        if self.refuse:
            self.refuse -= 1
            raise BackendError("nothing there")
        self.age, self.lost = self.age + 1, False


class FragileBackend(Backend):
    name = "fragile"

    @classmethod
    def probe(cls) -> Availability:
        return Availability(available=True, reason="for tests")

    def open(self, index: int = 0) -> Any:
        return Fragile()


@hookimpl
def llamakit_backends() -> list[type[Backend]]:
    return [FragileBackend]


@pytest.fixture
def registry(monkeypatch):
    entry = EntryPoint("backend.fragile", "lost_device_plugin", "llamakit")
    monkeypatch.setitem(sys.modules, "lost_device_plugin", sys.modules[__name__])
    return Registry([*entry_points(group="llamakit"), entry])


@pytest.fixture
def session(registry, small_model):
    with Session(small_model, registry=registry, backend="fragile", n_seq=4, adapter_slots=2) as session:
        yield session


WANTED = {"max_tokens": 12, "temperature": 0.0}


@pytest.mark.usefixtures("stories260k")
def test_requests_end_with_an_error_and_the_next_ones_are_answered_as_before(session):
    expected = session.generate("Once", **WANTED).text
    service, device = session.service, DEVICES[-1]
    loaded = device.loaded
    jobs = [service.submit(session.request("Once upon", max_tokens=200, ignore_eos=True)) for _ in range(2)]
    assert isinstance(jobs[0].read()[0], Token)
    device.lost = True
    for job in jobs:
        with pytest.raises(BackendError, match="the device is gone"):
            job.results()
    assert session.generate("Once", **WANTED).text == expected
    assert device.loaded == 2 * loaded  # every tensor was read again
    assert session.embed("Once").shape == (64,)
    device.lost = True
    with pytest.raises(BackendError):
        session.embed("Once upon")
    assert session.embed("Once").shape == (64,)
    assert not service.trouble


@pytest.mark.usefixtures("stories260k")
def test_adapters_and_embeddings_come_back(session, tmp_path):
    pair = gguf_pair("output.weight", 4, 0, {"output.weight": (512, 64)}, 1.0)
    path = write_gguf_adapter(tmp_path / "a.gguf", pair)
    session.load_adapter(path, "a", 2.0)
    plain, adapted = (session.generate("Once", adapters=each, **WANTED).text for each in ((), (("a", 2.0),)))
    vector = session.embed("Once")
    assert plain != adapted
    session.service  # noqa: B018 - from here on the engine has a thread
    device = DEVICES[-1]
    device.lost = True
    with pytest.raises(BackendError):
        session.generate("Once", adapters=(("a", 2.0),), **WANTED)
    assert session.generate("Once", adapters=(("a", 2.0),), **WANTED).text == adapted
    assert (session.embed("Once") == vector).all()


def test_while_it_cannot_be_had_requests_are_refused(session, monkeypatch):
    monkeypatch.setattr("llamakit.engine.service.REOPEN_SECONDS", 0.2)
    expected = session.generate("Once", **WANTED).text
    service, device = session.service, DEVICES[-1]
    device.lost, device.refuse = True, 1 << 30
    with pytest.raises(BackendError):
        session.generate("Once", **WANTED)

    def refused():
        try:
            session.generate("Once", **WANTED)
        except UnavailableError as error:
            return "the device was lost" in error.message and error.retry_after > 0
        except BackendError:  # it came before the first try to open the device again
            return False

    until(refused)
    device.refuse = 0
    until(lambda: not service.trouble)
    assert session.generate("Once", **WANTED).text == expected


def test_without_a_service_the_session_is_told_to(session):
    expected = session.generate("Once", **WANTED).text
    device = DEVICES[-1]
    device.fail_at = 5
    with pytest.raises(DeviceLostError):
        session.generate("Once upon", **WANTED)
    session.reopen()
    assert session.generate("Once", **WANTED).text == expected


def test_a_draft_model_comes_back_too(registry, small_model):
    with Session(
        small_model, registry=registry, backend="fragile", n_seq=2, draft_model=str(small_model), draft=4
    ) as session:
        expected = session.generate("Once", **WANTED).text
        session.service  # noqa: B018 - from here on the engine has a thread
        DEVICES[-1].lost = True
        with pytest.raises(BackendError):
            session.generate("Once", **WANTED)
        assert session.generate("Once", **WANTED).text == expected
