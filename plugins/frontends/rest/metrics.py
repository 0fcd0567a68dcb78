"""What `/metrics` tells: counts and times in Prometheus' format. Numbers only: no text of anybody, no keys.

Counters and histograms are fed by `generation.Meter` and the gate; gauges are read from the loaded models when somebody
looks. Each `Metrics` has a registry of its own, so that servers of one process do not mix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llamakit.engine.request import Result, Timings
    from llamakit.pool import ModelPool
    from llamakit.session import Session

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # seconds to a first token, or in the queue
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10)  # between two tokens
WHOLE = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)  # of a whole request
TOKENS = tuple(4**power for power in range(10))  # 1 to 262,144


class Metrics:
    """The measurements of one server. Every method may be called from any thread."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
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
        self._started = counter("generations_started", "Requests that were given to an engine.", ("api",))
        self._ended = counter("generations_ended", "Requests that an engine has ended.", ("api", "outcome"))
        self._reasons = counter("answers", "Answers by what ended them.", ("reason",))
        self.first_token = self._first.observe  # (seconds), bound: these two are called for every token
        self.token_gap = self._between.observe

    def watch(self, pool: ModelPool) -> None:
        """Read the gauges from the models of this pool; asked again, from the latest one."""
        if not hasattr(self, "_models"):
            self._models = Models()
            self.registry.register(self._models)
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
        """Everything, in Prometheus' text format; that of the process last."""
        return generate_latest(self.registry) + generate_latest(self._process)

    def _answer(self, result: Result) -> Timings:
        self._reasons.labels(result.reason.value.replace(" ", "_")).inc()
        return result.timings

    def _request(self, timings: list[Timings]) -> None:
        """Count a request's tokens: those of its prompt once, those of its answers all."""
        first, kinds = timings[0], self._kinds
        n_generated = sum(each.n_generated for each in timings)
        self._queued.observe(first.queue_seconds)
        self._prompt.observe(first.n_prompt)
        self._generated.observe(n_generated)
        kinds["prompt"].inc(first.n_prompt)
        kinds["cached"].inc(first.n_cached)
        kinds["generated"].inc(n_generated)
        kinds["drafted"].inc(sum(each.n_drafted for each in timings))
        kinds["accepted"].inc(sum(each.n_accepted for each in timings))


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

    def collect(self) -> Iterator[Any]:
        """One family for each gauge and counter, with a sample for each model."""
        infos = self.pool.infos()
        loaded = GaugeMetricFamily("llamakit_model_loaded", "Whether a model is loaded.", labels=["model"])
        sessions: dict[str, Session] = {}
        for info in infos:
            session = self.pool.loaded(info.name) if info.loaded else None
            loaded.add_metric([info.name], float(session is not None))
            if session is not None:
                sessions[info.name] = session
        yield loaded
        for name, text, read in GAUGES:
            yield _family(GaugeMetricFamily(f"llamakit_{name}", text, labels=["model"]), sessions, read)
        for name, text, field in COUNTERS:
            family = CounterMetricFamily(f"llamakit_{name}", text, labels=["model"])
            yield _family(family, sessions, lambda s, field=field: getattr(s.engine.counters, field))


def _family(family: Any, sessions: dict[str, Session], read: Any) -> Any:
    """A metric family with a value for each session; one that is being unloaded is left out."""
    for name, session in sessions.items():
        if "service" in session.__dict__:  # else it would be started by a mere look
            family.add_metric([name], float(read(session)))
    return family
