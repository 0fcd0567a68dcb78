"""What who runs a llama.cpp server knows: `/slots`, `POST /props`, its names of measurements, counts of tokens."""

import threading
from contextlib import contextmanager

import pytest

from llamakit.options import build_options
from tests.rest.test_metrics import samples
from tests.waiting import PATIENCE


def test_slots_are_listed_as_the_server_was_started(serve):
    assert serve(slots="off").get("/slots")[1]["error"]["type"] == "not_supported_error"
    assert serve().get("/slots") == (200, [])
    status, found = serve(slots="all", parallel=3, settings={"ctx_size": 128}).get("/slots")
    assert status == 200
    assert [(slot["is_processing"], slot["n_ctx"], slot["state"]) for slot in found] == [(False, 128, "free")] * 3


@contextmanager
def held(server, model, **fields):
    """A request of a model that is in the middle of its answer while the block runs."""
    body = {"model": model, "prompt": "Once", "n_predict": 100, "ignore_eos": True, "stream": True, **fields}
    service = server.state.pool.loaded(model).service
    gate, stopped = threading.Event(), threading.Event()
    holder = threading.Thread(target=lambda: service.call(lambda: (stopped.set(), gate.wait(PATIENCE))))
    with server.open("/completion", body) as response:
        response.read1()
        holder.start()
        assert stopped.wait(PATIENCE)
        try:
            yield
        finally:
            gate.set()
            holder.join(PATIENCE)


def test_free_slots_are_sequences_of_the_model_that_is_asked_for(serve, small_model):
    server = serve({"a": small_model, "b": small_model}, slots="all", parallel=4, settings={"ctx_size": 128})
    server.state.pool.load("b")
    free = {"id": "", "state": "free"}

    def look(query=""):
        status, found = server.get(f"/slots{query}")
        assert status == 200
        return [(slot["model"], slot["width"]) for slot in found if slot["state"] != "free"], sum(
            slot.items() >= free.items() for slot in found
        )

    with held(server, "a", n=3):
        assert look() == ([("a", 3)], 1)
        assert look("?model=b") == ([], 4)
        assert look("?fail_on_no_slot=1") == ([("a", 3)], 1)
        with held(server, "b", n=4):  # what other models do takes no place here
            assert look() == ([("a", 3), ("b", 4)], 1)
            assert look("?model=a&fail_on_no_slot=1") == ([("a", 3)], 1)
            status, reply = server.get("/slots?model=b&fail_on_no_slot=1")
            assert (status, reply["error"]["found"]) == (503, "4 sequences of b run")
    assert server.get("/slots?model=c")[0] == 404


def test_defaults_change_only_where_that_is_allowed(server):
    status, reply = server.post("/props", {"temperature": 0.5})
    assert status == 501
    assert reply["error"]["type"] == "not_supported_error"


def test_defaults_of_requests_change_together_or_not_at_all(serve):
    server = serve(props=True)
    changes = {"temperature": 0.0, "top_k": 7, "n_predict": 3, "seed": 5, "what": 1}
    status, headers, data = server.request("POST", "/props", changes)
    assert (status, data) == (200, b'{"success":true}')
    assert headers["X-Ignored-Fields"] == "what"
    reply = server.post("/completion", {"prompt": "Once", "return_tokens": True})[1]
    settings = reply["generation_settings"]
    assert (settings["temp"], settings["top_k"], settings["n_predict"], settings["seed"]) == (0.0, 7, 3, 5)
    assert len(reply["tokens"]) == 3
    talk = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})[1]
    assert talk["usage"]["completion_tokens"] <= 3
    shown = server.get("/props")[1]["default_generation_settings"]
    assert (shown["params"]["temp"], shown["params"]["seed"]) == (0.0, 5)
    assert server.post("/props", {"top_k": 9, "temperature": -1})[0] == 400
    assert server.get("/props")[1]["default_generation_settings"]["top_k"] == 7
    server.post("/props", {"seed": -1, "n_predict": -1})
    assert server.get("/props")[1]["default_generation_settings"]["seed"] == (1 << 32) - 1
    assert server.post("/completion", {"prompt": "Once", "n_predict": 5})[1]["tokens_predicted"] <= 5


def test_every_default_that_can_be_changed_is_one_for_every_api(serve, small_model):
    """`ignore_eos` is a field of requests and an option of a sampler: both at once were an internal error."""
    server = serve(props=True, max_predict=8)
    assert server.post("/props", {"ignore_eos": True, "context_shift": True, "seed": 5, "n_predict": 4})[0] == 200
    message = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    for path, body in (
        ("/completion", {"prompt": "x"}), ("/v1/completions", {"prompt": "x"}), ("/v1/messages", message),
        ("/v1/chat/completions", message), ("/v1/responses", {"input": "x"}),
        ("/api/generate", {"prompt": "x", "stream": False}), ("/api/chat", {**message, "stream": False}),
    ):  # fmt: skip
        status, reply = server.post(path, {"model": "m"} | body)
        assert status == 200 or "template" in str(reply), (path, reply)


