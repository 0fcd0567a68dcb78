"""The threads that answer: a few at rest, more while they are needed, as many as the system gives."""

from __future__ import annotations

import queue
import threading
import time
from ctypes import c_double
from typing import Any

import waitress.task

AT_REST = 8
CALM_SECONDS = 60.0  # without much to do, until threads end
END = object()  # in place of a task


class Threads(waitress.task.ThreadedTaskDispatcher):  # type: ignore[misc]
    """Waitress's pool of threads, which begins small and grows with the work. `most`: what it grows to.

    The few stay, and others go when there is less to do: what a thread that was started beside many answers keeps lies
    among what was theirs, which could not be given back. A thread of its own starts those beyond the few: to start one
    is to wait until it runs, which takes long while many others want to, and the server's loop has to go on.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._ending = False
        self._busy = c_double(time.monotonic())  # changed in place, as the numbers of `stats.Counters` are
        self._to_start: queue.SimpleQueue[tuple[Any, int] | None] = queue.SimpleQueue()
        threading.Thread(target=self._start_them, name="llamakit-threads", daemon=True).start()

    def set_thread_count(self, count: int) -> None:
        """How many there are at rest; waitress calls it with its own number of threads, and with 0 at the end."""
        super().set_thread_count(min(count, AT_REST))

    def start_new_thread(self, target: Any, thread_no: int) -> None:
        """Have one started, which is in `threads` already."""
        if len(self.threads) <= AT_REST:
            super().start_new_thread(target, thread_no)
        else:
            self._to_start.put((target, thread_no))

    def handler_thread(self, thread_no: int) -> None:
        """Do what there is to do, until this thread is to end; at rest nothing of the last task is held."""
        while (task := self._next(thread_no)) is not END:
            try:
                if task is not None:
                    task.service()
            except BaseException:
                self.logger.exception("Exception when servicing %r", task)
            del task

    def _next(self, thread_no: int) -> Any:
        """A task, None after a wait that brought none, or `END` for a thread that has ended.

        It waits once: what `with` and `wait` hold is made anew by the next call (see `look`).
        """
        with self.lock:
            if not self.queue and not self._ends(thread_no):
                self.active_count -= 1
                self.queue_cv.wait()
                self.active_count += 1
            if self._ends(thread_no):
                self.active_count -= 1
                self.stop_count -= 1
                self.threads.discard(thread_no)
                self.thread_exit_cv.notify()
                return END
            return self.queue.popleft() if self.queue else None

    def _ends(self, thread_no: int) -> bool:
        """Whether a thread is to end. The first `AT_REST` end only when all do."""
        return self.stop_count > 0 and (thread_no >= AT_REST or self.stop_count >= len(self.threads))

    def add_task(self, task: Any) -> None:
        """Let a thread do something: an idle one, or a new one."""
        with self.lock:
            running = len(self.threads) - self.stop_count
            wanted = self.active_count + len(self.queue) + 1
        if wanted > running and running < self.most:
            super().set_thread_count(running + 1)
        if wanted > AT_REST:
            self._busy.value = time.monotonic()
        if _is_look(task):  # before those that take longer
            with self.lock:
                self.queue.appendleft(task)
                self.queue_cv.notify()
        else:
            super().add_task(task)

    def look(self) -> bool:
        """End threads that were not needed for a while; whether all that were to end have done so since the last call.

        The others wait anew then: what a thread waits with was made when it last had something to do.
        """
        if self._ending and not self.stop_count:
            self._ending = False
            with self.lock:
                self.queue_cv.notify_all()
            return True
        with self.lock:
            extra = len(self.threads) - self.stop_count > AT_REST and self.active_count <= AT_REST // 2
        if not extra:
            self._busy.value = time.monotonic()
        elif time.monotonic() - self._busy.value > CALM_SECONDS:
            super().set_thread_count(AT_REST)
            self._ending = True
        return False

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End all threads."""
        try:
            return bool(super().shutdown(cancel_pending, timeout))
        finally:
            self._to_start.put(None)

    def _start_them(self) -> None:
        while (wanted := self._to_start.get()) is not None:
            self._start(*wanted)
            del wanted

    def _start(self, target: Any, number: int) -> None:
        try:
            super().start_new_thread(target, number)
        except RuntimeError:  # no memory for it: its tasks wait for the threads that there are
            with self.lock:
                self.threads.discard(number)
                self.active_count -= 1
                self.most = max(len(self.threads) - self.stop_count, 1)
            self.logger.warning("no more than %d threads can be started", self.most)


def _is_look(task: Any) -> bool:
    """Whether a connection asks how the server is."""
    requests = getattr(task, "requests", None)
    return bool(requests) and str(getattr(requests[0], "path", "")).endswith("/health")
