"""The models of a server: loaded when they are asked for, kept while they are in use, unloaded when room is needed.

    models = {"small": "small.gguf", "large": "large.gguf"}
    pool = ModelPool(models, opener(registry, settings), free_memory=lambda: device_memory(registry, settings).free)
    with pool.lease("small") as session:     # waits while it loads
        ...

Every method may be called from any thread. A model is loaded by a thread of its own, one at a time for each model;
whoever waits for it sees how far it is.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import contextmanager
from ctypes import c_double
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.errors import LONGEST_NAME, LlamaKitError, NotFoundError, OutOfMemoryError, UnavailableError
from llamakit.options import near
from llamakit.system import give_back_memory
from llamakit.units import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llamakit.backend import Memory
    from llamakit.devices.split import Member
    from llamakit.registry import Registry
    from llamakit.session import Session

    OpenSession = Callable[[Path, Callable[[int, int], None]], Session]

log = logging.getLogger("llamakit.pool")
RETRY_SECONDS = 5.0  # after a load that ended with an error, the next one at the earliest
TICK = 0.1  # how often those who wait for a model report how far it is


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the APIs list it.

    `path`: for logs, never for clients; `size`: bytes of its file; `progress`: 0 to 1 while it loads; `n_ctx`: 0
    unless loaded; `last_used`: seconds since 1970, 0 if never; `leases`: requests that use it now; `error`: why it did
    not load.
    """

    name: str
    path: str
    size: int
    loaded: bool
    loading: bool
    progress: float
    n_ctx: int
    last_used: float
    leases: int
    error: str


