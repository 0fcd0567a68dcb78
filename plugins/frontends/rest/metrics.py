"""What `/metrics` tells: counts and times in Prometheus' format. Numbers only: no text of anybody, no keys.

Counters and histograms are fed by `generation.Meter` and the gate; gauges are read from the loaded models when somebody
looks. Each `Metrics` has a registry of its own, so that servers of one process do not mix.
"""

from __future__ import annotations

from array import array
from threading import Lock
from typing import TYPE_CHECKING, Any

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from llamakit.engine.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llamakit.engine.request import Result, Timings
    from llamakit.pool import ModelPool
    from llamakit.session import Session

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # seconds to a first token, or in the queue
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10)  # between two tokens
WHOLE = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)  # of a whole request
TOKENS = tuple(4**power for power in range(10))  # 1 to 262,144

# What is told from the start, as 0: a first one that came beside many answers would lie among what they hold.
APIS, STATUSES = ("llamacpp", "openai", "anthropic", "ollama", "operations", "page"), ("2xx", "4xx", "5xx")
OUTCOMES = ("ok", "error", "cancelled")


class Number:
    """What a metric has reached, with the methods of `prometheus_client.values.MutexValue` that are used here.

    It stays where it was made. A float is made anew by each change, among what answers hold then, and keeps the memory
    around it from being given back for as long as nothing else happens.
    """

    def __init__(self) -> None:
        self._number, self._lock = array("d", [0.0]), Lock()

    def inc(self, amount: float) -> None:
        """Add to it."""
        with self._lock:
            self._number[0] += amount

    def raise_to(self, value: float) -> None:
        """Make it the largest of what was given."""
        with self._lock:
            self._number[0] = max(self._number[0], value)

    def get(self) -> float:
        """Its value."""
        return self._number[0]

    def get_exemplar(self) -> None:
        """Nobody gives examples."""


class Counter(prometheus_client.Counter):
    """A counter, and those of its labels, in `Number`s."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._value = Number()


class Histogram(prometheus_client.Histogram):
    """A histogram, and those of its labels, in `Number`s."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._sum, self._buckets = Number(), [Number() for _ in self._buckets]


