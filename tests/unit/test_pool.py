"""The pool of models, with sessions that are no models."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest

from llamakit import pool as pool_module
from llamakit.errors import LlamaKitError, ModelFileError, NotFoundError, OutOfMemoryError, UnavailableError
from llamakit.pool import ModelPool
from tests.waiting import PATIENCE, until

GIB = 1 << 30


class FakeSession:
    n_ctx = 64

    def __init__(self, path):
        self.path, self.closed = path, 0

    def close(self):
        self.closed += 1


class Opener:
    """Opens fake sessions; can be held back, and can be told to end with an error."""

    def __init__(self):
        self.opened = []
        self.errors = {}
        self.gate = threading.Event()
        self.gate.set()
        self.steps = [(1, 4), (3, 4)]

    def __call__(self, path, progress):
        for done, total in self.steps:
            progress(done, total)
        assert self.gate.wait(PATIENCE)
        if path.name in self.errors:
            raise self.errors[path.name]
        session = FakeSession(path)
        self.opened.append(session)
        return session


@pytest.fixture
def opener():
    return Opener()


def files(tmp_path, **sizes):
    """Sparse files: name -> bytes."""
    paths = {}
    for name, size in sizes.items():
        paths[name] = tmp_path / f"{name}.gguf"
        with paths[name].open("wb") as file:
            file.truncate(size)
    return paths


def in_threads(n, function):
    """Run a function n times at once; returns what each gave or raised."""
    found = [None] * n

    def run(i):
        try:
            found[i] = function()
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return found


def test_names(tmp_path, opener):
    several = ModelPool(files(tmp_path, small=1, large=1), opener)
    assert (several.names(), several.default) == (["small", "large"], "small")
    assert [several.resolve(name) for name in (None, "", "large", "large:latest", "large.gguf")] == [
        "small", "small", "large", "large", "large",
    ]  # fmt: skip
    with pytest.raises(NotFoundError, match="'lrge'") as error:
        several.resolve("lrge")
    assert "large" in error.value.found
    assert error.value.param == "model"
    one = ModelPool(files(tmp_path, only=1), opener)
    assert one.resolve("gpt-4") == "only"


def test_a_model_is_loaded_once_for_all_who_wait(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=1), opener)
    opener.gate.clear()

    def use():
        with pool.lease() as session:
            return session

    waiting = threading.Timer(0.15, opener.gate.set)
    waiting.start()
    sessions = in_threads(16, use)
    assert len(opener.opened) == 1
    assert all(session is opener.opened[0] for session in sessions)
    info = pool.info("a")
    assert (info.loaded, info.loading, info.leases, info.n_ctx, info.error) == (True, False, 0, 64, "")
    assert abs(info.last_used - time.time()) < 60


def test_two_models_load_side_by_side(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=1, b=1), opener)
    opener.gate.clear()
    threads = [threading.Thread(target=pool.load, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    until(lambda: all(info.loading for info in pool.infos()))
    opener.gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert all(info.loaded for info in pool.infos())


def test_progress_is_told_on_the_thread_that_waits(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=1), opener)
    opener.gate.clear()
    told = []

    def on_progress(share):
        told.append((share, threading.current_thread()))
        pool.infos()  # may use the pool
        opener.gate.set()

    with pool.lease("a", on_progress):
        pass
    assert told[0] == (0.75, threading.current_thread())
    assert pool.info().progress == 1.0


def test_an_error_is_kept_shown_and_tried_again(tmp_path, opener, monkeypatch):
    pool = ModelPool(files(tmp_path, a=1), opener)
    opener.errors["a.gguf"] = ModelFileError("a.gguf is damaged")
    for error in in_threads(4, pool.load):
        assert isinstance(error, ModelFileError)
    assert pool.info().error == "a.gguf is damaged"
    del opener.errors["a.gguf"]
    with pytest.raises(ModelFileError, match="damaged"), pool.lease():
        pass  # not tried again so soon
    monkeypatch.setattr("llamakit.pool.RETRY_SECONDS", 0.0)
    with pool.lease():
        assert pool.info().error == ""


def test_load_does_not_wait_to_try_again(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=1), opener)
    opener.errors["a.gguf"] = ModelFileError("damaged")
    with pytest.raises(ModelFileError):
        pool.load()
    opener.errors.clear()
    assert pool.load().loaded


def test_a_defect_while_loading_is_an_error_for_who_waits(tmp_path, opener, caplog):
    pool = ModelPool(files(tmp_path, a=1), opener)
    opener.errors["a.gguf"] = KeyError("secret")
    with pytest.raises(LlamaKitError, match="model 'a' could not be loaded: KeyError"):
        pool.load()
    assert "secret" in caplog.text  # the log has the traceback


def test_unload(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=1), opener)
    assert not pool.unload("a")
    with pool.lease("a"), pytest.raises(UnavailableError, match="in use"):
        pool.unload("a")
    assert pool.unload("a")
    assert (opener.opened[0].closed, pool.info().loaded, pool.loaded()) == (1, False, None)
    pool.load("a")
    assert len(opener.opened) == 2


def test_the_least_recently_used_idle_model_makes_room(tmp_path, opener):
    sizes = {"a": 2 * GIB, "b": GIB, "c": 2 * GIB, "d": GIB}
    pool = ModelPool(files(tmp_path, **sizes), opener, free_memory=lambda: 4 * GIB - taken())

    def taken():
        return sum(sizes[s.path.stem] for s in opener.opened if not s.closed)

    pool.load("a")
    pool.load("b")
    with pool.lease("a"):  # older in load, younger in use
        pass
    pool.load("c")  # 4 GiB, 3 taken: b goes, which was not used for longer
    loaded = {info.name for info in pool.infos() if info.loaded}
    assert loaded == {"a", "c"}
    with pool.lease("a"):
        pool.load("d")  # a is in use, so c goes
    assert {info.name for info in pool.infos() if info.loaded} == {"a", "d"}
    assert all(session.closed <= 1 for session in opener.opened)


def test_models_in_use_are_never_unloaded(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=2 * GIB, b=2 * GIB), opener, free_memory=lambda: GIB)
    with pool.lease("a") as session:
        with pytest.raises(UnavailableError, match="no room for model 'b' now: it needs 2.00 GiB, 1.00 GiB") as error:
            pool.load("b")
        assert error.value.found == "in use: a"
        assert not session.closed


class Crowded(Opener):
    """Opens two sessions at most at a time; "huge" never fits."""

    def __call__(self, path, progress):
        if path.stem == "huge" or sum(not session.closed for session in self.opened) >= 2:
            raise OutOfMemoryError("not enough memory: keys and values")
        return super().__call__(path, progress)


def test_a_model_that_does_not_fit_beside_idle_ones_takes_their_place(tmp_path):
    """Its file fits; what it needs on top of that, it says when it is opened."""
    opener = Crowded()
    pool = ModelPool(files(tmp_path, a=1, b=1, c=1), opener)
    pool.load("a")
    pool.load("b")
    with pool.lease("a"):
        assert pool.load("c").loaded
    assert {info.name for info in pool.infos() if info.loaded} == {"a", "c"}
    with pool.lease("a"), pool.lease("c"), pytest.raises(UnavailableError, match="now: not enough memory") as error:
        pool.load("b")
    assert error.value.found == "in use: a, c"
    assert pool.load("b").loaded


def test_nothing_is_unloaded_twice_for_a_model_that_does_not_even_fit_alone(tmp_path):
    opener = Crowded()
    pool = ModelPool(files(tmp_path, a=1, huge=1), opener)
    pool.load("a")
    with pytest.raises(OutOfMemoryError):
        pool.load("huge")
    assert not pool.info("a").loaded
    pool.load("a")
    with pytest.raises(OutOfMemoryError):
        pool.load("huge")
    assert pool.info("a").loaded


def test_nobody_waits_for_the_device_to_tell_what_is_free(tmp_path, opener):
    asked, answer = threading.Event(), threading.Event()

    def free():
        asked.set()
        assert answer.wait(2 * PATIENCE)
        return GIB

    pool = ModelPool(files(tmp_path, a=1, b=1), opener, free_memory=free)
    loading = threading.Thread(target=lambda: in_threads(1, lambda: pool.load("a")))
    loading.start()
    assert asked.wait(PATIENCE)
    listed = threading.Thread(target=pool.infos)
    listed.start()
    listed.join(PATIENCE)
    waits = listed.is_alive()
    answer.set()
    loading.join(PATIENCE)
    assert not waits


def test_a_model_that_is_alone_is_tried_in_any_case(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=2 * GIB), opener, free_memory=lambda: GIB)
    assert pool.load().loaded  # the session knows what it needs, and refuses with all sizes


def test_holding_a_model_is_no_use_of_it(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=1), opener)
    with pool.held("a") as session:
        assert session is None
    assert not opener.opened
    with pool.lease("a"):
        pass
    used = pool.info("a").last_used
    time.sleep(0.02)
    with pool.held("a") as session:
        assert session is pool.loaded("a")
        with pytest.raises(UnavailableError):
            pool.unload("a")
    assert pool.info("a").last_used == used
    assert pool.unload("a")


def test_idle_models_are_unloaded(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=1, b=1), opener, idle_seconds=0.1)
    with pool.lease("b"):
        pool.load("a")
        until(lambda: not pool.info("a").loaded)
        assert pool.info("b").loaded
    until(lambda: not pool.info("b").loaded)
    assert [session.closed for session in opener.opened] == [1, 1]
    pool.close()


def test_close(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=1, b=1), opener)
    pool.load("a")
    opener.gate.clear()
    threads = [threading.Thread(target=lambda: in_threads(1, lambda: pool.load("b")))]
    threads[0].start()
    until(lambda: pool.info("b").loading)
    with pool.lease("a"):
        pool.close()  # also what is in use, and it waits for no loader
    assert opener.opened[0].closed == 1
    opener.gate.set()
    threads[0].join(PATIENCE)
    until(lambda: not pool.info("b").loading)
    assert opener.opened[1].closed == 1  # loaded too late
    with pytest.raises(UnavailableError, match="shuts down"):
        pool.load("a")


def test_a_lease_that_is_forgotten_ends_with_its_generator(tmp_path, opener):
    pool = ModelPool(files(tmp_path, a=1), opener)

    def stream():
        with pool.lease("a") as session:
            yield session

    generator = stream()
    next(generator)
    assert pool.info().leases == 1
    generator.close()
    assert pool.info().leases == 0


def test_many_threads_lease_and_unload(tmp_path, opener, monkeypatch):
    """No session is closed while somebody holds it, whatever the order."""
    monkeypatch.setattr(pool_module, "give_back_memory", lambda: None)  # it looks at all objects of the tests each time
    pool = ModelPool(files(tmp_path, a=1, b=1, c=1), opener)

    def work():
        for i in range(40):
            name = "abc"[i % 3]
            with pool.lease(name) as session:
                assert not session.closed
                time.sleep(0.0002)
                assert not session.closed
            with suppress(UnavailableError):
                pool.unload("abc"[(i + 1) % 3])

    assert in_threads(8, work) == [None] * 8
    assert all(info.leases == 0 for info in pool.infos())
    pool.close()
    assert all(session.closed == 1 for session in opener.opened)


def test_a_pool_needs_a_model(opener):
    with pytest.raises(ValueError, match="a pool needs a model"):
        ModelPool({}, opener)
