"""What /metrics counts: right numbers, one server apart from another, cheap for every token, no words of anybody."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import prometheus_client
import pytest
from llamakit.plugins.frontends.rest import generation
from llamakit.plugins.frontends.rest.metrics import BETWEEN, Metrics
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from llamakit.engine.job import Finished, Token
from llamakit.engine.request import FinishReason, Piece, Result, Timings
from tests.waiting import until


def samples(text):
    """(name, labels) -> value."""
    found = {}
    for family in text_string_to_metric_families(text if isinstance(text, str) else text.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def scrape(client):
    status, headers, data = client.request("GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    return samples(data)


def value(found, name, **labels):
    return found[f"llamakit_{name}", tuple(sorted(labels.items()))]


def result(n_generated, reason=FinishReason.LENGTH, **timings):
    times = Timings(n_prompt=12, n_cached=4, n_generated=n_generated, queue_seconds=0.3, **timings)
    return Result(tokens=[], text="", tail="", reason=reason, timings=times)


def test_a_request_is_counted_once_and_its_answers_all():
    metrics = Metrics()
    metrics.request_started("llamacpp")
    metrics.request_finished(
        "llamacpp", "ok", [result(5, n_drafted=3, n_accepted=2), result(7, FinishReason.END, n_drafted=1)]
    )
    found = samples(metrics.text())
    assert value(found, "generations_started_total", api="llamacpp") == 1
    assert value(found, "generations_ended_total", api="llamacpp", outcome="ok") == 1
    for kind, n in {"prompt": 12, "cached": 4, "generated": 12, "drafted": 4, "accepted": 2}.items():
        assert value(found, "tokens_total", kind=kind) == n
    assert value(found, "answers_total", reason="length") == 1
    assert value(found, "answers_total", reason="end_of_text") == 1
    assert value(found, "prompt_tokens_per_request_sum") == 12
    assert value(found, "generated_tokens_per_request_sum") == 12
    assert value(found, "queue_time_seconds_sum") == pytest.approx(0.3)


def test_times_are_in_seconds_and_servers_apart():
    one, other = Metrics(), Metrics()
    one.first_token(0.2)
    one.token_gap(0.02)
    one.answered("openai", "429 Too Many Requests", 0.004)
    found = samples(one.text())
    assert value(found, "time_to_first_token_seconds_sum") == pytest.approx(0.2)
    assert value(found, "time_to_first_token_seconds_bucket", le="0.1") == 0
    assert value(found, "time_to_first_token_seconds_bucket", le="0.25") == 1
    assert value(found, "time_between_tokens_seconds_count") == 1
    assert value(found, "request_seconds_count", api="openai", status="4xx") == 1
    assert value(samples(other.text()), "time_between_tokens_seconds_count") == 0


def test_tokens_that_are_read_together_share_the_time_since_those_before(monkeypatch):
    """The first ones have no time between them: how long they took is another figure."""
    clock = iter([100.0, 100.5, 101.5, 101.6])  # asked, and each time that something is read
    monkeypatch.setattr(generation, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    metrics = Metrics()
    meter = generation.Meter(metrics, "llamacpp")
    for n in (3, 4, 1):
        meter.look([Token(0, Piece(token_id=5, text="x"))] * n)
    meter.look([Finished(0, result(8))])
    meter.close(cancelled=False)
    found = samples(metrics.text())
    assert value(found, "time_to_first_token_seconds_count") == 1
    assert value(found, "time_to_first_token_seconds_sum") == pytest.approx(0.5)
    assert value(found, "time_between_tokens_seconds_count") == 4 + 1
    assert value(found, "time_between_tokens_seconds_sum") == pytest.approx(1.0 + 0.1)


def test_names_are_of_the_conventions():
    metrics = Metrics()
    for family in metrics.registry.collect():
        assert family.name.startswith(("llamakit_", "process_")), family.name
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert not family.name.endswith("_total")  # the sample gets it
        if "seconds" in family.name or "bytes" in family.name:
            assert family.name.endswith(("_seconds", "_bytes")), family.name


def test_a_token_costs_little():
    """Less than two microseconds, which is about what the library's own histogram takes."""
    plain = prometheus_client.Histogram("plain", "", buckets=BETWEEN, registry=CollectorRegistry())
    tries = [(_seconds(Metrics().token_gap), _seconds(plain.observe)) for _ in range(7)]
    ours, theirs = map(min, zip(*tries, strict=True))  # the least disturbed of those that were made in turn
    assert ours < 3 * theirs


