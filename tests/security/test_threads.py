"""Threads beside the engine's: what goes wrong in one is told to who waits for it, and none ends in silence."""

from __future__ import annotations

import subprocess
import threading
from types import SimpleNamespace

import pytest
from llamakit.plugins.frontends.cli.talk import answering
from llamakit.plugins.frontends.rest import adapter_watch
from llamakit.plugins.frontends.rest.adapter_watch import AdapterWatch
from llamakit.plugins.frontends.rest.loading import load

from llamakit.chat import worker_pool
from llamakit.errors import LlamaKitError, UnavailableError
from llamakit.pool import ModelPool
from tests.waiting import until


class FakeSession:
    closed = 0

    def close(self):
        self.closed += 1


def leave(*args):
    raise SystemExit(3)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), MemoryError(), GeneratorExit()])
def test_whatever_ends_the_loading_of_a_model_is_told_to_all_who_wait(file, error):
    """After a plugin's sys.exit they waited for ever."""

    def open_session(path, progress):
        raise error

    pool = ModelPool({"m": file}, open_session)
    with pytest.raises(LlamaKitError, match=f"could not be loaded: {type(error).__name__}"), pool.lease("m"):
        pass
    with pytest.raises(LlamaKitError, match="could not be loaded"):
        list(load(SimpleNamespace(pool=pool), "m"))
    pool.close()


def test_no_thread_for_loading_a_model_is_an_error_and_the_next_try_works(file, monkeypatch):
    pool, start = ModelPool({"m": file}, lambda path, progress: FakeSession()), threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("llamakit-load"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(UnavailableError, match="can't start new thread"), pool.lease("m"):
            pass
    with pool.lease("m") as session:
        assert isinstance(session, FakeSession)
    pool.close()


def test_a_session_that_cannot_be_closed_does_not_end_the_thread_that_unloads(tmp_path):
    paths = {name: tmp_path / name for name in "ab"}
    for path in paths.values():
        path.write_bytes(b"x")
    sessions = {"a": SimpleNamespace(close=leave), "b": FakeSession()}
    pool = ModelPool(paths, lambda path, progress: sessions[path.name], idle_seconds=0.05)
    with pool.lease("a"):
        pass
    until(lambda: pool.loaded("a") is None)
    with pool.lease("b"):
        pass
    until(lambda: sessions["b"].closed)
    pool.close()


def test_the_watch_of_an_adapter_goes_on_after_any_error(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_watch, "POLL_SECONDS", 0.005)
    watch, ended, asked = AdapterWatch(tmp_path), threading.Event(), []

    class Pool:
        default = "m"

        def loaded(self, name):
            asked.append(name)
            raise RuntimeError("a defect")

    watch.start(Pool(), ended)
    until(lambda: len(asked) >= 3)
    ended.set()


def test_a_model_opens_without_an_adapter_whose_loading_has_a_defect(tmp_path, file):
    (tmp_path / adapter_watch.ADAPTER).write_bytes(b"x")
    watch = AdapterWatch(tmp_path)
    watch._load = lambda session: 1 / 0
    session = FakeSession()
    assert watch.opening(lambda path, progress: session, file)(file, None) is session


def test_a_process_for_templates_that_does_not_start_in_time_is_ended(monkeypatch):
    """It was left behind, with its pipes."""
    made, popen = [], subprocess.Popen
    monkeypatch.setattr(worker_pool, "START_SECONDS", 0.0)
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **more: made.append(popen(*args, **more)) or made[-1])
    with pytest.raises(UnavailableError, match="cannot be started"):
        worker_pool.WorkerPool().ask("{{ 1 }}", {})
    assert made[0].returncode is not None
    assert made[0].stdin.closed
    assert made[0].stdout.closed


def test_a_chat_whose_source_cannot_begin_says_so():
    """It waited for ever."""
    with pytest.raises(ZeroDivisionError):
        answering.ask(SimpleNamespace(stream=lambda *args: 1 / 0), [], "", {}, lambda item: None)
