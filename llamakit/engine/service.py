"""The engine's thread: it alone uses the device; everybody else hands it requests and listens to their jobs.

    service = Service(engine)
    job = service.submit(request)           # from any thread; QueueFullError, ContextLengthError, UsageError
    for event in job: ...
    service.close(grace=10)                 # finish what runs, up to 10 seconds, then cut

Between steps the thread also runs functions that others hand to it with `call`, so that whatever touches the device
(saving a session, filling an adapter slot) happens there.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from ctypes import Structure, c_double
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from llamakit.engine.failure import own_failure
from llamakit.engine.job import Finished, Job
from llamakit.engine.request import FinishReason, Result, Timings
from llamakit.errors import (
    BackendError,
    DeviceLostError,
    LlamaKitError,
    ModelChangedError,
    QueueFullError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.engine.engine import Engine
    from llamakit.engine.group import Prepared
    from llamakit.engine.request import Embed, Request, Vectors

T = TypeVar("T")
log = logging.getLogger("llamakit.engine")
IDLE_SECONDS = 0.25  # how often an idle engine looks whether clients of waiting requests have gone
REOPEN_SECONDS = 5.0  # between two tries to open a lost device again
MOST_STARTS = 3  # of the engine's thread within `STARTS_SECONDS`; from then on it is given up
STARTS_SECONDS = 60.0


class ServiceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`max_queue`: requests that may wait; `stall_seconds`: a step that takes longer is reported as stuck.

    `per_client`: sequences that one client may have, waiting and running; `per_client_tokens`: tokens of the prompts of
    these; 0: any.
    """

    max_queue: int = 256
    per_client: int = 0
    per_client_tokens: int = 0
    stall_seconds: float = 300.0


class _Clock(Structure):
    """`step_began`: 0 outside of steps; `moved`: when the engine last ended a step, or got work after it had none.

    They lie in the structure, as the numbers of `stats.Counters` do, and for the same reason.
    """

    step_began: float
    moved: float
    _fields_ = (("step_began", c_double), ("moved", c_double))