class _Model:
    """A model's place in the pool. Everything here changes under the pool's lock only, but `progress`."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.session: Session | None = None
        self.loading = False
        self.progress = 0.0
        self.leases = 0
        self._used, self._used_at = c_double(0.0), c_double(0.0)  # changed in place, as `stats.Counters` are
        self.error: LlamaKitError | None = None
        self.failed = 0.0
        self.too_large = False  # it did not even fit alone: nothing is unloaded for it in vain again

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    @property
    def used(self) -> float:
        """When it was last asked, by the monotonic clock."""
        return self._used.value

    def touch(self) -> None:
        self._used.value, self._used_at.value = time.monotonic(), time.time()

    def info(self) -> ModelInfo:
        session = self.session
        return ModelInfo(
            name=self.name, path=str(self.path), size=self.size, loaded=session is not None, loading=self.loading,
            progress=1.0 if session is not None else self.progress, n_ctx=session.n_ctx if session is not None else 0,
            last_used=self._used_at.value, leases=self.leases, error=self.error.message if self.error else "",
        )  # fmt: skip


class ModelPool:
    """Several models by name; the first one is the default."""

    def __init__(
        self,
        models: Mapping[str, str | Path],
        open_session: OpenSession,
        *,
        idle_seconds: float = 0.0,
        free_memory: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        """`open_session(path, progress)` gives a session that is wholly loaded; `free_memory` is what its device has.

        A model that was not used for `idle_seconds` is unloaded; 0 keeps it for good.
        """
        if not models:
            raise ValueError("a pool needs a model")
        self._models = {name: _Model(name, Path(path)) for name, path in models.items()}
        self._open_session, self._free_memory, self.idle_seconds = open_session, free_memory, idle_seconds
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self.default = next(iter(self._models))
        if idle_seconds:
            threading.Thread(target=self._unload_idle, name="llamakit-idle", daemon=True).start()

    # -- asking --------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names, the default first."""
        return list(self._models)

    def infos(self) -> list[ModelInfo]:
        """All models and how they stand."""
        with self._changed:
            return [model.info() for model in self._models.values()]

    def resolve(self, name: str | None) -> str:
        """The model that a request means. With one model every name does; else an unknown one is a NotFoundError."""
        if not name or len(self._models) == 1:
            return self.default
        found = self.find(name)
        if found is not None:
            return found
        raise NotFoundError(
            f"no model {name[:LONGEST_NAME]!r}", found=near(name[:LONGEST_NAME], self._models), param="model"
        )

    def find(self, name: str) -> str | None:
        """The model of this name, without regard to case and to `:latest`; None if there is none."""
        by_name = {each.casefold(): each for each in reversed(self._models)}
        tries = (name, name.removesuffix(":latest"), name.removesuffix(".gguf"))
        return next((each for each in tries if each in self._models), None) or next(
            (by_name[each.casefold()] for each in tries if each.casefold() in by_name), None
        )

    def info(self, name: str | None = None) -> ModelInfo:
        """How one model stands."""
        with self._changed:
            return self._models[self.resolve(name)].info()

    def loaded(self, name: str | None = None) -> Session | None:
        """The session of a model if it is loaded, for a look at it; only a lease keeps it from being unloaded."""
        return self._models[self.resolve(name)].session

    # -- using ---------------------------------------------------------------------------------------------------

    @contextmanager
    def lease(self, name: str | None = None, on_progress: Callable[[float], None] | None = None) -> Iterator[Session]:
        """The session of a model, loaded if need be; it stays while the block runs.

        Raises NotFoundError, UnavailableError (no room beside models in use; closing) and whatever its loading raised.
        `on_progress` is called from 0 to 1 while it loads, on the caller's thread.
        """
        model = self._models[self.resolve(name)]
        session = self._acquire(model, on_progress)
        try:
            yield session
        finally:
            self._release(model)

    @contextmanager
    def held(self, name: str | None = None) -> Iterator[Session | None]:
        """The session of a model if it is loaded now, kept while the block runs. This is no use of the model."""
        model = self._models[self.resolve(name)]
        with self._changed:
            session = model.session
            model.leases += session is not None
        try:
            yield session
        finally:
            if session is not None:
                with self._changed:
                    model.leases -= 1
                    self._changed.notify_all()

    def load(self, name: str | None = None, on_progress: Callable[[float], None] | None = None) -> ModelInfo:
        """Load a model and wait for it; what did not load before is tried again."""
        model = self._models[self.resolve(name)]
        with self._changed:
            model.error = None
        self._acquire(model, on_progress)
        self._release(model)
        return self.info(model.name)

    def unload(self, name: str | None = None) -> bool:
        """Unload a model; False if it was not loaded, UnavailableError while requests use it."""
        model = self._models[self.resolve(name)]
        with self._changed:
            if model.session is None:
                return False
            if model.leases:
                raise UnavailableError(f"model {model.name!r} is in use", found=f"{model.leases} requests use it")
            session = self._take(model)
        session.close()
        del session  # it refers to itself
        give_back_memory()
        return True

    def close(self) -> None:
        """Unload everything, in use or not; nothing can be leased any more."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            sessions = [self._take(model) for model in self._models.values() if model.session is not None]
        for session in sessions:
            _close(session)

    # -- how -----------------------------------------------------------------------------------------------------

    def _acquire(self, model: _Model, on_progress: Callable[[float], None] | None) -> Session:
        """Wait until a model is loaded, starting that if nobody did, and count one more lease."""
        told = -1.0
        with self._changed:
            self._check_retry(model)
            while model.session is None:
                self._check_open()
                if not model.loading:
                    if model.error is not None and told >= 0:  # it ended while we waited
                        raise model.error.with_traceback(None)
                    self._start(model)
                told = max(told, 0.0)
                self._changed.wait(TICK)
                if on_progress is not None and model.progress > told:
                    told = model.progress
                    self._outside(on_progress, told)
            model.leases += 1
            model.touch()
            return model.session

    def _outside(self, function: Callable[[float], None], value: float) -> None:
        """Call a function of somebody else without the lock."""
        self._changed.release()
        try:
            function(value)
        finally:
            self._changed.acquire()

    def _release(self, model: _Model) -> None:
        with self._changed:
            model.leases -= 1
            model.touch()
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise UnavailableError("the server shuts down", hint="send the request again later")

    def _check_retry(self, model: _Model) -> None:
        """A model that just did not load gives the same error for a while, in place of another try."""
        if model.error is not None and time.monotonic() - model.failed < RETRY_SECONDS:
            raise model.error.with_traceback(None)

    def _start(self, model: _Model) -> None:
        thread = threading.Thread(target=self._load, args=(model,), name=f"llamakit-load-{model.name}", daemon=True)
        try:
            thread.start()  # it waits for the lock that we hold
        except RuntimeError as error:
            raise UnavailableError(f"model {model.name!r} cannot be loaded now: {error}", retry_after=10) from None
        model.loading, model.progress, model.error = True, 0.0, None

    def _load(self, model: _Model) -> None:
        """The loader's thread."""
        session: Session | None = None
        error: LlamaKitError | None = None
        try:
            with self._changed:
                pass  # until it is noted that we load
            session = self._open(model)
        except LlamaKitError as caught:
            error = caught
        except BaseException as caught:  # a plugin's sys.exit among them: else those who wait would do so for ever
            log.exception("model %s could not be loaded", model.name)
            error = LlamaKitError(f"model {model.name!r} could not be loaded: {type(caught).__name__}")
        if session is not None and self._closing.is_set():  # nobody will ask for it
            _close(session)
            session = None
        with self._changed:
            model.session, model.error, model.loading = session, error, False
            model.failed = time.monotonic()
            model.touch()
            self._changed.notify_all()

    def _open(self, model: _Model) -> Session:
        """Open a model, unloading others where it does not fit beside them: by its file, or by what it says itself."""
        while True:
            self._make_room(model)
            try:
                session = self._open_session(model.path, lambda done, total: _set_progress(model, done, total))
            except OutOfMemoryError as error:  # its steps and its cache come on top of the file
                if model.too_large or not self._evict(model, error.message):
                    model.too_large = True
                    raise
            else:
                model.too_large = False
                return session

    def _make_room(self, model: _Model) -> None:
        """Unload what was not used for longest until the model's file fits into free memory.

        With nothing to unload, the session itself says what does not fit.
        """
        more = True
        while more:
            free = self._free_memory()  # not under the lock: devices are opened to ask them
            more = self._evict(model, f"it needs {size_text(model.size)}, {size_text(free)} are free", free)

    def _evict(self, model: _Model, why: str, free: int = -1) -> bool:
        """Unload what was not used for longest, unless the files fit into `free` bytes; False if nothing was unloaded.

        UnavailableError with the reason where all others are in use.
        """
        with self._changed:
            others = [m for m in self._models.values() if m is not model]
            loaded = [m for m in others if m.session is not None]
            if not loaded or model.size + sum(m.size for m in others if m.loading) <= free:
                return False
            idle = [m for m in loaded if not m.leases]
            if not idle:
                raise _no_room(model, why, loaded)
            victim = min(idle, key=lambda m: m.used)
            session = self._take(victim)
        log.info("unloading %s to make room for %s", victim.name, model.name)
        session.close()
        del session
        give_back_memory()
        return True

    def _take(self, model: _Model) -> Session:
        """A model's session, out of the pool."""
        session, model.session, model.progress = model.session, None, 0.0
        assert session is not None  # the caller looked, under the lock
        return session

    def _unload_idle(self) -> None:
        """The thread that unloads what nobody uses."""
        while not self._closing.wait(min(5.0, self.idle_seconds / 4)):
            long_ago = time.monotonic() - self.idle_seconds
            with self._changed:
                idle = [m for m in self._models.values() if m.session and not m.leases and m.used < long_ago]
                sessions = [self._take(model) for model in idle]
            for model, session in zip(idle, sessions, strict=True):
                log.info("unloading %s: not used for %g s", model.name, self.idle_seconds)
                _close(session)
            if sessions:
                del session
                sessions.clear()
                give_back_memory()