def test_a_model_that_was_unloaded_sleeps(serve, small_model):
    server = serve()
    assert server.get("/props")[1]["is_sleeping"] is False
    server.post("/models/unload", {})
    assert server.get("/props")[1]["is_sleeping"] is True
    server.post("/completion", {"prompt": "a", "n_predict": 1})
    assert server.get("/props")[1]["is_sleeping"] is False


NAMES = (
    "prompt_tokens_total", "prompt_seconds_total", "tokens_predicted_total", "tokens_predicted_seconds_total",
    "prompt_tokens_seconds", "predicted_tokens_seconds", "requests_processing", "requests_deferred", "n_decode_total",
    "n_tokens_max",
)  # fmt: skip


def test_measurements_have_llamacpp_names_where_they_are_asked_for(serve, server):
    assert b"llamacpp:" not in server.request("GET", "/metrics")[2]
    named = serve(metric_names="llamacpp")
    first = samples(named.request("GET", "/metrics")[2])
    assert {first[f"llamacpp:{name}", ()] for name in NAMES} == {0}
    reply = named.post("/completion", {"prompt": "Once upon a time", "n_predict": 5, "cache_prompt": True})[1]
    found = samples(named.request("GET", "/metrics")[2])
    assert found["llamacpp:prompt_tokens_total", ()] == reply["tokens_evaluated"]
    assert found["llamacpp:tokens_predicted_total", ()] == reply["tokens_predicted"]
    assert found["llamacpp:n_tokens_max", ()] == reply["tokens_cached"]
    for name in ("prompt_seconds_total", "tokens_predicted_seconds_total", "prompt_tokens_seconds", "n_decode_total"):
        assert found[f"llamacpp:{name}", ()] > 0
    named.post("/completion", {"prompt": "Once upon a time", "n_predict": 1, "cache_prompt": True})
    after = samples(named.request("GET", "/metrics")[2])
    assert after["llamacpp:prompt_tokens_total", ()] == reply["tokens_evaluated"] + 1  # the rest was in the cache


TALK = [{"role": "user", "content": "How many are these?"}]
COUNTED = [
    ("/completion", {"prompt": "Once upon a time"}, lambda reply: reply["tokens_evaluated"]),
    ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 1}, lambda reply: reply["usage"]["prompt_tokens"]),
    ("/v1/chat/completions", {"messages": TALK, "max_tokens": 1}, lambda reply: reply["usage"]["prompt_tokens"]),
    ("/v1/responses", {"input": "How many?", "max_output_tokens": 16}, lambda reply: reply["usage"]["input_tokens"]),
    ("/api/generate", {"prompt": "Once", "options": {"num_predict": 1}}, lambda reply: reply["prompt_eval_count"]),
    ("/api/chat", {"messages": TALK, "options": {"num_predict": 1}}, lambda reply: reply["prompt_eval_count"]),
]


@pytest.mark.parametrize(("path", "body", "counted"), COUNTED)
def test_every_api_counts_the_tokens_of_a_prompt(server, path, body, counted):
    body = body | {"stream": False, "n_predict": 1} if path == "/completion" else body | {"stream": False}
    status, reply = server.post(path, body)
    assert status == 200, reply
    status, found = server.post(f"{path}/input_tokens", body)
    assert status == 200, found
    assert found == {"input_tokens": counted(reply), "object": "response.input_tokens"}


def test_errors_of_counts_have_the_form_of_their_api(server):
    assert isinstance(server.post("/api/chat/input_tokens", {"messages": [{"role": 5}]})[1]["error"], str)


@pytest.mark.parametrize("path", [path for path, _, _ in COUNTED])
@pytest.mark.parametrize("body", [{}, {"messages": []}, {"prompt": ""}, {"input": []}])
def test_counts_of_nothing(server, path, body):
    """Of a chat without messages, which only loads a model, it was status 500."""
    status, reply = server.post(f"{path}/input_tokens", body)
    assert status in (200, 400), reply
    assert "internal" not in str(reply)


def test_the_switches_of_the_command_line():
    from llamakit.plugins.frontends.rest.llamacpp_flags import translate
    from llamakit.plugins.frontends.rest.options import ServeOptions

    def options(line):
        found = translate(line.split()).settings
        return build_options(ServeOptions, {key.removeprefix("frontend.rest."): found[key] for key in found})

    assert options("--slots").slots == "all"
    assert options("--no-slots").slots == "off"
    assert options("--slots used").slots == "used"
    assert options("--metrics").metric_names == "llamacpp"
    assert translate(["--props"]).args == ["--props"]
