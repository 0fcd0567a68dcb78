"""`--lora-watch`: the adapter of a training run, loaded when it is there and again when a new one is whole.

The file's identity is looked at once a second. Trainers write another file and rename it, so what is found is whole;
what cannot be read is logged once, and the adapter that was loaded stays.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from llamakit.errors import LlamaKitError
from llamakit.run_folder import ADAPTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.pool import ModelPool, OpenSession
    from llamakit.session import Session

    Stamp = tuple[int, int, int]

log = logging.getLogger("llamakit.rest")
POLL_SECONDS = 1.0


class AdapterWatch:
    """The adapter in `folder`, for sessions of the default model. Its name is the folder's."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / ADAPTER
        self.name = Path(folder).resolve().name or ADAPTER
        self._lock = threading.Lock()
        self._seen: WeakKeyDictionary[Session, Stamp] = WeakKeyDictionary()
        self._ids: WeakKeyDictionary[Session, int] = WeakKeyDictionary()

    def opening(self, open_session: OpenSession, default: Path) -> OpenSession:
        """The same, but sessions of the model at `default` begin with the adapter, if it is there."""

        def opened(path: Path, progress: Callable[[int, int], None]) -> Session:
            session = open_session(path, progress)
            if path == default:
                self.check(session)
            return session

        return opened

    def start(self, pool: ModelPool, ended: threading.Event) -> None:
        """Look once a second until `ended` is set, on a thread of its own."""
        threading.Thread(target=self._run, args=(pool, ended), name="llamakit-lora-watch", daemon=True).start()

    def check(self, session: Session) -> bool:
        """Load the adapter if the file is another one than at the last look; whether that was done."""
        with self._lock:
            stamp = self._stamp()
            if stamp is None or stamp == self._seen.get(session):
                return False
            self._seen[session] = stamp
            try:
                self._load(session)
            except (LlamaKitError, OSError) as error:
                log.error("adapter %s is not loaded, what was there stays: %s", self.name, error)
                return False
            except Exception:  # a model opens without it too
                log.exception("adapter %s is not loaded, what was there stays", self.name)
                return False
            return True

    def _load(self, session: Session) -> None:
        from llamakit.models.lora import load_adapter

        store = session.adapters
        assert store is not None  # the server makes slots where it watches
        adapter = load_adapter(self.path, session.model, name=self.name)
        loaded = {info.id for info in store.infos()}
        known = self._ids.get(session)
        if known in loaded:
            store.replace(adapter)
        else:
            self._ids[session] = store.add(adapter).id
        log.info("adapter %s %s", self.name, "loaded again" if known in loaded else "loaded")

    def _stamp(self) -> Stamp | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _run(self, pool: ModelPool, ended: threading.Event) -> None:
        while not ended.wait(POLL_SECONDS):
            try:
                self._look(pool)
            except Exception:
                log.exception("the watch of %s goes on", self.path)

    def _look(self, pool: ModelPool) -> None:
        session = pool.loaded(pool.default)
        if session is None or self._stamp() == self._seen.get(session):
            return  # so that a model is held only while it changes
        with pool.held(pool.default) as held:
            if held is not None:
                self.check(held)