class Metrics:
    """The measurements of one server. Every method may be called from any thread."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        self._asked = Lock()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)  # memory, processor time, open files

        def histogram(name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
            return Histogram(f"llamakit_{name}", text, labels, buckets=buckets, registry=registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"llamakit_{name}", text, labels, registry=registry)

        self._first = histogram("time_to_first_token_seconds", "From a request to its first token.", FIRST)
        self._between = histogram("time_between_tokens_seconds", "From one token of a request to the next.", BETWEEN)
        self._queued = histogram("queue_time_seconds", "From a request until its prompt is begun.", FIRST)
        self._prompt = histogram("prompt_tokens_per_request", "Tokens of prompts.", TOKENS)
        self._generated = histogram("generated_tokens_per_request", "Tokens of answers.", TOKENS)
        self._http = histogram("request_seconds", "Until a request was answered.", WHOLE, ("api", "status"))
        self._tokens = counter("tokens", "Tokens by kind; cached ones are part of the prompts.", ("kind",))
        self._kinds = {
            kind: self._tokens.labels(kind) for kind in ("prompt", "cached", "generated", "drafted", "accepted")
        }
        self._prompt_seconds = counter("prompt_seconds", "Time in which prompts were evaluated.")
        self._generated_seconds = counter("generated_seconds", "Time in which answers were generated.")
        self._started = counter("generations_started", "Requests that were given to an engine.", ("api",))
        self._ended = counter("generations_ended", "Requests that an engine has ended.", ("api", "outcome"))
        self._reasons = counter("answers", "Answers by what ended them.", ("reason",))
        for api in APIS:
            self._started.labels(api)
            for status, outcome in zip(STATUSES, OUTCOMES, strict=True):
                self._http.labels(api, status)
                self._ended.labels(api, outcome)
        for reason in FinishReason:
            self._reasons.labels(_name(reason))
        self._context_max = Number()
        self.first_token = self._first.observe  # (seconds), bound: these two are called for every token
        self.token_gap = self._between.observe

    def watch(self, pool: ModelPool, *, llamacpp: bool = False) -> None:
        """Read the gauges from the models of this pool; asked again, from the latest one.

        `llamacpp`: also by the names that they have in llama.cpp's server.
        """
        if not hasattr(self, "_models"):
            self._models = Models()
            self.registry.register(self._models)
            if llamacpp:
                self.registry.register(LlamaCppNames(self, self._models))
        self._models.pool = pool

    def request_started(self, api: str) -> None:
        """An engine got a request."""
        self._started.labels(api).inc()

    def request_finished(self, api: str, status: str, results: Iterable[Result]) -> None:
        """A request is over: "ok", "error" or "cancelled", with the answers that were finished."""
        self._ended.labels(api, status).inc()
        timings = [self._answer(result) for result in results]
        if timings:
            self._request(timings)

    def answered(self, api: str, status: str, seconds: float) -> None:
        """An HTTP request of any kind was answered to its end; `status` is the status line."""
        self._http.labels(api, f"{status[:1]}xx").observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format; that of the process last.

        It is written for one who asks at a time, because 64 threads that do it keep streams waiting.
        """
        with self._asked:
            return generate_latest(self.registry) + generate_latest(self._process)

    @property
    def n_context_max(self) -> int:
        """Tokens of the longest context so far."""
        return int(self._context_max.get())

    def total(self, kind: str) -> float:
        """Tokens of a kind since the start."""
        return _value(self._kinds[kind])

    def seconds(self) -> tuple[float, float]:
        """Time for prompts and for answers since the start."""
        return _value(self._prompt_seconds), _value(self._generated_seconds)

    def _answer(self, result: Result) -> Timings:
        self._context_max.raise_to(result.n_context)
        self._reasons.labels(_name(result.reason)).inc()
        return result.timings

    def _request(self, timings: list[Timings]) -> None:
        """Count a request's tokens: those of its prompt once, those of its answers all."""
        first, kinds = timings[0], self._kinds
        n_generated = sum(each.n_generated for each in timings)
        self._queued.observe(first.queue_seconds)
        self._prompt.observe(first.n_prompt)
        self._generated.observe(n_generated)
        self._prompt_seconds.inc(first.prompt_seconds)
        self._generated_seconds.inc(max(each.generate_seconds for each in timings))
        kinds["prompt"].inc(first.n_prompt)
        kinds["cached"].inc(first.n_cached)
        kinds["generated"].inc(n_generated)
        kinds["drafted"].inc(sum(each.n_drafted for each in timings))
        kinds["accepted"].inc(sum(each.n_accepted for each in timings))


def _name(reason: FinishReason) -> str:
    """A reason as a label."""
    return reason.value.replace(" ", "_")


def _value(counter: Counter) -> float:
    """What a counter without labels has reached."""
    return sum(
        sample.value for family in counter.collect() for sample in family.samples if sample.name[-6:] == "_total"
    )


def _hits(session: Session) -> float:
    """The share of cached prompt tokens since the engine was made; 0 before there were any."""
    counters = session.engine.counters
    return min(1.0, counters.n_cached / counters.n_prompt) if counters.n_prompt else 0.0


def _n_adapter(session: Session) -> int:
    return len(session.adapters.infos()) if session.adapters is not None else 0