class _Call:
    """A function for the engine's thread, and its outcome."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function, self.done = function, threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self.function()
        except BaseException as error:  # the caller's thread raises it
            self.error = error
        self.done.set()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.done.set()


class Service:
    """Owns an engine and the thread that steps it."""

    def __init__(
        self,
        engine: Engine,
        options: ServiceOptions | None = None,
        *,
        check: Callable[[], None] | None = None,
        reopen: Callable[[], None] | None = None,
    ) -> None:
        """`check` raises a LlamaKitError when what the engine computes with is not to be trusted any more.

        `reopen` makes the engine's device usable again after a `DeviceLostError`; it runs on the engine's thread.
        """
        self.engine, self.options = engine, options or ServiceOptions()
        self._check, self._reopen = check, reopen
        self.spoilt: LlamaKitError | None = None  # why the model is not to be trusted any more
        self._lost = False  # the device is gone
        self._next_try = 0.0  # after one in vain, when the device is opened again at the earliest; 0: at once
        self._inbox: deque[tuple[Job, Prepared] | _Call] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._cut = threading.Event()
        self._clock = _Clock(moved=time.monotonic())
        self._stuck = self._dead = False
        self._starts: list[float] = []
        self._jobs: dict[str, Job] = {}  # those not finished
        self._lock = threading.Lock()
        self._thread = self._start()
        self._watch = threading.Thread(target=self._watchdog, name="llamakit-watchdog", daemon=True)
        self._watch.start()

    # -- from any thread ----------------------------------------------------------------------------------------

    def submit(
        self,
        request: Request,
        *,
        id: str = "",
        gone: Callable[[], bool] | None = None,
        owner: str = "",
        weight: float = 1.0,
    ) -> Job:
        """Queue a request. What is wrong with it is raised here; what happens later comes as an event.

        `id` names it for `cancel`; a random one is made if it is empty or in use. `gone` tells whether the client left;
        `owner` names the client, so that no one gets more than its share, which `weight` makes larger or smaller.
        """
        self._check_open()
        prepared = self.engine.prepare(request)
        with self._lock:
            if self.n_waiting >= self.options.max_queue:
                raise self._queue_full(self.n_waiting)
            job = Job(request, id=self._free_id(id), gone=gone, owner=owner, weight=weight)
            self._check_share(job.owner, job.width, len(request.prompt))
            if not self._jobs:
                self._clock.moved = time.monotonic()
            self._jobs[job.id] = job
            job.waker = self._wake.set
            self._inbox.append((job, prepared))
        self._wake.set()
        if self._closing.is_set() and not self._thread.is_alive():  # it ended between the check and now
            self._fail_all(self._closed())
        return job

    def embed(
        self, embed: Embed, *, gone: Callable[[], bool] | None = None, owner: str = "", weight: float = 1.0
    ) -> Vectors:
        """Vectors for texts; waits for them. Generation goes on meanwhile, a batch in turn.

        `gone` tells whether the client left; then the rest is not evaluated, and UnavailableError ends it. `owner`
        and `weight` are as for `submit`: a request for vectors counts as one sequence, and with all its tokens.
        """
        self._check_open()
        embedder = self.engine.embedder
        if embedder is None:
            raise UnavailableError("this engine makes no embeddings")
        work = embedder.work(self.engine, embed, gone, owner, weight)
        with self._lock:
            if len(embedder) >= self.options.max_queue:
                raise self._queue_full(len(embedder))
            self._check_share(owner, 1, work.n_token)
            embedder.add(work)
        return embedder.vectors(self.engine, work, self._wait)

    def cancel(self, id: str, owner: str | None = None) -> bool:
        """Cancel a request by its id; False if there is none (any more), or if it is not that `owner`'s."""
        job = self._jobs.get(id)
        if job is None or owner not in (None, job.owner):
            return False
        job.cancel()
        self._wake.set()
        return True

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the engine's thread, between two steps, and return what it returns."""
        self._check_open()
        if threading.current_thread() is self._thread:
            return function()
        call = _Call(function)
        self._inbox.append(call)
        self._wait(call.done)
        if call.error is not None:
            raise call.error
        value: T = call.value
        return value

    @property
    def n_waiting(self) -> int:
        """Requests that are not being worked on yet."""
        return len(self._inbox) + self.engine.n_waiting

    @property
    def n_running(self) -> int:
        """Requests that are being worked on."""
        return self.engine.n_running

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._jobs)

    @property
    def stuck(self) -> bool:
        """Whether the backend does not come back from a step."""
        return self._stuck

    @property
    def dead(self) -> bool:
        """Whether the engine's thread ended again and again, and was given up."""
        return self._dead

    @property
    def trouble(self) -> str:
        """Why no answers come, in words; "" while the engine's thread lives and, if there is work, gets on with it."""
        if self._lost:
            return "the device was lost"
        if self._dead or (not self._thread.is_alive() and not self._closing.is_set()):
            return "the engine's thread has ended"
        if self.spoilt is not None:
            return self.spoilt.message
        idle = time.monotonic() - self._clock.moved
        if self._stuck or (self._jobs and idle > self.options.stall_seconds):
            return f"the backend does not answer: no step for {idle:.0f} seconds"
        return ""

    def close(self, grace: float = 0.0) -> None:
        """Take nothing new; let what runs finish for `grace` seconds, then cut it; end the thread."""
        self._closing.set()
        self._wake.set()
        end = time.monotonic() + grace
        while self._jobs and time.monotonic() < end and self._thread.is_alive():
            time.sleep(0.02)
        self._cut.set()
        self._wake.set()
        self._thread.join(timeout=None if not self._stuck else 1.0)

    # -- the thread ---------------------------------------------------------------------------------------------

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="llamakit-engine", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while not self._cut.is_set():
            try:
                self._turn()
            except ModelChangedError as error:
                self._look_at_model()
                self._recover(error)
            except BaseException as error:  # a defect, a backend's failure: this step's requests end, the thread lives
                log.exception("a step of the engine ended with an error")
                self._recover(BackendError(f"the backend ended with an error: {error}", hint="send the request again"))
                self._lost = self._reopen is not None and isinstance(error, DeviceLostError)
        self._fail_all(self._closed())

    def _turn(self) -> None:
        if self._lost and not self._bring_back():
            return
        self._take_inbox()
        self._clock.step_began = time.monotonic()
        worked = self.engine.step()
        self._clock.step_began, self._clock.moved = 0.0, time.monotonic()
        if self._stuck:
            self._stuck = False
            log.warning("the backend came back")
        self._forget_finished()
        if not worked and not self._inbox:
            self._wake.wait(IDLE_SECONDS)
            self._wake.clear()

    def _bring_back(self) -> bool:
        """Open a lost device again, with all that was on it but the cache; whether it is there."""
        assert self._reopen is not None  # else it is not noted as lost
        if time.monotonic() < self._next_try:
            self._wake.wait(IDLE_SECONDS)
            self._wake.clear()
            return False
        try:
            self._reopen()
        except BaseException as error:
            log.exception("the device cannot be opened again; next try in %g s", REOPEN_SECONDS)
            self._next_try = time.monotonic() + REOPEN_SECONDS
            self._fail_all(BackendError(f"the device was lost and cannot be opened again: {error}"))
            return False
        self._lost, self._next_try, self._clock.moved = False, 0.0, time.monotonic()
        log.warning("the device was lost and is open again")
        return True

    def _take_inbox(self) -> None:
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, _Call):
                item.run()
                continue
            try:
                self.engine.submit(*item)
            except BaseException as error:  # it is not in the queue, and nobody else is touched
                fail(item[0], own_failure(error, "the request"))

    def _forget_finished(self) -> None:
        if self._jobs:
            with self._lock:
                for id in [id for id, job in self._jobs.items() if job.finished]:
                    del self._jobs[id]

    def _recover(self, error: LlamaKitError) -> None:
        """Give up everything that was in the engine, and start again with an empty cache."""
        self._clock.step_began = 0.0
        self._fail_all(error)
        try:
            self.engine.reset()
        except BaseException:
            log.exception("the engine could not be reset")

    def _fail_all(self, error: BaseException) -> None:
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, _Call):
                item.fail(error)
        with self._lock:
            jobs, self._jobs = list(self._jobs.values()), {}
        try:
            self.engine.abandon(error)
        except BaseException:
            log.exception("requests could not be ended in order")
        for job in jobs:
            fail(job, error)

    def _watchdog(self) -> None:
        """A thread that ended is started again; a step that does not return turns its requests into errors.

        A thread that hangs cannot be stopped: `trouble` tells of it.
        """
        period = min(1.0, self.options.stall_seconds / 4)
        while not self._cut.wait(period) and not self._dead:
            try:
                if not self._thread.is_alive():
                    self._start_again()
                self._look_at_step()
                self._look_at_model()
            except BaseException:
                log.exception("looking after the engine ended with an error")

    def _look_at_step(self) -> None:
        """Give up the requests of a step that takes too long."""
        began, limit = self._clock.step_began, self.options.stall_seconds
        if not began or self._stuck or time.monotonic() - began <= limit:
            return
        self._stuck = True
        log.error("the backend is stuck in a step for more than %g s", limit)
        error = BackendError(f"the backend does not answer for {limit:g} seconds")
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
            fail(job, error)

    def _look_at_model(self) -> None:
        """Once the model is spoilt, answers of it are ended, and none is begun."""
        if self._check is None or self.spoilt is not None:
            return
        try:
            self._check()
        except LlamaKitError as error:
            log.error("%s", error)
            self.spoilt = error
            with self._lock:
                jobs = list(self._jobs.values())
            for job in jobs:
                job.cancel()
                fail(job, error)

    def _start_again(self) -> None:
        """A new thread for an engine whose own has ended, unless that happens again and again."""
        now = time.monotonic()
        self._starts = [*(at for at in self._starts if now - at < STARTS_SECONDS), now]
        self._dead = len(self._starts) > MOST_STARTS
        log.critical("the engine's thread ended; it is %s", "given up" if self._dead else "started again")
        self._recover(BackendError("the engine's thread ended", hint="send the request again"))
        if not self._dead:
            self._thread = self._start()

    def _wait(self, done: threading.Event) -> None:
        """Wake the thread and wait for what it does; not longer than it lives, nor while it is stuck."""
        self._wake.set()
        while not done.wait(1.0):
            if self._closing.is_set() and not self._thread.is_alive():
                raise self._closed()
            if self._stuck or self._dead:
                self._check_open()

    def _closed(self) -> UnavailableError:
        return UnavailableError("the server shuts down", hint="send the request again later")

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise self._closed()
        if self.spoilt is not None:
            raise UnavailableError(self.spoilt.message, hint="load the model again", retry_after=30)
        if self._dead:
            raise UnavailableError("the engine's thread has ended", hint="restart the server", retry_after=30)
        if self._lost and self._next_try:
            raise UnavailableError("the device was lost", hint="send the request again later", retry_after=10)
        if self._stuck:
            raise UnavailableError("the backend does not answer", hint="restart the server", retry_after=30)

    def _queue_full(self, n: int) -> QueueFullError:
        return QueueFullError(
            f"too many requests wait: {n} of at most {self.options.max_queue}", hint="try again later",
            retry_after=self._retry_after(),
        )  # fmt: skip

    def _check_share(self, owner: str, more_width: int, more_tokens: int) -> None:
        """Raise QueueFullError for a request of a client that has as many as it may."""
        mine = [each for each in self._jobs.values() if each.owner == owner and not each.finished]
        embedder = self.engine.embedder
        width, tokens = (0, 0) if embedder is None else embedder.held_by(owner)
        width += sum(each.width for each in mine)
        tokens += sum(len(each.request.prompt) for each in mine)
        for held, more, most, what in (
            (width, more_width, self.options.per_client, "sequences"),
            (tokens, more_tokens, self.options.per_client_tokens, "tokens of prompts"),
        ):
            if most and held + more > most:
                raise QueueFullError(
                    f"too many requests of one client: {held:,} of at most {most:,} {what}, {more:,} more are asked",
                    hint="try again when one of them is done" if width else "a smaller request",
                    retry_after=self._retry_after(),
                )

    def _free_id(self, id: str) -> str:
        while not id or id in self._jobs:
            id = secrets.token_hex(12)
        return id

    def _retry_after(self) -> int:
        """Seconds until the queue may have room: a rough guess from how long answers take."""
        return max(1, min(60, round(self.engine.counters.mean_seconds * self.n_waiting / max(1, self.n_running))))


def fail(job: Job, error: BaseException) -> None:
    """End whatever is open of a job with an error."""
    timings = Timings(n_prompt=len(job.request.prompt))
    for choice in range(job.request.n):
        if job.finished:
            return
        result = Result(
            tokens=[], text="", tail="", reason=FinishReason.ERROR, timings=timings, choice=choice, error=error
        )
        job.emit(Finished(choice, result))
