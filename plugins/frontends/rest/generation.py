"""From a checked request to its answers: start a job, wait for it, or read its events for a stream.

with held(state, req, body.fields.model) as session:            # the model stays loaded, also while it streams
    job = start(state, session, session.request(tokens, ...), req, api="native")
    if not streamed:
        results = wait(job)
    else:
        stream(req, resp, lambda: events(job), on_error)         # sse.stream; ends what `held` and `start` began
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from llamakit.engine.job import Finished, Token, raise_error
from llamakit.engine.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.job import Event, Job
    from llamakit.engine.request import Request, Result
    from llamakit.session import Session

LOOK_SECONDS = 0.25  # how often a thread that waits looks whether its client is still there


@contextmanager
def held(
    state: ServerState, req: falcon.Request, name: str | None, on_progress: Callable[[float], None] | None = None
) -> Iterator[Session]:
    """The session of the model `name`, kept until the block ends or, if it began a stream, until the stream ends."""
    stack = resources(req)
    try:
        yield stack.enter_context(state.pool.lease(name, on_progress))
    finally:
        if resources(req) is stack:  # no stream has taken it over
            stack.close()


def resources(req: falcon.Request) -> ExitStack:
    """What has to be ended with this request: leases and jobs."""
    stack: ExitStack | None = getattr(req.context, "resources", None)
    if stack is None:
        stack = req.context.resources = ExitStack()
    return stack


def take_resources(req: falcon.Request) -> ExitStack:
    """The same for whoever ends them from now on."""
    stack = resources(req)
    req.context.resources = ExitStack()
    return stack


def start(state: ServerState, session: Session, request: Request, req: falcon.Request, *, api: str = "native") -> Job:
    """Submit a request. What is wrong with it is raised here, before a response has begun.

    The job is cancelled when the client leaves, and when the request's resources are ended.
    """
    gone = req.env.get("waitress.client_disconnected")
    job = session.service.submit(request, id=getattr(req.context, "id", ""), gone=gone)
    meter = Meter(state.metrics, api)
    job.observer = meter.look
    resources(req).callback(_end, job, meter, req.context)
    return job


def wait(job: Job) -> list[Result]:
    """All answers in order; raises what ended one of them, if an error did."""
    found = [event.result for batch in batches(job) for event in batch if type(event) is Finished]
    return sorted(found, key=lambda result: result.choice)


def batches(job: Job) -> Iterator[list[Event]]:
    """The events of a job in lists: all that there are each time, so that a slow reader gets several in one.

    Raises what ended an answer, after the events before it; leaving early cancels the job.
    """
    try:
        while not job.read_all:
            events = job.read(LOOK_SECONDS)
            if events:
                yield events
                for event in events:
                    if type(event) is Finished:
                        raise_error(event.result)
            elif job.unwanted:
                job.cancel()  # the engine sees it before its next step, and ends the job
    finally:
        if not job.read_all:
            job.cancel()


class Meter:
    """Measures one job for the metrics, by looking at the events that are read."""

    def __init__(self, metrics: Any, api: str) -> None:
        self.metrics, self.api = metrics, api
        self._started, self._last = time.monotonic(), 0.0
        self._results: list[Result] = []
        self.n_tokens = 0  # of finished answers
        self._closed = False
        metrics.request_started(api)

    def look(self, events: list[Event]) -> None:
        """Called with every list of events that was read."""
        n = 0
        for event in events:
            if type(event) is Token:
                n += 1
            elif type(event) is Finished:
                self._results.append(event.result)
                self.n_tokens += event.result.timings.n_generated
        if n:
            self._measure(n, time.monotonic())

    def close(self, *, cancelled: bool) -> None:
        """The request is over. Counted once."""
        if self._closed:
            return
        self._closed = True
        ended = {result.reason for result in self._results}
        status = "error" if FinishReason.ERROR in ended else "ok"
        if cancelled or FinishReason.CANCELLED in ended:
            status = "cancelled"
        self.metrics.request_finished(self.api, status, self._results)

    def _measure(self, n: int, now: float) -> None:
        if not self._last:
            self.metrics.first_token(now - self._started)
            n -= 1
        else:
            gap = (now - self._last) / n
            for _ in range(n):
                self.metrics.token_gap(gap)
        self._last = now


def _end(job: Job, meter: Meter, context: Any) -> None:
    """End a job that may still be running, and count it; `context` keeps its tokens for the request's log line."""
    context.tokens = (getattr(context, "tokens", None) or 0) + meter.n_tokens
    cancelled = not job.read_all and not job.finished
    job.cancel()
    meter.close(cancelled=cancelled)