def _close(session: Session) -> None:
    """Close a session; what goes wrong with that must not end a thread that has more to do."""
    try:
        session.close()
    except BaseException:
        log.exception("a session could not be closed in order")


def _set_progress(model: _Model, done: int, total: int) -> None:
    model.progress = done / total if total else 0.0


def _no_room(model: _Model, why: str, loaded: list[_Model]) -> LlamaKitError:
    """The error for a model that has no room while others are in use."""
    names = ", ".join(m.name for m in loaded)
    return UnavailableError(
        f"no room for model {model.name!r} now: {why}",
        found=f"in use: {names}", hint="try again when their requests are done", retry_after=10,
    )  # fmt: skip


def device_memory(registry: Registry, settings: Mapping[str, Any]) -> Memory:
    """How much memory the device has, now, that sessions with these settings use."""
    from llamakit.devices import open_members
    from llamakit.devices.offload import devices_for, is_gpu
    from llamakit.session import make_backend

    options, threads = settings.get("backend_options"), settings.get("threads")
    if settings.get("device"):
        return _members_memory(open_members(registry, settings["device"], options, threads))
    cls, _ = registry.choose_backend(settings.get("backend", "auto"))
    if is_gpu(cls):  # layers that do not fit there run on the CPU
        placed = (settings.get("gpu_layers", -1), settings.get("main_gpu", 0), settings.get("tensor_split", ""))
        return _members_memory(open_members(registry, devices_for(cls, *placed), options, threads))
    device = make_backend(registry, cls.name, options, threads)[0].open()
    try:
        return device.memory()
    finally:
        device.close()


def _members_memory(members: list[Member]) -> Memory:
    """Of several devices together; they are closed again."""
    from llamakit.devices.split import memory_of

    try:
        return memory_of(members)
    finally:
        for member in members:
            member.device.close()


def opener(registry: Registry, settings: Mapping[str, Any]) -> OpenSession:
    """What opens sessions with the same settings each, loaded up to the engine's thread."""

    def open_session(path: Path, progress: Callable[[int, int], None]) -> Session:
        from llamakit.session import Session

        session = Session(path, registry=registry, progress=progress, **settings)
        try:
            session.service  # noqa: B018 - loads the weights and starts the engine
        except BaseException:
            session.close()
            raise
        return session

    return open_session