# Gauges and counters of a model: name, help, how to read it from a session.
GAUGES: tuple[tuple[str, str, Any], ...] = (
    ("requests_running", "Requests that are being worked on.", lambda s: s.service.n_running),
    ("requests_waiting", "Requests in the queue.", lambda s: s.service.n_waiting),
    ("kv_blocks", "Blocks of the KV cache.", lambda s: s.engine.space.pool.n_block),
    ("kv_blocks_free", "Blocks that nobody holds.", lambda s: s.engine.space.pool.n_free),
    ("prefix_cache_blocks", "Blocks that the prefix cache holds.", lambda s: len(s.engine.space.tree)),
    ("prefix_cache_hit_ratio", "Share of all prompt tokens that were found evaluated.", _hits),
    ("kv_cache_bytes", "Size of the KV cache.", lambda s: s.kv_bytes),
    ("adapters_loaded", "LoRA adapters that requests may choose.", _n_adapter),
)  # fmt: skip
COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("engine_steps", "Batches that were evaluated.", "n_step"),
    ("engine_rows", "Tokens in these batches.", "n_row"),
    ("engine_step_seconds", "Time spent in the backend.", "step_seconds"),
    ("preemptions", "Requests that had to give their cache back and wait again.", "n_preempted"),
)


class Models:
    """A collector: what the loaded models tell when they are asked. Loads nothing."""

    pool: ModelPool

    def describe(self) -> list[Any]:
        """Nothing beforehand: registering must not read anything."""
        return []

    def sessions(self) -> dict[str, Session]:
        """Those that are loaded."""
        found = {name: self.pool.loaded(name) for name in self.pool.names()}
        return {name: session for name, session in found.items() if session is not None}

    def collect(self) -> Iterator[Any]:
        """One family for each gauge and counter, with a sample for each model."""
        loaded = GaugeMetricFamily("llamakit_model_loaded", "Whether a model is loaded.", labels=["model"])
        sessions = self.sessions()
        for name in self.pool.names():
            loaded.add_metric([name], float(name in sessions))
        yield loaded
        for name, text, read in GAUGES:
            yield _family(GaugeMetricFamily(f"llamakit_{name}", text, labels=["model"]), sessions, read)
        for name, text, field in COUNTERS:
            family = CounterMetricFamily(f"llamakit_{name}", text, labels=["model"])
            yield _family(family, sessions, lambda s, field=field: getattr(s.engine.counters, field))


class LlamaCppNames:
    """A collector: the same numbers by the names of llama.cpp's server. Rates are those since the start."""

    def __init__(self, metrics: Metrics, models: Models) -> None:
        self.metrics, self.models = metrics, models

    def describe(self) -> list[Any]:
        """Nothing beforehand."""
        return []

    def collect(self) -> Iterator[Any]:
        """Counters, then gauges, over all models."""
        read = self.metrics.total
        n_prompt, n_generated = read("prompt") - read("cached"), read("generated")
        prompt_s, generated_s = self.metrics.seconds()
        sessions = [session for session in self.models.sessions().values() if _runs(session)]
        n_step = sum(session.engine.counters.n_step for session in sessions)
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts that were evaluated.", n_prompt),
            ("prompt_seconds", "Time in which prompts were evaluated.", prompt_s),
            ("tokens_predicted", "Tokens that were generated.", n_generated),
            ("tokens_predicted_seconds", "Time in which they were generated.", generated_s),
            ("n_decode", "Batches that were evaluated.", n_step),
        ):
            yield CounterMetricFamily(f"llamacpp:{name}", text, value=value)
        running = sum(session.service.n_running for session in sessions)
        waiting = sum(session.service.n_waiting for session in sessions)
        for name, text, value in (
            ("prompt_tokens_seconds", "Tokens of prompts a second.", n_prompt / prompt_s if prompt_s else 0.0),
            ("predicted_tokens_seconds", "Generated tokens a second.", n_generated / generated_s if generated_s else 0),
            ("requests_processing", "Requests that are being worked on.", running),
            ("requests_deferred", "Requests in the queue.", waiting),
            ("n_tokens_max", "Most tokens that a context had at the end of an answer.", self.metrics.n_context_max),
        ):
            yield GaugeMetricFamily(f"llamacpp:{name}", text, value=value)


def _runs(session: Session) -> bool:
    """Whether its engine runs: else it would be started by a mere look."""
    return "service" in session.__dict__


def _family(family: Any, sessions: dict[str, Session], read: Any) -> Any:
    """A metric family with a value for each session; one that is being unloaded is left out."""
    for name, session in sessions.items():
        if _runs(session):
            family.add_metric([name], float(read(session)))
    return family
