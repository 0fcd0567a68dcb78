"""A request and its jobs: starting them, reading their events, and ending them with the request."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import msgspec
from llamakit.plugins.frontends.rest.keys import EVERYBODY, owner_of
from llamakit.plugins.frontends.rest.memory import hold

from llamakit.engine.job import PER_LIKELY, PER_TOKEN, Finished, Token, n_parts, raise_error
from llamakit.engine.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import falcon
    from llamakit.plugins.frontends.rest.keys import Key
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.job import Event, Job
    from llamakit.engine.request import Request, Result
    from llamakit.session import Session

MOST_AHEAD = 128 << 10  # bytes of tokens and probabilities that a stream may be ahead of its reader
LOOK_SECONDS = 2.0  # how often a thread that waits looks whether its client is there, which the engine does each step


PER_PART = 640  # bytes of a token, or of another that was likely in its place, until it is JSON
PER_TOLD = 40  # of one that was likely in a token's place, as JSON
PER_PAIR, PER_BIAS = 200, 16  # of a bias: the pair, and its place in the sampler, which all answers share
PER_PENALISED = 64  # of a token that an answer's penalties remember, in a list and in a table


class Exchange:
    """A request that is answered: its id, whether its client has gone, and what has to be ended with it.

    A context that ends everything when it is left, unless a stream has taken it over, which then ends it.
    """

    def __init__(self, state: ServerState, req: falcon.Request) -> None:
        self.state, self.context = state, req.context
        self.id: str = getattr(req.context, "job_id", "")
        self.n_bytes = req.content_length or 0  # of the body
        self.key: Key = getattr(req.context, "key", EVERYBODY)
        self.owner = owner_of(req)
        self.gone = req.env.get("waitress.client_disconnected")
        self.slots: list[int] = []  # of its requests, in order
        self.streams = False
        self._stack = ExitStack()
        self.hold = partial(hold, req)  # counts bytes that are kept, until this ends

    def salt(self, asked: str) -> str:
        """The salt of its texts: what one key asked must not show in how fast another is answered."""
        return f"{self.key.id} {asked}" if self.state.several_keys else asked

    def lease(self, name: str | None) -> Session:
        """The session of a model, which stays loaded until this ends."""
        session: Session = self._stack.enter_context(self.state.pool.lease(name))
        return session

    def start(self, session: Session, request: Request, api: str, model: str = "", slot: int = -1) -> Job:
        """Submit a request. What is wrong with it is raised here, before a response has begun.

        The job is cancelled when the client leaves, and when this ends. `slot`: which one of the model's is asked for.
        """
        request = msgspec.structs.replace(request, cache_salt=self.salt(request.cache_salt))
        self.hold(bytes_of(request, session.engine.max_predict))
        job = session.service.submit(request, id=self.id, gone=self.gone, owner=self.owner, weight=self.key.weight)
        meter = Meter(self.state.metrics, api)
        job.observer = meter.look
        job.most_ahead = MOST_AHEAD
        self._stack.callback(_end, job, meter, self.context)
        if self.state.slots is not None:
            self._take_slot(session, request, meter, model, slot)
        return job

    def _take_slot(self, session: Session, request: Request, meter: Meter, model: str, wanted: int) -> None:
        """Have the request in a slot until this ends, which has its text from then on."""
        table = self.state.slots
        assert table is not None  # who calls looks
        key = session.prefix_key(request)
        number = table.take(model, request.prompt, key, wanted)
        self.slots.append(number)
        self._stack.callback(lambda: table.give_back(model, number, [*request.prompt, *meter.tokens], key))

    def keep(self, events: list[Event]) -> None:
        """Count what is kept until an answer is whole; TooLargeError or QueueFullError if that is too much."""
        self.hold(PER_PART * sum(map(n_parts, events)))

    def at_end(self, what: Callable[[], None]) -> None:
        """Do something after all that is begun later has ended."""
        self._stack.callback(what)

    def close(self) -> None:
        """End the jobs and give the model back; any number of times."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self.streams:
            self.close()


def bytes_of(request: Request, max_predict: int) -> int:
    """What a request takes beside its body, as far as that is known before: biases, what penalties remember,
    log-probabilities of the prompt, which each answer tells again, and answers that are kept to be ranked."""
    n_bias = len(request.options.get("logit_bias") or ())  # type: ignore[arg-type]
    n_answer = max(request.n, request.best_of)
    n_bytes = n_bias * (PER_PAIR + PER_BIAS) + n_answer * PER_PENALISED * _n_penalised(request)
    if request.prompt_logprobs is not None:
        n_bytes += PER_PART * len(request.prompt) * (1 + request.prompt_logprobs)
        n_bytes += request.n * len(request.prompt) * (PER_TOKEN + PER_TOLD * request.prompt_logprobs)
    if request.best_of > request.n:
        n_token = max_predict if request.max_tokens < 0 else min(request.max_tokens, max_predict)
        n_bytes += n_answer * n_token * (PER_TOKEN + PER_LIKELY * ((request.logprobs or 0) + request.probs_after))
    return n_bytes


def _n_penalised(request: Request) -> int:
    """Tokens of the prompt that penalties remember for each answer."""
    options, n_token = request.options, len(request.prompt)
    if options.get("repeat_penalty", 1) == 1 and not (
        options.get("frequency_penalty") or options.get("presence_penalty")
    ):
        return 0
    window = options.get("repeat_last_n", 0)
    return n_token if not isinstance(window, int) or window < 0 else min(window, n_token)


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

    @property
    def tokens(self) -> list[int]:
        """Those of the first answer that is finished."""
        return self._results[0].tokens if self._results else []

    def _measure(self, n: int, now: float) -> None:
        if not self._last:
            self.metrics.first_token(now - self._started)
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