def _seconds(observe):
    began = time.thread_time()
    for _ in range(5000):
        observe(0.03)
    return time.thread_time() - began


def test_a_server_counts_what_it_answers(server):
    before = scrape(server)
    body = {"prompt": "Once upon a time, a secret word", "n_predict": 200, "ignore_eos": True, "cache_prompt": False}
    n = len(list(server.events("/completion", body | {"stream": True})))
    assert server.post("/completion", body | {"temperature": "hot"})[0] == 400
    found = after(
        server, lambda now: all(value(now, "request_seconds_count", api="llamacpp", status=s) for s in ("2xx", "4xx"))
    )
    assert n > 2
    generated = value(found, "tokens_total", kind="generated") - value(before, "tokens_total", kind="generated")
    assert generated == 200
    assert value(found, "time_to_first_token_seconds_count") == 1
    assert value(found, "request_seconds_count", api="llamacpp", status="2xx") == 1
    assert value(found, "engine_steps_total", model="stories") > value(before, "engine_steps_total", model="stories")
    assert value(found, "model_loaded", model="stories") == 1
    assert value(found, "requests_running", model="stories") == 0
    assert value(found, "kv_blocks_free", model="stories") <= value(found, "kv_blocks", model="stories")
    text = server.request("GET", "/metrics")[2]
    assert b"secret" not in text


def test_a_prefix_that_is_found_shows_in_the_hit_ratio(server):
    body = {"prompt": "Lily and Tom went to the park to play with the ball and " * 4, "n_predict": 1}
    for _ in range(2):
        assert server.post("/completion", body)[0] == 200
    found = after(server, lambda now: value(now, "tokens_total", kind="cached"))
    assert 0 < value(found, "prefix_cache_hit_ratio", model="stories") < 1
    assert value(found, "prefix_cache_blocks", model="stories") > 0


def after(server, condition):
    """The measurements, as soon as something is in them: a request is counted when its last byte was handed over."""
    found = {}

    def holds():
        found.clear()
        found.update(scrape(server))
        with suppress(KeyError):
            return condition(found)

    until(holds)
    return found


def test_a_model_that_is_not_loaded_is_told_and_left_alone(serve):
    client = serve(wait=False)
    found = scrape(client)
    assert value(found, "model_loaded", model="stories") == 0
    assert ("llamakit_requests_running", (("model", "stories"),)) not in found
    assert not client.state.pool.info().loaded


def test_many_threads_lose_no_count():
    metrics = Metrics()
    threads = [
        threading.Thread(target=lambda: [metrics.request_finished("llamacpp", "ok", [result(1)]) for _ in range(200)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(samples(metrics.text()), "tokens_total", kind="generated") == 1600


def test_a_number_stays_where_it_was_made():
    """Each change made a float of its own, among the answers of its time: their memory could not be given back."""
    metrics = Metrics()
    metrics.token_gap(0.02)
    kept = [number for histogram in (metrics._between, metrics._first) for number in histogram._buckets]
    kept += [metrics._between._sum, *(counter._value for counter in metrics._kinds.values())]
    places = [number._number.buffer_info() for number in kept]
    for _ in range(1000):
        metrics.token_gap(0.02)
        metrics.request_finished("llamacpp", "ok", [result(3)])
    assert [number._number.buffer_info() for number in kept] == places
    found = samples(metrics.text())
    assert value(found, "tokens_total", kind="generated") == 3000
    assert value(found, "time_between_tokens_seconds_sum") == pytest.approx(20.02)
    assert value(found, "time_between_tokens_seconds_bucket", le="0.025") == 1001


def test_what_has_not_happened_yet_is_told_as_none():
    found = samples(Metrics().text())
    for api in ("llamacpp", "openai", "anthropic", "ollama"):
        assert value(found, "request_seconds_count", api=api, status="4xx") == 0
        assert value(found, "generations_started_total", api=api) == 0
        assert value(found, "generations_ended_total", api=api, outcome="cancelled") == 0
    assert value(found, "answers_total", reason="stop_string") == 0


def test_ours_come_first_and_nothing_tells_when_it_was_made():
    text = Metrics().text().decode()
    assert "_created" not in text
    assert text.index("llamakit_") < text.index("process_") if "process_" in text else "llamakit_" in text
