"""The threads that answer: a few at rest, more while they are needed, as many as the system gives."""

from __future__ import annotations

import time
from typing import Any

import waitress.task

AT_REST = 8
CALM_SECONDS = 60.0  # without much to do, until threads end


class Threads(waitress.task.ThreadedTaskDispatcher):  # type: ignore[misc]
    """Waitress's pool of threads, which begins small and grows with the work. `most`: what it grows to."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._busy = time.monotonic()

    def set_thread_count(self, count: int) -> None:
        """How many there are at rest; waitress calls it with its own number of threads, and with 0 at the end."""
        super().set_thread_count(min(count, AT_REST))

    def start_new_thread(self, target: Any, thread_no: int) -> None:
        """Start one; without memory for it there is none more."""
        try:
            super().start_new_thread(target, thread_no)
        except RuntimeError:
            self.threads.discard(thread_no)
            raise

    def add_task(self, task: Any) -> None:
        """Let a thread do something: an idle one, or a new one."""
        with self.lock:
            running = len(self.threads) - self.stop_count
            wanted = self.active_count + len(self.queue) + 1
        if wanted > running and running < self.most:
            try:
                super().set_thread_count(running + 1)
            except RuntimeError:  # the task waits for the threads that there are
                self.logger.warning("no more than %d threads can be started", running)
                self.most = max(running, 1)
        if wanted > AT_REST:
            self._busy = time.monotonic()
        super().add_task(task)

    def look(self) -> None:
        """End threads that were not needed for a while; called every second."""
        with self.lock:
            extra = len(self.threads) - self.stop_count > AT_REST and self.active_count <= AT_REST // 2
        if not extra:
            self._busy = time.monotonic()
        elif time.monotonic() - self._busy > CALM_SECONDS:
            super().set_thread_count(AT_REST)
